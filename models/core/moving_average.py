"""Exponential moving averages from both sides, as convolutions: MEGA's damped ones and Megalodon's complex ones.

Shapes: B examples, L positions, D features, N modes a feature. The first axis of 2 of a parameter is the direction:
what comes from the left, and from the right.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from models.core.layers import at_least
from models.core.long_convolution import convolve
from models.core.state_space import decaying_kernel, exponential_kernel, to_complex

CLOSEST = 1e-6
"""The least a mode keeps of its state from one position to the next, so that its logarithm is finite."""


class MovingAverage(nnx.Module):
    """Damped exponential moving average of several modes. Ma et al. 2022, arXiv:2209.10655, section 3.

        y_t = Σ_{l ≥ 0} k_l u_{t−l} + Σ_{l ≥ 0} k'_l u_{t+l} + ω u_t
        k_l = Σ_n p_n β_n γ_n q_n^l / √N,  p = σ(δ),  q = 1 − σ(δ) σ(α)

    k' is the same of parameters of its own. Both kernels have a lag of 0, as in the authors' code, so position t counts
    twice. Time L·log L, memory L, in float32.

    Parameters:
        delta, alpha [2, D, N]: N(0, 0.2²). Role `A`.
        beta [2, D, N]: 1, −1, 1, … for the modes, plus N(0, 0.02²). Role `B`.
        gamma [2, D, N]: N(0, 1). Role `C`.
        omega [D]: N(0, 1).

    Args:
        dim: D.
        modes: N.
        truncation: lags of a kernel; those from this one on are left out. None: none is.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: modes or truncation below 1.
    """

    def __init__(self, dim: int, modes: int, truncation: int | None, *, rngs: nnx.Rngs):
        at_least(1, modes=modes, truncation=1 if truncation is None else truncation)
        self.truncation, self.scale = truncation, modes**-0.5
        self._draw(dim, modes, rngs)

    def _draw(self, dim: int, modes: int, rngs: nnx.Rngs) -> None:
        shape = (2, dim, modes)
        self.delta = nnx.Param(0.2 * jax.random.normal(rngs.params(), shape), role="A")
        self.alpha = nnx.Param(0.2 * jax.random.normal(rngs.params(), shape), role="A")
        signs = jnp.where(jnp.arange(modes) % 2 == 0, 1.0, -1.0)[None, None]
        self.beta = nnx.Param(signs + 0.02 * jax.random.normal(rngs.params(), shape), role="B")
        self.gamma = nnx.Param(jax.random.normal(rngs.params(), shape), role="C")
        self.omega = nnx.Param(jax.random.normal(rngs.params(), (dim,)))

    def kernels(self, lags: int) -> jax.Array:
        """k and k' for the first `lags` lags: float32 [2, D, lags]."""
        delta, alpha, beta, gamma = (_float(p) for p in (self.delta, self.alpha, self.beta, self.gamma))
        p = jax.nn.sigmoid(delta)
        return decaying_kernel(p * beta * gamma * self.scale, _log_keep(p * jax.nn.sigmoid(alpha)), lags)

    def __call__(self, u: jax.Array) -> jax.Array:
        """Averages u float32 [B, L, D], which must be zero at padding: float32 [B, L, D]."""
        length = u.shape[1]
        lags = length if self.truncation is None else min(self.truncation, length)
        forward, backward = jnp.pad(self.kernels(lags), ((0, 0), (0, 0), (0, length - lags)))
        # `convolve` counts the backward kernel from a position's neighbour on.
        at_zero = jnp.arange(length)[None] == 0
        both = forward + jnp.where(at_zero, backward, 0)
        return convolve(u, both, jnp.pad(backward[:, 1:], ((0, 0), (0, 1)))) + _float(self.omega)[None, None] * u


class ComplexMovingAverage(MovingAverage):
    """Complex exponential moving average (CEMA). Megalodon, Ma et al. 2024, arXiv:2404.08801, section 3.1.

        k_l = Re Σ_n p_n γ_n q_n^l / √N,  p = σ(α),  q_n = (1 − σ(α) σ(δ)) exp(i n σ(θ) 2π / N),  n = 1 … N

    The rest as in `MovingAverage`; Megalodon itself is causal. The paper also turns the input by the phase of q: a
    constant that γ can absorb, and that the authors' code leaves out.

    Parameters:
        alpha, delta [2, D, N]: N(0, 0.2²). Role `A`.
        theta [2, D]: the features' frequencies σ(θ), at first D^(−i/D) for i = 1 … D in random order. Role `A`.
        gamma [2, D, N, 2]: real and imaginary part; N(0, 1) and 0. Role `C`.
        omega [D]: N(0, 0.25²), truncated at ±1.
    """

    def _draw(self, dim: int, modes: int, rngs: nnx.Rngs) -> None:
        shape = (2, dim, modes)
        self.alpha = nnx.Param(0.2 * jax.random.normal(rngs.params(), shape), role="A")
        self.delta = nnx.Param(0.2 * jax.random.normal(rngs.params(), shape), role="A")
        # A single feature would have a frequency of 1, whose logit is infinite.
        log_frequency = -math.log(max(dim, 2)) / dim * jnp.arange(1.0, dim + 1)
        logit = log_frequency - jnp.log(-jnp.expm1(log_frequency))
        orders = [jax.random.permutation(rngs.params(), logit) for _ in range(2)]
        self.theta = nnx.Param(jnp.stack(orders), role="A")
        real = jax.random.normal(rngs.params(), shape)
        self.gamma = nnx.Param(jnp.stack([real, jnp.zeros(shape)], -1), role="C")
        self.omega = nnx.Param(0.25 * jax.random.truncated_normal(rngs.params(), -4.0, 4.0, (dim,)))

    def kernels(self, lags: int) -> jax.Array:
        """k and k' for the first `lags` lags: float32 [2, D, lags]."""
        alpha, delta, theta = (_float(p) for p in (self.alpha, self.delta, self.theta))
        directions, dim, modes = alpha.shape
        p = jax.nn.sigmoid(alpha)
        turn = jax.nn.sigmoid(theta)[..., None] * (2 * math.pi / modes) * jnp.arange(1.0, modes + 1)[None, None]
        rate = jax.lax.complex(_log_keep(p * jax.nn.sigmoid(delta)), turn)
        weight = (p * self.scale).astype(jnp.complex64) * to_complex(self.gamma[...])
        flat = directions * dim, modes
        kernel = exponential_kernel(weight.reshape(1, *flat), rate.reshape(flat), lags)
        return kernel.reshape(directions, dim, lags)


def _float(parameter: nnx.Param[jax.Array]) -> jax.Array:
    return parameter[...].astype(jnp.float32)


def _log_keep(lost: jax.Array) -> jax.Array:
    """ln(1 − lost), for shares in [0, 1] that a mode loses at each position."""
    return jnp.log1p(-jnp.minimum(lost, 1 - CLOSEST))
