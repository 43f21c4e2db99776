"""Synthesizer: attention weights that are learned, or computed from single tokens, without queries and keys."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.initial import Linear, head_kernels, over_positions
from models.core.layers import MASKED, Constant, at_least, dropout, merge_heads, split_heads

KINDS = ("random", "fixed", "dense", "factorised_random", "factorised_dense", "dot")


def synthesise(
    scores: jax.Array, v: jax.Array, mask: jax.Array, rate: float = 0.0, rngs: nnx.Rngs | None = None
) -> jax.Array:
    """Computes softmax(scores) v over the keys that `mask` allows.

    Args:
        scores: float32 [B, H, L, L], or [H, L, L] where all examples share them: then no weights per example are
            computed, and one draw of the dropout serves the batch.
        v: [B, L, H, K].
        mask: bool [B, L]; a row without any key gives zero.
        rate: dropout of the weights, applied when `rngs` is given.
        rngs: random keys; None in evaluation.
    """
    shared = scores.ndim == 3
    if not shared:
        scores = jnp.where(mask[:, None, None, :], scores, MASKED)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    real = mask[..., None, None]
    v = jnp.where(real, v, jnp.zeros((), v.dtype))
    dropped = dropout(weights, rate, rngs, shared).astype(v.dtype)
    if not shared:
        above = jnp.einsum("bhlm,bmhk->blhk", dropped, v, preferred_element_type=jnp.float32)
        below = jnp.einsum("bhlm,bm->blh", weights, mask.astype(jnp.float32))
    else:
        above = jnp.einsum("hlm,bmhk->blhk", dropped, v, preferred_element_type=jnp.float32)
        below = jnp.einsum("hlm,bm->blh", weights, mask.astype(jnp.float32))
    return (above / jnp.maximum(below, 1e-15)[..., None]).astype(v.dtype)


class Dense(nnx.Module):
    """F(x_i) = W₂ relu(W₁ x_i + b₁) + b₂ for every head: [B, L, D] → float32 [B, H, L, `size`]."""

    def __init__(self, dim: int, heads: int, qkv: int, size: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.into = Linear(dim, qkv, rngs=rngs)
        self.out = nnx.Param(head_kernels(rngs, (heads, qkv // heads, size)))
        self.bias = nnx.Param(jnp.zeros((heads, size)))

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = split_heads(jax.nn.relu(self.into(x)), self.heads)
        y = jnp.einsum("blhk,hks->bhls", hidden, self.out[...].astype(x.dtype)).astype(jnp.float32)
        return y + self.bias[...].astype(jnp.float32)[None, :, None, :]


class Synthesizer(nnx.Module):
    """Synthesizer: Rethinking Self-Attention for Transformer Models.

    Tay et al. 2020, arXiv:2005.00743, section 3:

        out = concat_h(softmax(S_h) V_h) W_O,    with S_h by `kind`
        random               R                      learned, [L, L]
        fixed                R                      drawn once, never trained
        dense                S[i, :] = F(x_i)       F as in `Dense`
        factorised_random    R₁ R₂ᵀ                 learned, [L, rank] each
        factorised_dense     S[i, j] = A[i, j mod a] B[i, j div a],    A = F_A(x), B = F_B(x), a·b ≥ L
        dot                  Q Kᵀ / √K              the Transformer's own
        kinds joined by +    Σ_n α_n S_n            the mixture, α learned, Σ α = 1

    Time L²·D, memory H·L² (B·H·L² where S depends on the input). Learned weights over positions grow with L
    (random: H·L² per layer, 18,995,218 parameters at length 1,000, the Transformer 3,487,490; dense: L·H·K), and
    fewer would be another model; the factorised kinds have the Transformer's size.

    Padded keys get no weight, and an input shorter than L uses the first rows and columns, so padding changes
    no logit. Dropout of the random kinds' weights is drawn once per batch.

    The official benchmark's default, from which the published score comes, adds R to the dot product
    (`random+dot`, there without α). Its dense kind has one W₂ and no b for all heads, and reads the scores
    [B, L, H, S] as [B, H, L, S] without a transpose, so that a row mixes heads and positions. Its Text recipe's mode,
    rank and "ignore dot product" never reach the model.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        dropout: float = 0.0,
        kind: str = "random",
        rank: int = 8,
        rngs: nnx.Rngs,
    ):
        qkv = dim if qkv is None else qkv
        if qkv % heads:
            raise ValueError(f"qkv ({qkv}) must be a multiple of heads ({heads})")
        at_least(1, rank=rank)
        self.kinds = tuple(kind.split("+"))
        for name in self.kinds:
            if name not in KINDS or self.kinds.count(name) > 1:
                raise ValueError(f"kind must be one or more of {', '.join(KINDS)}, joined by +, not {kind!r}")
        self.heads, self.rate = heads, dropout
        self.value = Linear(dim, qkv, use_bias=False, rngs=rngs)
        self.out = Linear(qkv, dim, use_bias=False, rngs=rngs)
        self.alpha = nnx.Param(jnp.zeros(len(self.kinds))) if len(self.kinds) > 1 else None
        if "random" in self.kinds:
            self.random = nnx.Param(over_positions(rngs, (heads, length, length), 1.0))
        if "fixed" in self.kinds:
            self.fixed = Constant(over_positions(rngs, (heads, length, length), 1.0))
        if "dense" in self.kinds:
            self.dense = Dense(dim, heads, qkv, length, rngs=rngs)
        if "factorised_random" in self.kinds:
            # The entries of their product have variance 1, like R's.
            self.rows, self.columns = (
                nnx.Param(over_positions(rngs, (heads, length, rank), rank**-0.25)) for _ in range(2)
            )
        if "factorised_dense" in self.kinds:
            self.a = math.isqrt(length - 1) + 1
            self.dense_a = Dense(dim, heads, qkv, self.a, rngs=rngs)
            self.dense_b = Dense(dim, heads, qkv, -(-length // self.a), rngs=rngs)
        if "dot" in self.kinds:
            self.query = Linear(dim, qkv, use_bias=False, rngs=rngs)
            self.key = Linear(dim, qkv, use_bias=False, rngs=rngs)

    def scores(self, kind: str, x: jax.Array) -> jax.Array:
        """Computes S of one kind, float32 [B, H, L, L], or [H, L, L] where it does not depend on x."""
        length = x.shape[1]
        if kind in ("random", "fixed"):
            matrix = self.random if kind == "random" else self.fixed
            return matrix[..., :length, :length].astype(jnp.float32)
        if kind == "factorised_random":
            rows, columns = self.rows[...][:, :length], self.columns[...][:, :length]
            return jnp.einsum("hlr,hmr->hlm", rows, columns, preferred_element_type=jnp.float32)
        if kind == "dense":
            return self.dense(x)[..., :length]
        if kind == "factorised_dense":
            product = self.dense_b(x)[..., :, None] * self.dense_a(x)[..., None, :]
            return product.reshape(*product.shape[:-2], -1)[..., :length]
        q, k = split_heads(self.query(x), self.heads), split_heads(self.key(x), self.heads)
        return jnp.einsum("blhk,bmhk->bhlm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        scores = [self.scores(kind, x) for kind in self.kinds]
        total = scores[0]
        if self.alpha is not None:
            alpha = jax.nn.softmax(self.alpha[...].astype(jnp.float32))
            most = max(s.ndim for s in scores)
            scores = [s if s.ndim == most else s[None] for s in scores]
            total = sum((a * s for a, s in zip(alpha, scores, strict=True)), start=jnp.zeros(()))
        y = synthesise(total, split_heads(self.value(x), self.heads), mask, self.rate, rngs)
        return self.out(merge_heads(y))
