"""Random arrays that a mixer draws anew at intervals while it trains, as Performer does its random features."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import jax
from flax import nnx

from models.core.layers import Constant


class Redrawn(Constant):
    """A `Constant` that training draws anew every few steps; evaluation takes the values of the last step."""


@runtime_checkable
class RedrawingMixer(Protocol):
    """A mixer with `Redrawn` variables."""

    redraw_every: int
    """Steps between redraws; 0: never."""

    def redraw(self, key: jax.Array) -> None:
        """Draws every `Redrawn` variable anew, of the same shape and type."""
        ...


def redrawn(model: nnx.Module, key: jax.Array, step: jax.Array) -> nnx.State:
    """The `Redrawn` variables of `model` at `step`: those of the mixers whose turn it is, drawn anew.

    It is the turn of every `redraw_every`-th step; those of step 0 are from when the model was built.

    Args:
        model: with the variables of the step before; it gets the new ones.
        key: a random key of this step; each mixer gets its own.
        step: int32.

    Raises:
        ValueError: a mixer redraws and has nothing that is `Redrawn`.
    """
    mixers = [m for _, m in nnx.iter_modules(model) if isinstance(m, RedrawingMixer) and m.redraw_every > 0]
    for number, mixer in enumerate(mixers):
        graph, before, rest = nnx.split(mixer, Redrawn, ...)
        if not jax.tree.leaves(before):
            raise ValueError(f"{type(mixer).__name__} has redraw_every, but no variable that is Redrawn")

        def draw(
            before: nnx.State, mixer_key: jax.Array, graph: nnx.GraphDef = graph, rest: nnx.State = rest
        ) -> nnx.State:
            copy = nnx.merge(graph, before, rest)
            copy.redraw(mixer_key)
            return nnx.state(copy, Redrawn)

        due = (step > 0) & (step % mixer.redraw_every == 0)
        own_key = jax.random.fold_in(key, number)
        nnx.update(mixer, jax.lax.cond(due, draw, lambda before, _: before, before, own_key))
    return nnx.state(model, Redrawn)
