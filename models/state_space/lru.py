"""LRU: a diagonal linear recurrence that is stable by construction, without a step size."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.layers import at_least
from models.core.state_space import real_inputs, scan_system, to_complex


class LRU(nnx.Module):
    """Resurrecting Recurrent Neural Networks for Long Sequences.

    Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu, De 2023, arXiv:2303.06349, section 3. All features drive one state
    of N modes, none of them conjugate to another:

        h_t = λ ⊙ h_{t−1} + γ ⊙ B u_t,  y_t = Re(C h_t) + D u_t,    λ = exp(−e^ν + i e^θ)

    Time L·N·D, memory L·N: the states are formed, by a scan. With `bidirectional` the same system also runs from the
    end, and C has columns for both states, each of which includes position t, as in S5: the paper does not say how.
    Masked inputs are zero before mixing, so padding changes no logit, and a hole is read as a zero. The whole mixer
    computes in float32, its products with B and C too. Attention dropout does not apply.

    Parameters, with H features and K = 1 or 2 directions:
        log_decay [N]: ν, from |λ|² uniform in [r_min², r_max²]: on a ring, uniform by its area. Role `A`.
        log_phase [N]: θ, from phases uniform in [0, max_phase]. Role `A`.
        log_gain [N]: ln γ, from γ = √(1 − |λ|²), which keeps states of white noise at the variance of B u. Role `B`.
        into [N, H, 2]: B, real and imaginary part, drawn from N(0, 1 / 2H) each. Role `B`.
        out [K, H, N, 2]: C, drawn from N(0, 1 / N) each; out[1] reads the state that comes from the end. Role `C`.
        skip [H]: D, drawn from N(0, 1).

    Args:
        dim: H.
        length: not used.
        state: N.
        r_min: smallest initial |λ|.
        r_max: largest initial |λ|.
        max_phase: largest initial phase of λ, in radians.
        bidirectional: whether positions see what follows.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: not 0 ≤ r_min < r_max ≤ 1, or state or max_phase is not positive.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        state: int = 64,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 6.283185307179586,
        bidirectional: bool = True,
        rngs: nnx.Rngs,
    ):
        at_least(1, state=state)
        if not 0 <= r_min < r_max <= 1:
            raise ValueError(f"r_min ({r_min}) and r_max ({r_max}) must be 0 ≤ r_min < r_max ≤ 1")
        if max_phase <= 0:
            raise ValueError(f"max_phase must be above 0, not {max_phase}")
        square = _inner_uniform(rngs.params(), state) * (r_max**2 - r_min**2) + r_min**2
        phase = max_phase * _inner_uniform(rngs.params(), state)
        self.log_decay = nnx.Param(jnp.log(-0.5 * jnp.log(square)), role="A")
        self.log_phase = nnx.Param(jnp.log(phase), role="A")
        self.log_gain = nnx.Param(0.5 * jnp.log1p(-square), role="B")
        self.into = nnx.Param(jax.random.normal(rngs.params(), (state, dim, 2)) / math.sqrt(2 * dim), role="B")
        shape = (1 + bidirectional, dim, state, 2)
        self.out = nnx.Param(jax.random.normal(rngs.params(), shape) / math.sqrt(state), role="C")
        self.skip = nnx.Param(jax.random.normal(rngs.params(), (dim,)))

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        u = real_inputs(x, mask)
        logs = (self.log_decay, self.log_phase, self.log_gain)
        decay, phase, gain = (jnp.exp(log[...].astype(jnp.float32)) for log in logs)
        into = gain.astype(jnp.complex64)[:, None] * to_complex(self.into[...])
        y = scan_system(u, jnp.exp(jax.lax.complex(-decay, phase)), into, to_complex(self.out[...]))
        return (y + self.skip[...].astype(jnp.float32)[None, None, :] * u).astype(x.dtype)


def _inner_uniform(key: jax.Array, count: int) -> jax.Array:
    """Uniform in (0, 1) without its ends, whose logarithms nothing could learn from."""
    return jax.random.uniform(key, (count,), minval=1e-6, maxval=1 - 1e-6)
