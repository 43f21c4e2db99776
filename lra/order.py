"""The order of training examples: a pure function of (seed, step), with nothing to store or to resume.

Every epoch visits the examples in an order of its own, a permutation that can be evaluated at any single
place. It is the swap-or-not shuffle (Hoang, Morris & Rogaway 2012, "An Enciphering Scheme Based on a Card
Shuffle"): in each of r rounds, x and its partner (k_r − x) mod n are swapped, or not, by one bit that depends
on the larger of the two. Works on NumPy and JAX arrays alike, with equal results.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax
import numpy as np

ROUNDS = 40
"""At least 2 log₂ n for n up to a million; the shuffle is a permutation with any number of rounds."""


def examples(steps: Any, batch: int, count: int, seed: Any, xp: ModuleType) -> Any:
    """Rows of the training split that make the batches of `steps`, uint32 [*steps.shape, batch].

    Batches run on over the end of an epoch, so no example is dropped or doubled within one.

    Args:
        steps: steps, counted from 0; integers that may be traced. step × batch must stay below 2³².
        count: examples in the split.
        seed: below 2³²; may be traced.
        xp: `numpy` or `jax.numpy`.
    """
    place = xp.asarray(steps).astype(xp.uint32)[..., None] * xp.uint32(batch) + xp.arange(batch, dtype=xp.uint32)
    n = xp.uint32(count)
    return permute(place % n, count, _hash(_hash(place // n) ^ xp.asarray(seed).astype(xp.uint32)), xp)


def permute(x: Any, count: int, key: Any, xp: ModuleType) -> Any:
    """Where the permutation of 0 … count − 1 chosen by `key` sends x. uint32 arrays of one shape."""
    n = xp.uint32(count)

    def swap_or_not(number: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        x, key = state
        key = _hash(key + xp.asarray(number).astype(xp.uint32) + xp.uint32(0x9E3779B9))
        partner = (key % n + n - x) % n
        larger = xp.maximum(x, partner)
        return xp.where(_hash(larger ^ key) & xp.uint32(1) == 0, x, partner), key

    if xp is not np:
        return jax.lax.fori_loop(0, ROUNDS, swap_or_not, (x, key))[0]
    for number in range(ROUNDS):
        x, key = swap_or_not(np.array([number]), (x, key))
    return x


def _hash(x: Any) -> Any:
    """A bijective mixer of 32 bits (the constants are those of Wellons' hash prospector, lowbias32)."""
    u = x.dtype.type
    x = (x ^ (x >> u(16))) * u(0x7FEB352D)
    x = (x ^ (x >> u(15))) * u(0x846CA68B)
    return x ^ (x >> u(16))
