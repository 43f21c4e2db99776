"""S4D: a diagonal state space for each feature, computed as one long convolution."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.core.long_convolution import convolve
from models.core.state_space import exponential_kernel, hippo, log_steps, real_inputs, to_complex, to_pairs


def initial_state(init: str, state: int) -> tuple[np.ndarray, np.ndarray]:
    """A and B of N = state / 2 modes: complex128 [N] each (the paper's section 4.3).

    Raises:
        ValueError: there is no such `init`, or `state` is odd or below 2.
    """
    if state < 2 or state % 2:
        raise ValueError(f"state must be even and at least 2, not {state}")
    modes = state // 2
    n = np.arange(modes)
    ones = np.ones(modes, complex)
    match init:
        case "lin":
            return -0.5 + 1j * np.pi * n, ones
        case "inv":
            return -0.5 + 1j * state / np.pi * (state / (2 * n + 1) - 1), ones
        case "legs":
            a, _, b = hippo(state)
            return a[modes:], b[modes:].real + 1j * b[modes:].imag.clip(-2, 2)
        case "real":
            return -(n + 1.0) + 0j, ones
    raise ValueError(f"init must be lin, inv, legs or real, not {init}")


class S4D(nnx.Module):
    """On the Parameterization and Initialization of Diagonal State Space Models.

    Gu, Gupta, Goel, Ré 2022, arXiv:2206.11893, section 3. Each feature u is convolved with a kernel of N modes, one of
    each conjugate pair, which is what its state space does from one position to the next:

        h_l = Ā h_{l−1} + B̄ u_l,  y_l = 2 Re(C h_l) + D u_l    ⟺    y = K ⊛ u + D u,  K_l = 2 Re Σ_n C_n B̄_n Ā_n^l

        zoh:       Ā = e^{ΔA},                      B̄ = (e^{ΔA} − 1) / A · B
        bilinear:  Ā = (1 + ΔA/2) / (1 − ΔA/2),     B̄ = Δ / (1 − ΔA/2) · B

    Time L·log L·D + L·N·D, memory L·D. There is no linear map between features: the block's follows. With
    `bidirectional` a second kernel with a C of its own, which begins at the next position, reads what follows (as in
    S4's code). Masked inputs are zero before mixing, so padding changes no logit, and a hole is read as a zero. Kernels
    and transforms are float32. Attention dropout does not apply.

    Departs from the authors' code: e^{ΔA} − 1 without cancellation, and powers in two levels.

    Parameters, with K = 1 or 2 directions, H features, n_ssm copies of A and B (feature h has copy h mod n_ssm), and
    the authors' names in brackets:
        log_step [H]: ln Δ (`log_dt`), drawn uniformly from [ln step_min, ln step_max]. Role `step`.
        log_decay [n_ssm, N]: ln(−Re A) (`inv_A_real` or `log_A_real`), so that no mode can grow. Role `A`.
        frequency [n_ssm, N]: Im A (`A_imag`). Role `A`.
        into [n_ssm, N, 2]: B, real and imaginary part (`B`; 1 where there is none). Role `B`.
        out [K, H, N, 2]: C (`C`), drawn as complex N(0, 1); out[1] reads backwards. Role `C`.
        skip [H]: D (`D`), drawn from N(0, 1).

    Args:
        dim: H.
        length: not used: the kernels are as long as the input.
        state: 2 N, both halves of the conjugate pairs.
        init: A_n = −½ + iπn (lin), −½ + i (2N/π)(2N / (2n + 1) − 1) (inv) or −(n + 1) (real), with B = 1; or HiPPO-N's
            A and B (legs), the imaginary part of B within ±2, as in the authors' code.
        discretization: zero-order hold, or bilinear.
        bidirectional: whether positions see what follows.
        n_ssm: copies of A and B over the features; 0: one for each.
        step_min: smallest initial Δ.
        step_max: largest initial Δ.
        rngs: random keys of the initial parameters.

    Raises:
        ValueError: an option has no such value, or n_ssm does not divide dim.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        state: int = 64,
        init: Literal["lin", "inv", "legs", "real"] = "lin",
        discretization: Literal["zoh", "bilinear"] = "zoh",
        bidirectional: bool = True,
        n_ssm: int = 1,
        step_min: float = 1e-3,
        step_max: float = 0.1,
        rngs: nnx.Rngs,
    ):
        if discretization not in ("zoh", "bilinear"):
            raise ValueError(f"discretization must be zoh or bilinear, not {discretization}")
        copies = n_ssm or dim
        if copies < 1 or dim % copies:
            raise ValueError(f"n_ssm ({n_ssm}) must divide the width ({dim}), or be 0")
        a, b = (jnp.tile(jnp.asarray(array, jnp.complex64)[None], (copies, 1)) for array in initial_state(init, state))
        self.discretization = discretization
        self.log_step = nnx.Param(log_steps(rngs.params(), dim, step_min, step_max), role="step")
        self.log_decay = nnx.Param(jnp.log(-a.real), role="A")
        self.frequency = nnx.Param(a.imag, role="A")
        self.into = nnx.Param(to_pairs(b), role="B")
        shape = (1 + bidirectional, dim, state // 2, 2)
        self.out = nnx.Param(0.5**0.5 * jax.random.normal(rngs.params(), shape), role="C")
        self.skip = nnx.Param(jax.random.normal(rngs.params(), (dim,)))

    def kernels(self, length: int) -> jax.Array:
        """The kernel of each direction, float32 [K, H, L]."""
        log_decay, log_step = self.log_decay[...].astype(jnp.float32), self.log_step[...].astype(jnp.float32)
        a = jax.lax.complex(-jnp.exp(log_decay), self.frequency[...].astype(jnp.float32))
        b = to_complex(self.into[...])
        repeats = log_step.shape[0] // a.shape[0]
        a, b = jnp.tile(a, (repeats, 1)), jnp.tile(b, (repeats, 1))
        step = jnp.exp(log_step).astype(jnp.complex64)[:, None]
        if self.discretization == "zoh":
            rate = step * a
            b = b * jnp.expm1(rate) / a
        else:
            rate = _log_bilinear(step * a / 2)
            b = b * step / (1 - step * a / 2)
        return exponential_kernel(2 * to_complex(self.out[...]) * b[None], rate, length)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        u = real_inputs(x, mask)
        y = convolve(u, *self.kernels(x.shape[1]))
        return (y + self.skip[...].astype(jnp.float32)[None, None, :] * u).astype(x.dtype)


def _log_bilinear(half: jax.Array) -> jax.Array:
    """Computes log((1 + h) / (1 − h)) for complex64 h with Re h < 0, where a logarithm of the ratio loses digits.

    The square of its modulus is 1 + 4 Re h / |1 − h|², its angle that of 1 − |h|² + 2 i Im h.
    """
    re, im = half.real, half.imag
    modulus = 0.5 * jnp.log1p(4 * re / ((1 - re) ** 2 + im**2))
    return jax.lax.complex(modulus, jnp.arctan2(2 * im, 1 - re**2 - im**2))
