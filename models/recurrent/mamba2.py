"""Mamba-2: Mamba with one decay for all states of a head, which makes it linear attention with a gate."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.decayed_attention import decayed_attention
from models.core.directions import backward_gain, read
from models.core.head_decay import HeadDecay
from models.core.initial import Linear
from models.core.layers import at_least, merge_heads, split_heads
from models.core.norms import unit_rms
from models.core.short_convolution import slide


class Mamba2(nnx.Module):
    """Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality.

    Dao, Gu 2024, arXiv:2405.21060, sections 6 and 7. With E features inside, in H heads of P = E/H:

        z, (u, B, C), δ = W_in input,  (x, B, C) = silu(conv(u, B, C) + bias),  Δ = softplus(δ + b_Δ)
        S_t = e^{−Δ_t A} S_{t−1} + B_t (Δ_t x_t)ᵀ,  y_t = S_tᵀ C_t + D x_t,  output = W_out (g ⊙ RMS(y ⊙ silu(z)))

    where S is [N, P] a head, Δ, A and D are a number a head, B and C [N] are shared by the heads (one group), conv is
    depthwise, over a position and those before it, and RMS is over all E features.

    Time L (c + N) P a head, memory L (E + N), by chunks of c = 64 positions (32 on a CPU), exactly for any Δ
    (models/core/decayed_attention.py): the states of all positions are never formed. The paper's mixer is causal. With
    `bidirectional` convolution and recurrence also run over each document's reversed real part, with the same
    parameters but for a gain of that y, and both y are added before the gate. Without it, the mixer is causal. Masked
    inputs are zero before mixing, and Δ is 0 there, which leaves the state as it is, whatever the convolution's bias:
    padding changes no logit, and a hole is a zero to the convolution and nothing to the state. The convolution, Δ,
    decays, states and RMS are float32, projections and the products inside chunks in x's type. Attention dropout does
    not apply.

    Parameters, with a width of M outside; linear maps start as the recipe's:
        into.kernel [M, 2 E + 2 N + H]: W_in.
        taps.kernel [conv, E + 2 N], taps.bias [E + 2 N]: the convolution; starts as a linear map from `conv` inputs.
        decay.log_rate [H]: ln A, from A uniform in [1, 16]. Role `A`.
        decay.step_bias [H]: b_Δ, so that softplus(b_Δ) is log-uniform in [0.001, 0.1]. Role `step`.
        skip [H]: D, 1 at first. Role `D`: the authors leave it, b_Δ and A without weight decay.
        gain [E]: g, 1 at first.
        backward [E]: if bidirectional, the gain of what is read from the end (`backward_gain`).
        out.kernel [E, M]: W_out.

    The authors' code has E = 2 M, P = 64 and N = 128 (`expand=2`, with 2 M / 64 heads and `state=128`), and two such
    mixers in place of attention and feed-forward: 6·M² parameters and more each. The default makes 4.3·M² at M = 256,
    as attention has, and takes the encoder's heads: P = 80 there. RMS adds 10⁻⁶, the authors' code 10⁻⁵.

    Args:
        dim: M.
        length: not used.
        heads: H.
        state: N.
        expand: E / M; E is the multiple of H that is nearest.
        conv: positions that the convolution sees.
        bidirectional: whether positions see what follows.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: `heads`, `state` or `conv` is below 1, or `expand` too small for one feature a head.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        heads: int = 4,
        state: int = 64,
        expand: float = 1.25,
        conv: int = 4,
        bidirectional: bool = True,
        rngs: nnx.Rngs,
    ):
        at_least(1, heads=heads, state=state, conv=conv)
        width = heads * round(expand * dim / heads)
        if width < 1:
            raise ValueError(
                f"expand ({expand}) times dim ({dim}) must be at least one feature for each head ({heads})"
            )
        self.heads, self.state = heads, state
        self.into = Linear(dim, 2 * width + 2 * state + heads, use_bias=False, rngs=rngs)
        self.taps = Linear(conv, width + 2 * state, rngs=rngs)
        self.decay = HeadDecay(heads, rngs=rngs)
        self.skip = nnx.Param(jnp.ones((heads,)), role="D")
        self.gain = nnx.Param(jnp.ones((width,)))
        self.backward = backward_gain(width) if bidirectional else None
        self.out = Linear(width, dim, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        width = self.gain.shape[0]
        gate, parts = jnp.split(self.into(jnp.where(mask[..., None], x, 0)), [width], axis=-1)
        y = read(self._scan, parts, mask, self.backward)
        y = unit_rms(y * jax.nn.silu(gate.astype(jnp.float32))) * self.gain[...].astype(jnp.float32)[None, None, :]
        mixed: jax.Array = self.out(y.astype(x.dtype))
        return mixed

    def _scan(self, parts: jax.Array, mask: jax.Array) -> jax.Array:
        """Convolution and recurrence from left to right: u, B, C and δ [B, L, E + 2 N + H] → y float32 [B, L, E]."""
        u, logits = jnp.split(parts, [parts.shape[-1] - self.heads], axis=-1)
        kernel, bias = (p[...].astype(jnp.float32) for p in (self.taps.kernel, self.taps.bias))
        u = jax.nn.silu(slide(u.astype(jnp.float32), kernel, len(kernel) - 1) + bias[None, None, :])
        x, into, out = jnp.split(u, [u.shape[-1] - 2 * self.state, u.shape[-1] - self.state], axis=-1)
        x = split_heads(x, self.heads)
        step, log_decay = self.decay(logits, mask)
        into, out, driven = (part.astype(parts.dtype) for part in (into, out, step[..., None] * x))
        y = decayed_attention(out[:, :, None], into[:, :, None], driven, log_decay)
        return merge_heads(y + self.skip[...].astype(jnp.float32)[None, None, :, None] * x)
