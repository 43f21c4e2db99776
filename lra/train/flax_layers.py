"""Layers of Flax that keep a mode and random keys of their own, as `nnx.Dropout(rate, rngs=rngs)` in a user's mixer."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from models.core.layers import first_document

Tree = Any


def reseed(state: Tree, rngs: nnx.Rngs) -> Tree:
    """The state with other random keys, all different, that follow from `rngs`, so that each step draws anew.

    Parts of a batch, on several devices or accumulated, draw differently from the whole batch. A model without keys of
    its own takes none from `rngs`.
    """
    variables = nnx.to_flat_state(state)
    if not any(isinstance(variable, nnx.RngState) for _, variable in variables):
        return state
    key = jax.random.fold_in(rngs.dropout(), first_document(rngs))
    flat = []
    for number, (path, variable) in enumerate(variables):
        if isinstance(variable, nnx.RngKey):
            variable = variable.replace(jax.random.fold_in(key, number))
        elif isinstance(variable, nnx.RngCount):
            variable = variable.replace(jax.numpy.zeros_like(variable[...]))
        flat.append((path, variable))
    return nnx.from_flat_state(flat)
