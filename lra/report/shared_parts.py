"""Computes once for each part that records share.

`lra.results.load.load_records` makes equal recipes, data, devices and versions of its records one and the same object.
So a part's identity is a cache key that needs no hashing of its contents. A part that is equal but another object is
computed again: slower, with the same result. Parts must not change once they are cached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def once_per_object(compute: Callable[[Any], T]) -> Callable[[Any], T]:
    """`compute`, with its results cached by the identity of the argument."""
    cache: dict[int, tuple[Any, T]] = {}

    def cached(part: Any) -> T:
        entry = cache.get(id(part))
        if entry is None:
            entry = cache[id(part)] = (part, compute(part))  # holding the part keeps its id from being reused
        return entry[1]

    return cached
