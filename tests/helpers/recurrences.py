"""Diagonal recurrences from one position to the next, as on paper."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from tests.helpers.mixing import build


def recur(decay: Any, driven: Any, xp: Any = jnp) -> Any:
    """h_t = decay h_{t−1} + driven_t for `driven` [B, L, ...], from 0, by NumPy or its like; `decay` has no B and L."""
    h, states = xp.zeros_like(driven[:, 0]), []
    for t in range(driven.shape[1]):
        h = decay * h + driven[:, t]
        states.append(h)
    return xp.stack(states, 1)


def recur_back(decay: Any, driven: Any, xp: Any = jnp) -> Any:
    """The same from the last position to the first."""
    return recur(decay, driven[:, ::-1], xp)[:, ::-1]


def zeroed(x: Any, mask: Any, xp: Any = jnp) -> Any:
    """x [B, L, D] in single or double precision, zero at padding."""
    return xp.where(mask[..., None], x, 0).astype(xp.float64 if x.dtype == "float64" else xp.float32)


def pair(array: Any) -> Any:
    """[..., 2] → complex [...]."""
    return array[..., 0] + 1j * array[..., 1]


def build_stable(name: str, **options: Any) -> Any:
    """A randomised mixer whose `decay`, if it has one, lets no state grow."""
    mixer = build(name, **options)
    if hasattr(mixer, "decay"):
        mixer.decay[...] = -jnp.abs(mixer.decay[...]) - 0.01
    return mixer
