"""Passes over a long sequence in chunks of positions, so that the features of all L are never in memory at once.

The backward pass recomputes each chunk (jax.checkpoint), so only a pass's inputs and results are kept. As in
`flash_attention`, a chunk fills a CPU's cache or part of an accelerator's memory; there a short input is one
chunk, without a loop.

Shapes: G problems (batch × heads), each in N chunks of c positions; head width K, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from models.core.block_attention import mask_to_blocks, to_blocks
from models.core.flash_attention import plan_tiles
from models.core.layers import MASKED

LIVE = 8
"""A chunk's features take 1/LIVE of a CPU's cache: several arrays of them are alive at once."""


def to_chunks(features: int, mask: jax.Array, *arrays: jax.Array) -> tuple[int, tuple[jax.Array, ...]]:
    """Cuts the positions of each head into chunks.

    Args:
        features: the most entries that a position ever has; decides the size of a chunk.
        mask: bool [B, L].
        *arrays: [B, L, H, K].

    Returns:
        How many problems to compute at once, for `map_heads`, and (mask [G, N, c], *arrays [G, N, c, K]), padded
        with False and zeros.
    """
    batch, length, heads = arrays[0].shape[:3]
    backend = jax.default_backend()
    heads_at_once, rows = plan_tiles(backend, batch * heads, length, features * (LIVE if backend == "cpu" else 1))
    return heads_at_once, (mask_to_blocks(mask, rows, heads), *(to_blocks(x, rows) for x in arrays))


def map_heads(heads_at_once: int, f: Callable[..., Any], *xs: Any) -> Any:
    """Maps f(*x) over the problems of trees xs of [G, ...], `heads_at_once` at a time."""
    if heads_at_once == len(jax.tree.leaves(xs)[0]):
        return jax.vmap(f)(*xs)
    return lax.map(lambda x: f(*x), xs, batch_size=heads_at_once)


def exp_below(x: jax.Array) -> jax.Array:
    """exp(x) for x that is at most zero up to rounding; larger x, at masked positions, gives 1 and cannot overflow."""
    return jnp.exp(jnp.where(x < 1, x, 0))


def map_chunks(f: Callable[[jax.Array], jax.Array], xs: jax.Array) -> jax.Array:
    """Maps f over the chunks of [N, c, ...]."""
    f = jax.checkpoint(f, prevent_cse=False)
    return f(xs[0])[None] if len(xs) == 1 else lax.map(f, xs)


def masked_max(f: Callable[[jax.Array], jax.Array], xs: jax.Array, mask: jax.Array) -> jax.Array:
    """Largest f(chunk) [c, F] over the positions that `mask` [N, c] allows: [F], MASKED if none. No gradient."""

    def top(x: tuple[jax.Array, jax.Array]) -> jax.Array:
        # Stopped in here: f may close over arrays with gradients, which would keep this pass's intermediate results.
        return jnp.where(x[1][:, None], lax.stop_gradient(f(x[0])), MASKED).max(0)

    return _fold(jnp.maximum, MASKED, top, (xs, mask))


def weighted_sums(
    f: Callable[[jax.Array], jax.Array], xs: jax.Array, v: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sums f(x_m) v_mᵀ and f(x_m) over the positions m that `mask` allows.

    Args:
        f: [c, ...] → features float32 [c, F]; finite at masked positions too.
        xs: [N, c, ...].
        v: [N, c, K]; the product is in its type, summed in float32.
        mask: bool [N, c].

    Returns:
        Float32 [F, K] and [F].
    """

    def part(x: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        xs, v, real = x
        # The column of ones gives the second sum in the same product.
        v = jnp.pad(v, ((0, 0), (0, 1)), constant_values=1)
        v = jnp.where(real[:, None], v, jnp.zeros((), v.dtype))
        return jnp.einsum("ck,cf->kf", v, f(xs).astype(v.dtype), preferred_element_type=jnp.float32)

    total = _fold(jnp.add, 0, jax.checkpoint(part, prevent_cse=False), (xs, v, mask))
    return total[:-1].T, total[-1]


def _fold(add: Callable[..., jax.Array], start: float, f: Callable[[Any], jax.Array], xs: Any) -> jax.Array:
    first = jax.tree.map(lambda x: x[0], xs)
    if len(jax.tree.leaves(xs)[0]) == 1:
        return f(first)
    y = jax.eval_shape(f, first)
    return lax.scan(lambda total, x: (add(total, f(x)), None), jnp.full(y.shape, start, y.dtype), xs)[0]
