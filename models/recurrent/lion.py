"""LION: linear attention to both sides, normalised, with weights that decay with distance."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.core.decayed_attention import decayed_attention, with_ones
from models.core.initial import Linear
from models.core.layers import Projections

Decay = Literal["none", "fixed", "selective"]
"""What sets the decay λ of a head: nothing (λ = 1, LION-Lit), a parameter (LION-D), or the input too (LION-S)."""


class LionD(nnx.Module):
    """Linear Attention for Efficient Bidirectional Sequence Modeling, LION-D: each head decays at a rate of its own.

    Afzal, Abad Rocamora, Candogan, Puigdemont, Tonin, Wu, Shoaran, Cevher 2025, arXiv:2502.16249, its theorem on the
    bidirectional recurrence, and LION-Lit, -D and -S. In each head:

        y_i = Σ_j M_ij (φ(q_i)·φ(k_j)) v_j / (Σ_j M_ij φ(q_i)·φ(k_j) + 10⁻⁶),    φ(x) = (silu(x) + ½) / ‖silu(x) + ½‖
        M_ij = λ_{j+1} … λ_i for j < i,    1 for j = i,    λ_i … λ_{j−1} for j > i

    with λ = 1 if `decay` is none, σ(a) if fixed, so that M_ij = λ^{|i−j|}, and σ(w·x_i + a) if selective. The position
    itself counts once. φ is positive, so a row's sum vanishes only where all keys are padding.

    Time L (c + K) K a head, memory L·D, by chunks of c = 64 positions (32 on a CPU) from each side. Padded keys are
    zero and λ = 1 there, so padding changes no logit; a hole still counts as a distance where λ is fixed, and not where
    it is selective. φ, λ, states and the division are float32. Attention dropout does not apply.

    The paper solves the benchmark only with decays that start slow, as HiPPO's do, and not with random ones. Here that
    is λ_h = e^{−Δ_h} with steps Δ_h spaced evenly in their logarithm from step_min to step_max, S4's range: the heads
    remember 1,000 to 10 positions. A selective λ starts around it.

    Departs from the authors' code, where λ = 1 − σ, the same up to signs of w and a. Its code for images cuts gates'
    gradient off, fixes the first at 1, counts the gate of the key's position and not of the query's (λ_j … λ_{i−1} and
    λ_{i+1} … λ_j), and has elu + 1 for φ in LION-Lit. Ours trains the gates, and both directions follow the
    recurrence of the authors' write-up, S_i = λ_i S_{i−1} + φ(k_i) v_iᵀ. No projection has a bias.

    Parameters:
        projections: query, key, value [D, H·K] and out [H·K, D].
        decay [H]: a, unless `decay` is none. Role `A`.
        gate [D, H]: w, if selective.

    Args:
        dim: D.
        length: not used.
        heads: H.
        qkv: H·K; None for `dim`.
        decay: what sets λ.
        step_min: of the slowest head.
        step_max: of the fastest head.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: an unknown decay, H does not divide H·K, or not 0 < step_min ≤ step_max.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        decay: Decay = "fixed",
        step_min: float = 0.001,
        step_max: float = 0.1,
        rngs: nnx.Rngs,
    ):
        if decay not in ("none", "fixed", "selective"):
            raise ValueError(f"decay must be none, fixed or selective, not '{decay}'")
        if not 0 < step_min <= step_max:
            raise ValueError(f"step_min ({step_min}) must be above 0 and at most step_max ({step_max})")
        self.projections = Projections(dim, heads, qkv, rngs=rngs)
        self.kind = decay
        if decay != "none":
            step = np.exp(np.linspace(math.log(step_min), math.log(step_max), heads))
            self.decay = nnx.Param(jnp.asarray(-np.log(np.expm1(step)), jnp.float32), role="A")
        if decay == "selective":
            self.gate = Linear(dim, heads, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        q, k, v = self.projections.project(x)
        k = jnp.where(mask[..., None, None], features(k), jnp.zeros((), k.dtype))
        q, v, log_decay = features(q), with_ones(v), self.log_decay(x, mask)
        o = decayed_attention(q, k, v, log_decay)
        o = o + decayed_attention(q, k, v, log_decay, reverse=True, diagonal=False)
        return self.projections.join((o[..., :-1] / (o[..., -1:] + 1e-6)).astype(x.dtype))

    def log_decay(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """ln λ, float32 [H], or [B, L, H] if selective."""
        if self.kind == "none":
            return jnp.zeros((self.projections.heads,))
        logits = self.decay[...].astype(jnp.float32)
        if self.kind == "fixed":
            return jax.nn.log_sigmoid(logits)
        logits = logits[None, None, :] + self.gate(x).astype(jnp.float32)
        return jnp.where(mask[..., None], jax.nn.log_sigmoid(logits), 0)


class LionS(LionD):
    """Linear Attention for Efficient Bidirectional Sequence Modeling, LION-S: the input sets the decays.

    `lion_d` with `decay` selective: equations, costs, options and departures are in its card. It has D·H parameters
    more, the gates' kernel.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        qkv: int | None = None,
        decay: Decay = "selective",
        step_min: float = 0.001,
        step_max: float = 0.1,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            dim, length, heads=heads, qkv=qkv, decay=decay, step_min=step_min, step_max=step_max, rngs=rngs
        )


def features(x: jax.Array) -> jax.Array:
    """φ(x) over the last axis, computed in float32: positive and of length 1."""
    y = jax.nn.silu(x.astype(jnp.float32)) + 0.5
    return (y / jnp.linalg.norm(y, axis=-1, keepdims=True)).astype(x.dtype)
