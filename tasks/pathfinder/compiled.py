"""Numba's compiler for this package: compiled code is kept on disk where Numba finds a folder that it may write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:
    """Compiles a function without Python objects; other threads run meanwhile.

    Numba keeps compiled code beside the source, in the user's cache or in $NUMBA_CACHE_DIR, and refuses to compile
    where it may write in none of them, as in many containers. There, each process compiles anew.
    """
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)
