"""Attention over blocks of positions: reshaping into blocks and back, and attention to selected blocks of keys."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.flash_attention import Fixed, ScoreMod, attend_tiles, draw_dropout_seeds


def pad_length(x: jax.Array, multiple: int, axis: int = 1) -> jax.Array:
    """Pads `axis` at its end with zeros (or False) to a multiple of `multiple`."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % multiple)
    return jnp.pad(x, widths)


def to_blocks(x: jax.Array, block: int) -> jax.Array:
    """Cuts [B, L, H, K] into blocks [B·H, N, block, K], padded with zeros."""
    x = pad_length(x, block).swapaxes(1, 2)
    return x.reshape(x.shape[0] * x.shape[1], -1, block, x.shape[-1])


def mask_to_blocks(mask: jax.Array, block: int, heads: int) -> jax.Array:
    """Cuts a mask, bool [B, L] or (where heads differ) [B, L, H], into blocks [B·H, N, block], padded with False."""
    if mask.ndim == 2:
        mask = jnp.broadcast_to(mask[..., None], (*mask.shape, heads))
    return seed_blocks(mask, block)


def seed_blocks(seeds: jax.Array, block: int) -> jax.Array:
    """Cuts one entry per position and head, [B, L, H], into blocks [B·H, N, block], padded with zeros."""
    return to_blocks(seeds[..., None], block)[..., 0]


def from_blocks(x: jax.Array, heads: int, length: int) -> jax.Array:
    """Joins blocks [B·H, N, block, ...] to [B, L, H, ...], without the padding."""
    x = x.reshape(x.shape[0] // heads, heads, -1, *x.shape[3:])
    return x[:, :, :length].swapaxes(1, 2)


def attend_blocks(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    kv_blocks: jax.Array,
    block: int,
    rate: float = 0.0,
    rngs: nnx.Rngs | None = None,
    score_mod: ScoreMod | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention in which each block of queries sees only some blocks of keys.

    Args:
        q: [B, L, H, K]; k and v likewise.
        mask: bool [B, L], or [B, L, H] where heads differ: keys that may be attended to.
        kv_blocks: int32 [N, S] or [B·H, N, S], the key blocks that each query block sees; -1 for none.
        block: consecutive positions in a block; the last one is padded.
        rate: dropout of the attention weights, applied when `rngs` is given.
        rngs: random keys; None in evaluation.
        score_mod: term added to a score, from the positions of query and key.

    Returns:
        o [B·H, N, block, K], and the logarithm of its softmax's denominator [B·H, N, block].
    """
    length, heads = q.shape[1:3]
    dropout_seeds = draw_dropout_seeds(q.shape[:3], k.shape[:3], rate, rngs)
    if dropout_seeds is not None:
        dropout_seeds = seed_blocks(dropout_seeds[0], block), seed_blocks(dropout_seeds[1], block)
    seen = mask_to_blocks(mask, block, heads)
    positions = jnp.arange(length + -length % block).reshape(1, -1, block)
    positions = jnp.broadcast_to(positions, (q.shape[0] * heads, *positions.shape[1:]))
    mod_inputs = None if score_mod is None else (positions, positions)
    q, k, v = (to_blocks(x, block) for x in (q, k, v))
    return attend_tiles(q, k, v, Fixed(seen, kv_blocks, dropout_seeds, mod_inputs), rate, score_mod)


def merge_softmaxes(parts: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
    """Merges softmaxes over disjoint sets of keys into one, from each one's output o [..., K] and lse [...].

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
