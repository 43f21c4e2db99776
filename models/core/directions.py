"""Runs what reads from left to right, or in both directions, over each document's real part.

Shapes: B documents, L positions, D features.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.layers import take_positions

Causal = Callable[[jax.Array, jax.Array], jax.Array]
"""x [B, L, D], mask [B, L] → [B, L, any], of which a position knows only itself and what is before it."""


def backward_gain(width: int) -> nnx.Param[jax.Array]:
    """The gain [width] of what is read from the end: 1 and −1 by turns at first.

    With a gain of 1 everywhere a mixer would be its own mirror image, and a model without positions could not tell a
    text from its reverse, whatever it learnt.
    """
    return nnx.Param(jnp.where(jnp.arange(width) % 2, -1.0, 1.0))


def read(f: Causal, x: jax.Array, mask: jax.Array, backward: nnx.Param[jax.Array] | None) -> jax.Array:
    """Computes f(x), and with `backward` f(x) + backward ⊙ reversed(f(reversed(x))).

    Only the positions up to the last real one are reversed. Both directions share f's parameters. They run as one batch
    of 2 B, so f must not draw at random by document.

    Args:
        f: reads from left to right.
        x: [B, L, D].
        mask: bool [B, L].
        backward: the gain of the second direction, [features of f(x)], as `backward_gain` starts; None for one way.
    """
    if backward is None:
        return f(x, mask)
    back, back_mask = reverse(x, mask), reverse(mask, mask)
    y = f(jnp.concatenate([x, back]), jnp.concatenate([mask, back_mask]))
    first, second = jnp.split(y, 2)
    return first + backward[...].astype(y.dtype)[None, None, :] * reverse(second, mask)


def reverse(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Reverses x [B, L, …] from the first position to the last real one of `mask` [B, L]; what follows stays.

    It undoes itself under the same mask, also where the mask has holes, and is its own transpose, as the gradient uses.
    """
    length = mask.shape[1]
    at = jnp.arange(length)[None, :]
    last = jnp.max(jnp.where(mask, at, -1), axis=1, keepdims=True)
    return _permute(x, jnp.where(at <= last, last - at, at))


@jax.custom_vjp
def _permute(x: jax.Array, order: jax.Array) -> jax.Array:
    """x[b, order[b, l]], for orders that are their own inverse."""
    return take_positions(x, order)


def _permute_forward(x: jax.Array, order: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _permute(x, order), order


def _permute_backward(order: jax.Array, g: jax.Array) -> tuple[jax.Array, None]:
    return _permute(g, order), None  # as the scatter-add that JAX would derive, which is slow


_permute.defvjp(_permute_forward, _permute_backward)
