"""Gated DeltaNet: the delta rule, with a memory that also decays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.head_decay import HeadDecay
from models.core.initial import Linear
from models.recurrent.deltanet import DeltaNet


class GatedDeltaNet(DeltaNet):
    """Gated Delta Networks: Improving Mamba2 with Delta Rule.

    Yang, Kautz, Hatamizadeh 2024, arXiv:2412.06464, sections 3.1 and 3.4. `deltanet`, whose memory decays as
    that of `mamba2` does, and with a gate behind RMS. In each head:

        S_t = a_t (I − β_t k_t k_tᵀ) S_{t−1} + β_t k_t v_tᵀ,  a_t = e^{−A Δ_t},  Δ_t = softplus(w_Δ·x_t + b_Δ)
        o_t = S_tᵀ q_t,  y_t = W_out (silu(W_gate x_t) ⊙ g ⊙ RMS(o_t))

    q, k, v, β, `negative`, both directions, costs, types and departures are as in the card of `deltanet`. At padding
    β = 0 and a = 1: it changes no logit, and a hole passes the memory on. ln a is float32.

    Parameters, 4 D² and a few with the defaults; without bias, but step:
        query, key [D, H·K], value, gate [D, H·V], beta [D, H], out [H·V, D].
        step [D, H]: w_Δ.
        taps [conv, H·(K + K + V)], gain [V], backward [H·V]: as in `deltanet`.
        decay.log_rate [H]: ln A, from A uniform in [1, 16]. Role `A`.
        decay.step_bias [H]: b_Δ, so that softplus(b_Δ) is log-uniform in [0.001, 0.1]. Role `step`.

    The authors' code has V = 2 K, as here, and H·V = 1.5 D, with 6 D² parameters: qkv = 1.5 D; the default makes as
    many as attention has. It draws A uniform in [0, 16], where Mamba-2, which the paper follows, has [1, 16].

    Args:
        dim: D.
        length: not used.
        heads: H.
        qkv: H·V; None for `dim`.
        expand_k: K / V.
        conv: positions that the convolution sees.
        negative: whether β reaches 2.
        bidirectional: whether positions see what follows.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: as in `deltanet`.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        expand_k: float = 0.5,
        conv: int = 4,
        negative: bool = False,
        bidirectional: bool = True,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            dim, length, heads=heads, qkv=qkv, expand_k=expand_k, conv=conv, negative=negative,
            bidirectional=bidirectional, rngs=rngs,
        )  # fmt: skip
        self.step = Linear(dim, heads, use_bias=False, rngs=rngs)
        self.decay = HeadDecay(heads, rngs=rngs)
        self.gate = Linear(dim, self.widths[2], use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        gate = jax.nn.silu(self.gate(x).astype(jnp.float32))
        y: jax.Array = self.out((gate * self.recall(x, mask)).astype(x.dtype))
        return y

    def projections(self) -> list[Linear]:
        return [*super().projections(), self.step]

    def log_decay(self, logits: jax.Array, mask: jax.Array) -> jax.Array:
        """ln a, from Δ's logits."""
        return self.decay(logits, mask)[1]
