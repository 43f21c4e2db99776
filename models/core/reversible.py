"""Reversible residual blocks: the backward pass recomputes each block's input from its output.

The Reversible Residual Network: Backpropagation Without Storing Activations. Gomez et al. 2017,
arXiv:1707.04585; for Transformers: Reformer, Kitaev et al. 2020, arXiv:2001.04451, section 3.

    y1 = x1 + mixer(norm(x2)),  y2 = x2 + mlp(norm(y1))
    back: x2 = y2 − mlp(norm(y1)),  x1 = y1 − mixer(norm(x2))

Both streams start as the embedding, and their mean is the output. The activations held do not depend on the number
of blocks; the price is one more forward pass. Streams are float32, so that undoing a sum costs no more than its
rounding; a block computes in its input's type.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from models.core.layers import BatchRngs, first_document

Streams = tuple[jax.Array, jax.Array]


class TwoHalves(Protocol):
    """A block whose halves can be called separately; each returns what it adds to its residual stream."""

    def mix(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None) -> jax.Array: ...

    def feed(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None) -> jax.Array: ...


def run_reversibly(blocks: Sequence[TwoHalves], x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
    """Runs x [B, L, D] through all blocks as two streams and returns the streams' mean.

    Consecutive blocks of the same structure are one loop: outside a loop, the compiler may defer the parameters'
    gradients to the end, and so keep everything they are computed from.
    """
    streams = (x.astype(jnp.float32),) * 2
    split = [nnx.split(block, nnx.Param, ...) for block in blocks]
    for graph, run in groupby(split, key=lambda parts: parts[0]):
        params, other_state = (
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
            for states in zip(*((p, r) for _, p, r in run), strict=True)
        )
        count = jax.tree.leaves(params)[0].shape[0]
        keys = None if rngs is None else jax.random.split(rngs.dropout(), (count, 2))
        first = None if rngs is None else first_document(rngs)
        streams = _run((graph, x.dtype), params, streams, (other_state, keys, (mask, first)))
    return (0.5 * (streams[0] + streams[1])).astype(x.dtype)


def _halves(static: Any, other_state: Any, keys: jax.Array | None, documents: Any) -> tuple[Any, Any]:
    """Returns a block's halves as functions (parameters, stream) → what is added, float32."""
    graph, dtype = static
    mask, first = documents

    def half(which: int, params: Any, x: jax.Array) -> jax.Array:
        block: TwoHalves = nnx.merge(graph, params, other_state)
        rngs = None if keys is None else BatchRngs(keys[which], first)
        x = x.astype(dtype)
        return (block.mix if which == 0 else block.feed)(x, mask, rngs).astype(jnp.float32)

    return partial(half, 0), partial(half, 1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(static: Any, params: Any, streams: Streams, fixed: Any) -> Streams:
    """Runs a loop over blocks, the first axis of all arrays of `params` and of the first two parts of `fixed`."""
    other_state, keys, documents = fixed

    def block(streams: Streams, inputs: Any) -> tuple[Streams, None]:
        x1, x2 = streams
        params, other_state, keys = inputs
        mix, feed = _halves(static, other_state, keys, documents)
        x1 = x1 + mix(params, x2)
        return (x1, x2 + feed(params, x1)), None

    return lax.scan(block, streams, (params, other_state, keys))[0]


def _forward(static: Any, params: Any, streams: Streams, fixed: Any) -> tuple[Streams, Any]:
    streams = _run(static, params, streams, fixed)
    return streams, (params, fixed, streams)


def _backward(static: Any, saved: Any, gradients: Streams) -> Any:
    params, (other_state, keys, documents), streams = saved

    def block(carry: tuple[Streams, Streams], inputs: Any) -> tuple[tuple[Streams, Streams], Any]:
        (x1, x2), (g1, g2) = carry
        params, other_state, keys = inputs
        mix, feed = _halves(static, other_state, keys, documents)
        added, pullback = jax.vjp(feed, params, x1)
        x2 = x2 - added
        by_feed, g_x1 = pullback(g2)
        g1 = g1 + g_x1
        added, pullback = jax.vjp(mix, params, x2)
        x1 = x1 - added
        by_mix, g_x2 = pullback(g1)
        return ((x1, x2), (g1, g2 + g_x2)), jax.tree.map(jnp.add, by_feed, by_mix)

    (_, gradients), grads = lax.scan(block, (streams, gradients), (params, other_state, keys), reverse=True)
    return grads, gradients, None


_run.defvjp(_forward, _backward)
