"""Layers of Flax that keep a mode and random keys of their own, as `nnx.Dropout(rate, rngs=rngs)` in a user's mixer."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from models.core.layers import first_document

Tree = Any


def has_random_keys(state: Tree) -> bool:
    """Whether a model's state that is not trained has random keys."""
    return any(isinstance(variable, nnx.RngState) for _, variable in nnx.to_flat_state(state))


def reseed(state: Tree, rngs: nnx.Rngs) -> Tree:
    """The state with other random keys, all different, that follow from `rngs`, so that each step draws anew.

    Parts of a batch, on several devices or accumulated, draw differently from the whole batch.
    """
    key = jax.random.fold_in(rngs.dropout(), first_document(rngs))
    flat = []
    for number, (path, variable) in enumerate(nnx.to_flat_state(state)):
        if isinstance(variable, nnx.RngKey):
            variable = variable.replace(jax.random.fold_in(key, number))
        elif isinstance(variable, nnx.RngCount):
            variable = variable.replace(jax.numpy.zeros_like(variable[...]))
        flat.append((path, variable))
    return nnx.from_flat_state(flat)


def set_mode(model: nnx.Module, training: bool) -> None:
    """Sets layers with a mode, such as dropout, to training or evaluation."""
    if training:
        model.train()
    else:
        model.eval()
