"""Sparse Transformer: each position attends to its own block and to a few columns of every other block."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from models.attention.transformer import attend_with_lse
from models.core.block_attention import attend_blocks, from_blocks, merge_softmaxes
from models.core.layers import MultiHead


class Sparse(MultiHead):
    """Generating Long Sequences with Sparse Transformers. Child et al. 2019, arXiv:1904.10509, the "fixed"
    pattern of section 4.3.

        out_i = softmax_j(q_i·k_j / √K) v_j  over  {j : ⌊j / l⌋ = ⌊i / l⌋} ∪ {j : j mod l in head h's columns}

    l is `block`, and a head has c columns. Of the paper's three ways to combine the two patterns this is the
    merged head (section 4.2: both patterns in one softmax), which works for any number of heads. As in
    section 4.3, heads summarise a block by distinct columns: head h takes the h-th run of c from the block's
    end, starting over when the block has no further run.

    Time L·(l + c·L/l), memory L. With `block` 0, the default, l is ⌈√L⌉ for the model's length and the time is
    (1 + c)·L·√L. c is at most l.

    The paper generates, so its patterns look back only; an encoder looks both ways, so all blocks' columns
    are seen. A last block that L or padding cuts short has fewer columns, or none. The official code is
    causal, computes a dense L×L, and has l = 50 and c = 10 fixed.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        dropout: float = 0.0,
        rotary: bool = False,
        block: int = 0,
        c: int = 8,
        rngs: nnx.Rngs,
    ):
        if block < 0:
            raise ValueError(f"block must be at least 0 (0 for the square root of the length), not {block}")
        if c < 1 or (block and c > block):
            raise ValueError(f"c must be at least 1 and at most block ({block}), not {c}")
        super().__init__(dim, heads, qkv, dropout, rotary=rotary, rngs=rngs)
        self.block = min(block or math.isqrt(length - 1) + 1, length)
        self.c = min(c, self.block)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.join(fixed_attention(*self.project(x), mask, self.block, self.c, self.rate, rngs))


def columns(heads: int, block: int, c: int) -> jax.Array:
    """Positions within a block by which each head summarises it, int32 [H, c]."""
    run = jnp.arange(heads) % (block // c)
    return (block - (run[:, None] + 1) * c) + jnp.arange(c)[None, :]


def fixed_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    block: int,
    c: int,
    rate: float = 0.0,
    rngs: nnx.Rngs | None = None,
) -> jax.Array:
    """The paper's "fixed" attention: q, k, v [B, L, H, K] and mask [B, L] → [B, L, H, K].

    Merges two softmaxes: over the block without the head's columns, and over the columns of all blocks.
    """
    batch, length, heads, _ = q.shape
    blocks = -(-length // block)
    within = columns(heads, block, c)
    summary = (jnp.arange(blocks)[None, :, None] * block + within[:, None, :]).reshape(heads, -1).T  # [S, H]
    inside = jnp.minimum(summary, length - 1)
    keys, values = (
        jnp.take_along_axis(x, jnp.broadcast_to(inside, (batch, *inside.shape))[..., None], 1) for x in (k, v)
    )
    seen = mask[:, inside] & (summary < length)[None]
    everywhere = attend_with_lse(q, keys, values, seen, rate, rngs)

    offset = jnp.arange(length) % block
    others = mask[:, :, None] & ~(offset[:, None, None] == within[None]).any(-1)[None]
    around = attend_blocks(q, k, v, others, jnp.arange(blocks)[:, None], block, rate, rngs)
    parts = [tuple(from_blocks(x, heads, length) for x in part) for part in (everywhere, around)]
    return merge_softmaxes(parts)  # type: ignore[arg-type]
