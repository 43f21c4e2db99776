"""Passes over a long sequence in chunks of positions, so that features of all L of them need not be in memory.

A chunk is made again in the backward pass (jax.checkpoint), so what is kept are a pass's inputs and results.
As in `flash_attention` a chunk fills a CPU's cache or a part of an accelerator's memory; there a short input
is one chunk, and nothing loops.

Shapes: G problems (batch × heads), each in N chunks of c positions; K a head's width, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from models.core.block_attention import mask_to_blocks, to_blocks
from models.core.flash_attention import LOW, plan

LIVE = 8
"""Of a CPU's cache a chunk's features take one part in so many: several arrays of them are alive at once."""


def cut(features: int, mask: jax.Array, *arrays: jax.Array) -> tuple[int, tuple[jax.Array, ...]]:
    """Heads' positions in chunks.

    Args:
        features: the entries a position has where it has most, which decides how many are a chunk.
        mask: bool [B, L]; arrays: [B, L, H, K].

    Returns: how many problems to compute at once, for `over`; mask [G, N, c], arrays [G, N, c, K], with False
    and zeros after the end.
    """
    batch, length, heads = arrays[0].shape[:3]
    backend = jax.default_backend()
    lanes, rows = plan(backend, batch * heads, length, features * (LIVE if backend == "cpu" else 1))
    return lanes, (mask_to_blocks(mask, rows, heads), *(to_blocks(x, rows) for x in arrays))


def over(lanes: int, one: Callable[..., Any], *xs: Any) -> Any:
    """`one(*x)` of every problem of trees xs of [G, ...], `lanes` of them at once."""
    if lanes == len(jax.tree.leaves(xs)[0]):
        return jax.vmap(one)(*xs)
    return lax.map(lambda x: one(*x), xs, batch_size=lanes)


def exp_below(x: jax.Array) -> jax.Array:
    """exp of what is at most zero, but for rounding and for masked positions, which must not overflow."""
    return jnp.exp(jnp.where(x < 1, x, 0))


def each(f: Callable[[jax.Array], jax.Array], xs: jax.Array) -> jax.Array:
    """f(chunk) of every chunk of [N, c, ...]."""
    f = jax.checkpoint(f, prevent_cse=False)
    return f(xs[0])[None] if len(xs) == 1 else lax.map(f, xs)


def largest(f: Callable[[jax.Array], jax.Array], xs: jax.Array, mask: jax.Array) -> jax.Array:
    """The largest f(chunk) [c, F] over the positions [N, c] that `mask` allows, [F]; LOW without any. No gradient."""

    def top(x: tuple[jax.Array, jax.Array]) -> jax.Array:
        # Stopped in here, for f may hold arrays that have gradients, which would keep what this pass makes.
        return jnp.where(x[1][:, None], lax.stop_gradient(f(x[0])), LOW).max(0)

    return _fold(jnp.maximum, LOW, top, (xs, mask))


def gather(
    f: Callable[[jax.Array], jax.Array], xs: jax.Array, v: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Σ f(x_m) v_mᵀ and Σ f(x_m) over the positions m that `mask` [N, c] allows.

    Args:
        f: [c, ...] → features float32 [c, F], of which those of other positions may be anything but infinite.
        v: [N, c, K]; the product is in its type, summed in float32.

    Returns: float32 [F, K] and [F].
    """

    def part(x: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        xs, v, real = x
        # The column of ones makes the second sum in the first one's product.
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
