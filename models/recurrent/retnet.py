"""RetNet: linear attention with rotated keys, whose memory decays at a fixed rate in each head."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.core.decayed_attention import decayed_attention, with_ones
from models.core.directions import backward_gain, read
from models.core.initial import Linear
from models.core.layers import expanded, merge_heads, split_heads
from models.core.norms import unit_rms
from models.core.positions import rotate_by


class RetNet(nnx.Module):
    """Retentive Network: A Successor to Transformer for Large Language Models.

    Sun, Dong, Huang, Ma, Xia, Xue, Wang, Wei 2023, arXiv:2307.08621, equations 5 to 8, and "retention score
    normalization". In head h = 0, 1, …, with queries and keys rotated by n θ at position n = 0, 1, …:

        A_nm = q_n·k_m / √K · γ^{n−m} / √(Σ_{r ≤ n} γ^r)  for m ≤ n,    γ = 1 − 2^{−5−h},    θ_i = 10,000^{−i/(K/2−1)}
        o_n = Σ_m A_nm v_m / max(1, |Σ_m A_nm|),    y = W_out (silu(W_gate x) ⊙ RMS(o))

    The divisor max(1, ·) is a constant to the gradient, as in the authors' code: with its gradient, the values would be
    the same and the gradients others. RMS is over each head's features and has no gain; it would hide the divisors of
    a row but for its 10⁻⁶ and the sum of two directions.

    Time L (c + K) V a head, memory L·D, by chunks of c = 64 positions (32 on a CPU), exactly as above: the authors'
    form by chunks bounds other sums, which makes it another function. With `bidirectional` o is the sum of both
    directions, with the same parameters but for a gain of the second, and a divisor for each, and RMS and gate follow
    once: the paper's is causal only. Masked inputs are zero before mixing, so padding changes no logit, and a hole is
    read as a zero. Angles, decays, states, divisors and RMS are float32. Attention dropout does not apply.

    Departs from the paper: V = K by default, with 5 D² parameters, where it has V = 2 K and 8 D² (`expand=2`). Linear
    maps start as `encoder.init` asks, where the authors' code shrinks Xavier's by 2^−2.5.

    Parameters, without bias: query, key [D, H·K], value, gate [D, H·V], out [H·V, D]; and if bidirectional, backward
    [H·V], the gain of what is read from the end (`backward_gain`).

    Args:
        dim: D.
        length: not used.
        heads: H.
        qkv: H·K; None for `dim`.
        expand: V / K.
        bidirectional: whether positions see what follows.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: K is odd or no whole number, or V is no whole number.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        expand: float = 1.0,
        bidirectional: bool = True,
        rngs: nnx.Rngs,
    ):
        keys = dim if qkv is None else qkv
        if heads < 1 or keys % (2 * heads):
            raise ValueError(f"qkv ({keys}) must be an even multiple of heads ({heads})")
        values = expanded(keys, heads, expand=expand)
        self.heads, self.widths = heads, (keys, keys, values)
        self.query = Linear(dim, keys, use_bias=False, rngs=rngs)
        self.key = Linear(dim, keys, use_bias=False, rngs=rngs)
        self.value = Linear(dim, values, use_bias=False, rngs=rngs)
        self.gate = Linear(dim, values, use_bias=False, rngs=rngs)
        self.backward = backward_gain(values) if bidirectional else None
        self.out = Linear(values, dim, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        qkv = jnp.concatenate([self.query(x), self.key(x), self.value(x)], -1)
        o = read(self.retain, qkv, mask, self.backward)
        o = merge_heads(unit_rms(split_heads(o, self.heads)))
        gate = jax.nn.silu(self.gate(x).astype(jnp.float32))
        y: jax.Array = self.out((gate * o).astype(x.dtype))
        return y

    def retain(self, qkv: jax.Array, mask: jax.Array) -> jax.Array:
        """Retention from left to right of projections [B, L, H·(K + K + V)]: o float32 [B, L, H·V]."""
        qkv = jnp.where(mask[..., None], qkv, jnp.zeros((), qkv.dtype))
        q, k, v = (split_heads(part, self.heads) for part in jnp.split(qkv, np.cumsum(self.widths[:2]), -1))
        rate = 10_000.0 ** -np.linspace(0, 1, q.shape[-1] // 2)
        return merge_heads(retention(rotate_by(q, rate), rotate_by(k * k.shape[-1] ** -0.5, rate), v))


def retention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Computes the o of `RetNet` from left to right.

    Args:
        q: [B, L, H, K], rotated.
        k: [B, L, H, K], rotated, and divided by √K.
        v: [B, L, H, V].

    Returns:
        float32 [B, L, H, V].
    """
    rate = jnp.asarray(np.log1p(-(2.0 ** (-5 - np.arange(q.shape[2])))), jnp.float32)
    o = decayed_attention(q, k, with_ones(v), rate)
    elapsed = jnp.arange(1, q.shape[1] + 1, dtype=jnp.float32)[:, None] * rate[None, :]
    total = jnp.expm1(elapsed) / jnp.expm1(rate)[None, :]
    o = o * jax.lax.rsqrt(total)[None, :, :, None]
    return o[..., :-1] / jnp.maximum(1, jnp.abs(jax.lax.stop_gradient(o[..., -1:])))
