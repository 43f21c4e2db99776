"""Luna: two nested linear attentions through a short packed sequence, passed from layer to layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.initial import Linear
from models.core.layers import MASKED, LayerNorm, at_least, dropout, merge_heads, split_heads


def attend(
    q: jax.Array, c: jax.Array, mask: jax.Array | None, rate: float = 0.0, rngs: nnx.Rngs | None = None
) -> jax.Array:
    """Computes softmax(q cᵀ / √K) c: queries [B, N, H, K]; c [B, M, H, K], both keys and values; `mask` [B, M]."""
    scores = jnp.einsum("blhk,bmhk->bhlm", q, c, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[:, None, None, :], scores, MASKED)
    weights = dropout(jax.nn.softmax(scores).astype(c.dtype), rate, rngs)
    return jnp.einsum("bhlm,bmhk->blhk", weights, c)


class Luna(nnx.Module):
    """Luna: Linear Unified Nested Attention. Ma et al. 2021, arXiv:2106.01540, section 3.

        Y_P = Attn(norm(P), X)      packs X into the P rows of the packed sequence
        out = Attn(X, Y_P) W_O      unpacks them to every position
        P'  = P + dropout(Y_P)      goes to the next layer; the first layer's P is learned

    Time and memory L·P for `packed` rows (the paper reports 16, 128 and 256). In each of the two attentions
    one projection serves keys and values, shared as in the paper: 5·D² parameters per layer to the
    Transformer's 4·D², +7.7 % for the model. Padded keys get no weight, so padding changes no logit.

    The encoder passes P from layer to layer: it calls `carry` where a mixer has it. `__call__` is the mixing of
    the first layer alone. The residual around P is here, in pre-norm form like the encoder's (the paper writes both in
    post-norm form), with a dropout at the encoder's rate, as in the authors' code. The packing attention is as wide as
    the model, since its result is added to P. Luna is not among the official benchmark's models.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        dropout: float = 0.0,
        residual_dropout: float = 0.0,
        layer: int = 0,
        packed: int = 16,
        rngs: nnx.Rngs,
    ):
        qkv = dim if qkv is None else qkv
        if dim % heads or qkv % heads:
            raise ValueError(f"dim ({dim}) and qkv ({qkv}) must be multiples of heads ({heads})")
        at_least(1, packed=packed)
        self.heads, self.rate, self.residual_rate = heads, dropout, residual_dropout
        first = jax.random.normal(rngs.params(), (packed, dim)) if layer == 0 else None
        self.packed = None if first is None else nnx.Param(first)
        self.norm = LayerNorm(dim, rngs=rngs)
        self.pack_query = Linear(dim, dim, use_bias=False, rngs=rngs)
        self.pack_context = Linear(dim, dim, use_bias=False, rngs=rngs)
        self.query = Linear(dim, qkv, use_bias=False, rngs=rngs)
        self.context = Linear(dim, qkv, use_bias=False, rngs=rngs)
        self.out = Linear(qkv, dim, use_bias=False, rngs=rngs)

    def carry(
        self, x: jax.Array, mask: jax.Array, carried: jax.Array | None, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """x [B, L, D] and P [B, P, D] of the previous layer (None in the first) → the mixed x and the new P."""
        if carried is None:
            if self.packed is None:
                raise ValueError("a later layer of luna needs the packed sequence of the previous layer")
            p = self.packed[...].astype(x.dtype)
            carried = jnp.broadcast_to(p, (x.shape[0], *p.shape))
        query, context = self.pack_query(self.norm(carried)), self.pack_context(x)
        y = self._attend(query, context, mask, rngs)
        mixed = self._attend(self.query(x), self.context(y), None, rngs)
        return self.out(mixed), carried + dropout(y, self.residual_rate, rngs)

    def _attend(self, q: jax.Array, c: jax.Array, mask: jax.Array | None, rngs: nnx.Rngs | None) -> jax.Array:
        q, c = split_heads(q, self.heads), split_heads(c, self.heads)
        return merge_heads(attend(q, c, mask, self.rate, rngs))

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.carry(x, mask, None, rngs)[0]
