"""Full softmax attention: the vanilla Transformer's mixer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.layers import dropout, merge_heads, split_heads


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, rate: float = 0.0, rngs: nnx.Rngs | None = None
) -> jax.Array:
    """softmax(q kᵀ / √K) v over the keys that `mask` allows.

    Args:
        q, k, v: [B, L, H, K].
        mask: bool [B, L], False at padding. A row without any key gives the mean of all values.
        rate: dropout of the attention weights, applied when `rngs` is given.

    Returns: [B, L, H, K].
    """
    if rngs is None or rate == 0:
        return jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None, :])
    # The library's attention has no dropout, so the weights are made here while training with it.
    scores = jnp.einsum("blhk,bmhk->bhlm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
    weights = dropout(jax.nn.softmax(scores).astype(v.dtype), rate, rngs)
    return jnp.einsum("bhlm,bmhk->blhk", weights, v)


class Attention(nnx.Module):
    """Attention Is All You Need. Vaswani et al. 2017, arXiv:1706.03762, eq. 1 and section 3.2.2.

        out = concat_h(softmax(Q_h K_hᵀ / √K) V_h) W_O

    Time and memory L². Projections have no bias, as in the Long Range Arena.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        qkv = dim if qkv is None else qkv
        if qkv % heads:
            raise ValueError(f"qkv ({qkv}) must be a multiple of heads ({heads})")
        self.heads, self.rate = heads, dropout
        self.query = nnx.Linear(dim, qkv, use_bias=False, rngs=rngs)
        self.key = nnx.Linear(dim, qkv, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(dim, qkv, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(qkv, dim, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        q, k, v = (split_heads(project(x), self.heads) for project in (self.query, self.key, self.value))
        return self.out(merge_heads(attend(q, k, v, mask, self.rate, rngs)))
