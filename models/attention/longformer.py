"""Longformer: a sliding window for every position, and a few global tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.attention.transformer import attend
from models.core.block_attention import attend_blocks, from_blocks
from models.core.initial import Linear
from models.core.layers import MASKED, MultiHead, at_least, split_heads
from models.core.positions import rotate


class Longformer(MultiHead):
    """Longformer: The Long-Document Transformer. Beltagy et al. 2020, arXiv:2004.05150, section 3.1.

        out_i = softmax_j(q_i·k_j / √K) v_j  over  {j : |i − j| ≤ window / 2} ∪ {j < tokens}   for i ≥ tokens
        out_i = softmax_j(q'_i·k'_j / √K) v'_j  over all j                                     for i < tokens

    q', k', v' have separate projections (section 3.1, "linear projections for global attention"): 3·D·qkv more
    parameters per layer, 4,273,922 in the Text shape (the Transformer has 3,487,490). The first `tokens`
    positions are global: CLS with CLS pooling (as in the paper for classification), else the input's first
    token. Time L·(window + tokens), memory L.

    Dilated windows, which the paper uses for character models, are left out, as in its classifiers. The
    official code has no global token, computes two dense L×L attentions, and its global projections never get
    a gradient. Its window of w positions includes the query's own, so where w is even it reaches w/2 to the right
    and one less to the left.
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
        window: int = 512,
        tokens: int = 1,
        rngs: nnx.Rngs,
    ):
        if window < 2 or window % 2:
            raise ValueError(f"window must be an even number of at least 2, not {window}")
        at_least(0, tokens=tokens)
        super().__init__(dim, heads, qkv, dropout, rotary=rotary, rngs=rngs)
        self.window, self.tokens = window, min(tokens, length)
        if self.tokens:
            width = dim if qkv is None else qkv
            self.global_query = Linear(dim, width, use_bias=False, rngs=rngs)
            self.global_key = Linear(dim, width, use_bias=False, rngs=rngs)
            self.global_value = Linear(dim, width, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        o = window_attention(*self.project(x), mask, self.window, self.tokens, self.rate, rngs)
        if self.tokens:
            q, k, v = (
                split_heads(project(part), self.heads)
                for project, part in (
                    (self.global_query, x[:, : self.tokens]),
                    (self.global_key, x),
                    (self.global_value, x),
                )
            )
            if self.rotary:
                q, k = rotate(q), rotate(k)
            first = attend(q, k, v, mask, self.rate, rngs)
            o = jnp.concatenate([first, o[:, self.tokens :]], axis=1)
        return self.join(o)


def window_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    window: int,
    tokens: int,
    rate: float = 0.0,
    rngs: nnx.Rngs | None = None,
) -> jax.Array:
    """Attention of each position to its window and the first `tokens` positions; q, k, v [B, L, H, K] → [B, L, H, K].

    A block of queries sees the key blocks that its windows touch; `score_mod` masks what is outside each window.
    """
    length, heads = q.shape[1:3]
    half = min(window // 2, length)
    block = min(max(16, tokens, half // 4), max(64, tokens), length)
    blocks, reach = -(-length // block), -(-half // block)
    near = jnp.arange(blocks)[:, None] + jnp.arange(-reach, reach + 1)[None, :]
    near = jnp.where((near >= 0) & (near < blocks), near, -1)
    first = jnp.where((near == 0).any(1) | (tokens == 0), -1, 0)

    def score_mod(i: jax.Array, j: jax.Array) -> jax.Array:
        inside = (jnp.abs(i[:, None] - j[None, :]) <= half) | (j < tokens)[None, :]
        return jnp.where(inside, 0.0, MASKED)

    kv_blocks = jnp.concatenate([near, first[:, None]], axis=1)
    o, _ = attend_blocks(q, k, v, mask, kv_blocks, block, rate, rngs, score_mod)
    return from_blocks(o, heads, length)
