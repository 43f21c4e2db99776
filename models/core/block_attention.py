"""What the attention mixers share round their mathematics: projections, and the way into blocks and back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.flash_attention import Fixed, Rule, attend_tiles, draw_words


def pad_length(x: jax.Array, multiple: int, axis: int = 1) -> jax.Array:
    """Zeros (or False) after the end of `axis`, up to a multiple."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % multiple)
    return jnp.pad(x, widths)


def to_blocks(x: jax.Array, block: int) -> jax.Array:
    """[B, L, H, K] → [B·H, N, block, K], zeros after the end."""
    x = pad_length(x, block).swapaxes(1, 2)
    return x.reshape(x.shape[0] * x.shape[1], -1, block, x.shape[-1])


def mask_to_blocks(mask: jax.Array, block: int, heads: int) -> jax.Array:
    """bool [B, L], or [B, L, H] where heads differ → [B·H, N, block], False after the end."""
    if mask.ndim == 2:
        mask = jnp.broadcast_to(mask[..., None], (*mask.shape, heads))
    return word_blocks(mask, block)


def word_blocks(words: jax.Array, block: int) -> jax.Array:
    """[B, L, H] → [B·H, N, block], zeros after the end."""
    return to_blocks(words[..., None], block)[..., 0]


def from_blocks(x: jax.Array, heads: int, length: int) -> jax.Array:
    """[B·H, N, block, ...] → [B, L, H, ...], without what was padded."""
    x = x.reshape(x.shape[0] // heads, heads, -1, *x.shape[3:])
    return x[:, :, :length].swapaxes(1, 2)


def attend_blocks(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    table: jax.Array,
    block: int,
    rate: float = 0.0,
    rngs: nnx.Rngs | None = None,
    rule: Rule | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention in which a block of queries sees the blocks of keys that a table names.

    Args:
        q, k, v: [B, L, H, K]; blocks are L's consecutive `block` positions, the last one padded.
        mask: bool [B, L], or [B, L, H] where heads differ: the keys that may be attended to.
        table: int32 [N, S] or [B·H, N, S], the key blocks that each query block sees, -1 for none.
        rate: dropout of the attention weights, applied when `rngs` is given.
        rule: what a pair's score is raised by, from the positions of query and key.

    Returns: o [B·H, N, block, K], and the logarithm of its softmax's denominator [B·H, N, block].
    """
    length, heads = q.shape[1:3]
    words = draw_words(q.shape[:3], k.shape[:3], rate, rngs)
    if words is not None:
        words = word_blocks(words[0], block), word_blocks(words[1], block)
    seen = mask_to_blocks(mask, block, heads)
    positions = jnp.arange(length + -length % block).reshape(1, -1, block)
    positions = jnp.broadcast_to(positions, (q.shape[0] * heads, *positions.shape[1:]))
    tags = None if rule is None else (positions, positions)
    q, k, v = (to_blocks(x, block) for x in (q, k, v))
    return attend_tiles(q, k, v, Fixed(seen, table, words, tags), rate, rule)


def merge_softmaxes(parts: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
    """One softmax over disjoint key sets from those over each: outputs o [..., K] with their lse [...].

    o = Σ_s exp(lse_s) o_s / Σ_s exp(lse_s); 0 where all sets are empty.
    """
    top = parts[0][1]
    for _, lse in parts[1:]:
        top = jnp.maximum(top, lse)
    weights = [jnp.exp(lse - jax.lax.stop_gradient(top)) for _, lse in parts]
    total = sum(weights[1:], weights[0])
    return sum(  # type: ignore[return-value]
        (w / total)[..., None].astype(o.dtype) * o for w, (o, _) in zip(weights, parts, strict=True)
    )
