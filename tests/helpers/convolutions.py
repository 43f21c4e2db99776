"""Convolutions along positions, as on paper: with the whole matrix from positions to positions."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np


def convolved(u: Any, kernel: Any, backward: Any = None, xp: Any = jnp) -> Any:
    """y_t = Σ_{s ≤ t} kernel_{t−s} u_s + Σ_{s > t} backward_{s−t−1} u_s, by NumPy or its like.

    u is [B, L, H]; the kernels are [H, at least L].
    """
    at = np.arange(u.shape[1])
    lag = at[:, None] - at
    matrix = xp.where(lag >= 0, kernel[:, np.maximum(lag, 0)], 0)
    if backward is not None:
        matrix = xp.where(lag < 0, backward[:, np.maximum(-lag - 1, 0)], matrix)
    return xp.einsum("hts,bsh->bth", matrix, u)
