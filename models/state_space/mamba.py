"""Mamba: a state-space model whose step, input and read-out depend on the input."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.directions import backward_gain, read
from models.core.initial import Linear
from models.core.layers import at_least
from models.core.selective_scan import selective_scan
from models.core.state_space import step_biases


class Mamba(nnx.Module):
    """Mamba: Linear-Time Sequence Modeling with Selective State Spaces.

    Gu, Dao 2023, arXiv:2312.00752, section 3, algorithm 2 and figure 3. With E features inside, N states each:

        x, z = W_in input,  u = silu(conv(x) + bias),  (δ, B, C) = W u,  Δ = softplus(W_Δ δ + b_Δ)
        h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t u_t,  y_t = C_t · h_t + D u_t,  output = W_out (y ⊙ silu(z))

    where h is [E, N], B and C [N] are shared by the features, and conv is depthwise, over a position and those before
    it. Time L·E·N. Memory L·E and √L·E·N: the states [L, E, N] are never whole, and are computed again for gradients
    (models/core/selective_scan.py).

    The paper's mixer is causal. With `bidirectional` convolution and recurrence also run over each document's reversed
    real part, with the same parameters but for a gain of that y, and both y are added before the gate. Without it, the
    mixer is causal. Masked inputs are zero before mixing, and Δ is 0 there, which leaves the state as it is, whatever
    the convolution's bias: padding changes no logit, and a hole is a zero to the convolution and nothing to the state.
    The convolution, Δ and the recurrence are float32, projections in x's type. Attention dropout does not apply.

    Parameters, with H features outside and a rank of Δ of R = ⌈H/16⌉; linear maps start as the recipe's:
        into.kernel [H, 2 E]: W_in, for x and z.
        taps.kernel [conv, E], taps.bias [E]: the convolution; starts as a linear map from `conv` inputs does.
        select.kernel [E, R + 2 N]: W, for δ, B and C.
        step [R, E]: W_Δ, from U(±1/√R). Role `step`.
        step_bias [E]: b_Δ, so that softplus(b_Δ) is log-uniform in [0.001, 0.1]. Role `step`.
        log_rate [E, N]: ln(−A), from ln 1 … ln N in each feature (S4D-Real). Role `A`.
        skip [E]: D, 1 at first. Role `D`: the authors leave it and A without weight decay.
        backward [E]: if bidirectional, the gain of what is read from the end (`backward_gain`).
        out.kernel [E, H]: W_out.

    The paper has E = 2 H (`expand=2`), and two such mixers in place of attention and feed-forward: 6·H² parameters and
    more each. The default makes 4.2·H² at H = 256, as attention has. The paper's block has no feed-forward.

    Args:
        dim: H.
        length: not used.
        state: N.
        expand: E / H; E is rounded.
        conv: positions that the convolution sees.
        bidirectional: whether positions see what follows.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: `state` or `conv` is below 1, or `expand` too small for one feature.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        state: int = 16,
        expand: float = 1.25,
        conv: int = 4,
        bidirectional: bool = True,
        rngs: nnx.Rngs,
    ):
        at_least(1, state=state, conv=conv)
        width, rank = round(expand * dim), -(-dim // 16)
        if width < 1:
            raise ValueError(f"expand ({expand}) times dim ({dim}) must be at least 1")
        self.state = state
        self.into = Linear(dim, 2 * width, use_bias=False, rngs=rngs)
        self.taps = Linear(conv, width, rngs=rngs)
        self.select = Linear(width, rank + 2 * state, use_bias=False, rngs=rngs)
        bound = 1 / math.sqrt(rank)
        self.step = nnx.Param(
            jax.random.uniform(rngs.params(), (rank, width), minval=-bound, maxval=bound), role="step"
        )
        self.step_bias = nnx.Param(step_biases(rngs.params(), width), role="step")
        rates = jnp.log(jnp.arange(1, state + 1, dtype=jnp.float32))
        self.log_rate = nnx.Param(jnp.broadcast_to(rates, (width, state)), role="A")
        self.skip = nnx.Param(jnp.ones((width,)), role="D")
        self.backward = backward_gain(width) if bidirectional else None
        self.out = Linear(width, dim, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        inner, gate = jnp.split(self.into(jnp.where(mask[..., None], x, 0)), 2, axis=-1)
        y = read(self._scan, inner, mask, self.backward)
        mixed: jax.Array = self.out((y * jax.nn.silu(gate.astype(jnp.float32))).astype(x.dtype))
        return mixed

    def _scan(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Convolution and recurrence from left to right: x [B, L, E] → y float32 [B, L, E]."""
        log_rate, skip = (p[...].astype(jnp.float32) for p in (self.log_rate, self.skip))
        behind = self.taps.kernel.shape[0] - 1
        return selective_scan(self._project, (x, mask), -jnp.exp(log_rate), skip, behind=behind)

    def _project(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """From x [conv − 1 + c, B, E] at c positions and those before them to u and Δ [c, B, E], B and C [c, B, N].

        u and Δ are float32. At padding Δ is 0, so that u, which has a bias there, drives nothing.
        """
        kernel, bias, matrix, step_bias = (
            p[...].astype(jnp.float32) for p in (self.taps.kernel, self.taps.bias, self.step, self.step_bias)
        )
        rows = x.shape[0] - len(kernel) + 1
        windows = [x[j : j + rows].astype(jnp.float32) * kernel[j][None, None, :] for j in range(len(kernel))]
        u = jax.nn.silu(sum(windows, bias[None, None, :]))
        rank = len(matrix)
        low, into, out = jnp.split(self.select(u.astype(x.dtype)), [rank, rank + self.state], axis=-1)
        step = jax.nn.softplus(low.astype(jnp.float32) @ matrix + step_bias[None, None, :])
        return u, jnp.where(mask[len(kernel) - 1 :, :, None], step, 0), into, out
