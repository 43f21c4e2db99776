"""GLA: linear attention whose memory forgets each key feature at a rate that the input sets."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.core.decayed_attention import decayed_attention
from models.core.directions import backward_gain, read
from models.core.initial import Linear
from models.core.layers import at_least, expanded, merge_heads, split_heads
from models.core.norms import unit_rms


class GLA(nnx.Module):
    """Gated Linear Attention Transformers with Hardware-Efficient Training.

    Yang, Wang, Shen, Panda, Kim 2023, arXiv:2312.06635, equation 3 and section 4.4. In each head:

        α_t = σ(W₂ W₁ x_t + b)^{1/τ},    S_t = diag(α_t) S_{t−1} + k_t v_tᵀ,    o_t = S_tᵀ q_t / √K
        y_t = W_out (silu(W_gate x_t) ⊙ RMS(o_t))

    Time L (c + K) V + L b K a head, memory L·D, by chunks of c = 64 positions in tiles of b = 16 (on a CPU 16 and 4),
    exactly for any gates. With `bidirectional` o is the sum of both directions, with the same parameters but for a gain
    of the second, and RMS and gate follow once: the paper's is causal only. Masked keys are zero and α = 1 there, so
    padding changes no logit, and a hole passes the memory on. ln α, states and RMS are float32, the maps that lead
    there in x's type. Attention dropout does not apply.

    As in the authors' code, RMS is over a head's features, with a gain that heads share: the paper has LayerNorm, and
    a bias in W_gate.

    Parameters, 4 D² + 1.5 rank · D and a few with the defaults; without bias, but forget:
        query, key [D, H·K], value, gate [D, H·V], out [H·V, D].
        reduce [D, rank] (W₁), forget [rank, H·K] (W₂) with bias [H·K] (b).
        gain [V]: of RMS, 1 at first.
        backward [H·V]: if bidirectional, the gain of what is read from the end (`backward_gain`).

    Args:
        dim: D.
        length: not used.
        heads: H.
        qkv: H·V; None for `dim`.
        expand_k: K / V.
        rank: width between W₁ and W₂.
        slowness: τ. With it, α starts near ½^{1/τ} = 0.96: half of what is read is forgotten in 16 positions.
        bidirectional: whether positions see what follows.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: H does not divide H·K or H·V, rank < 1 or slowness ≤ 0.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        expand_k: float = 0.5,
        rank: int = 16,
        slowness: float = 16.0,
        bidirectional: bool = True,
        rngs: nnx.Rngs,
    ):
        at_least(1, heads=heads, rank=rank)
        if slowness <= 0:
            raise ValueError(f"slowness must be above 0, not {slowness}")
        width = dim if qkv is None else qkv
        values, keys = expanded(width, heads, qkv=1.0), expanded(width, heads, expand_k=expand_k)
        self.heads, self.slowness = heads, slowness
        self.widths = (keys, keys, values, rank)
        self.query = Linear(dim, keys, use_bias=False, rngs=rngs)
        self.key = Linear(dim, keys, use_bias=False, rngs=rngs)
        self.value = Linear(dim, values, use_bias=False, rngs=rngs)
        self.reduce = Linear(dim, rank, use_bias=False, rngs=rngs)
        self.forget = Linear(rank, keys, rngs=rngs)
        self.gate = Linear(dim, values, use_bias=False, rngs=rngs)
        self.gain = nnx.Param(jnp.ones((values // heads,)))
        self.backward = backward_gain(values) if bidirectional else None
        self.out = Linear(values, dim, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        parts = jnp.concatenate([f(x) for f in (self.query, self.key, self.value, self.reduce)], -1)
        o = read(self.attend, parts, mask, self.backward)
        o = unit_rms(split_heads(o, self.heads)) * self.gain[...].astype(jnp.float32)[None, None, None]
        gate = jax.nn.silu(self.gate(x).astype(jnp.float32))
        y: jax.Array = self.out((gate * merge_heads(o)).astype(x.dtype))
        return y

    def attend(self, parts: jax.Array, mask: jax.Array) -> jax.Array:
        """Attention from left to right by q, k, v and W₁ x [B, L, H·(K + K + V) + rank]: o float32 [B, L, H·V]."""
        q, k, v, reduced = jnp.split(parts, np.cumsum(self.widths[:3]), -1)
        log_decay = jax.nn.log_sigmoid(self.forget(reduced).astype(jnp.float32)) / self.slowness
        log_decay = jnp.where(mask[..., None], log_decay, 0)
        k = jnp.where(mask[..., None], k, jnp.zeros((), k.dtype))
        q, k, v, log_decay = (split_heads(part, self.heads) for part in (q, k, v, log_decay))
        return merge_heads(decayed_attention(q * q.shape[-1] ** -0.5, k, v, log_decay))
