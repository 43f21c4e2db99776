"""Linformer: attention over keys and values projected to a short sequence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.initial import over_positions
from models.core.layers import Projections, at_least, dropout, split_heads


def shorten(x: jax.Array, projection: jax.Array, mask: jax.Array) -> jax.Array:
    """Computes Eᵀ x over the real positions: x [B, L, D], E `projection` [≥ L, R] and `mask` [B, L] → [B, R, D]."""
    x = jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))
    return jnp.einsum("bld,lr->brd", x, projection[: x.shape[1]].astype(x.dtype))


def attend(q: jax.Array, k: jax.Array, v: jax.Array, rate: float = 0.0, rngs: nnx.Rngs | None = None) -> jax.Array:
    """Computes softmax(q kᵀ / √K) v of queries [B, L, H, K] over R keys and values [B, R, H, K], without a mask."""
    scores = jnp.einsum("blhk,brhk->bhlr", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    weights = dropout(jax.nn.softmax(scores).astype(v.dtype), rate, rngs)
    return jnp.einsum("bhlr,brhk->blhk", weights, v)


class Linformer(nnx.Module):
    """Linformer: Self-Attention with Linear Complexity. Wang et al. 2020, arXiv:2006.04768, eq. 7.

        out = concat_h(softmax(Q_h (Eᵀ K_h)ᵀ / √K) (Eᵀ V_h)) W_O,    E [L, R] learned

    Time and memory L·R. Heads, keys and values of a layer share one E (the paper's "key-value sharing"), with
    L·R parameters. As E acts on positions and W_K on channels, Eᵀ(x W_K) = (Eᵀ x) W_K: x is shortened once, and
    keys and values are projected at R positions instead of L, which saves half the projections' work.

    Padding: the paper has none. Here padded positions are zeroed before they are projected, so that their
    content never matters, and an input shorter than L uses E's first rows: logits do not depend on the padding.
    A short document's projected keys are sums of fewer terms.

    The official benchmark ignores the mask here, and always runs with rank 16: its Text recipe's 32 never
    reaches the model.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        dropout: float = 0.0,
        rank: int = 16,
        rngs: nnx.Rngs,
    ):
        at_least(1, rank=rank)
        self.rate = dropout
        self.projections = Projections(dim, heads, qkv, rngs=rngs)
        # With variance 1/L, a projected key of a full-length input has the variance of a key.
        self.shortening = nnx.Param(over_positions(rngs, (length, rank), length**-0.5))

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        p = self.projections
        short = shorten(x, self.shortening[...], mask)
        inputs = ((p.query, x), (p.key, short), (p.value, short))
        q, k, v = (split_heads(project(rows), p.heads) for project, rows in inputs)
        return p.join(attend(q, k, v, self.rate, rngs))
