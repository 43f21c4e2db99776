"""What diagonal state-space mixers share: what they start from, kernels of sums of exponentials, states of both ways.

Shapes: B examples, L positions, H features, N or P states, K directions (1, or 2: forwards and backwards). Complex
parameters are real arrays with a last axis (re, im), since gradients and optimizers know nothing of complex numbers.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from models.core.linear_scan import Pair, linear_scan

HIGHEST = jax.lax.Precision.HIGHEST


def hippo(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The diagonal form of HiPPO-N, the normal part of HiPPO-LegS (Gu et al. 2022, arXiv:2206.11893, section 4.1).

    A_nk = −√((2n + 1)(2k + 1)) / 2 for n > k, −½ for n = k, and +√((2n + 1)(2k + 1)) / 2 for n < k.

    Args:
        size: N, both halves of each conjugate pair.

    Returns:
        Eigenvalues −½ + i w, sorted by w: complex128 [N]; their eigenvectors as the columns of a unitary V [N, N]; and
        V* B for HiPPO's B_n = √(2n + 1), [N]. For N even, w > 0 in the last half, and the first is its conjugate. The
        first entry of each eigenvector is real and positive, which fixes the phase of B.
    """
    root = np.sqrt(2 * np.arange(size) + 1.0)
    skew = np.triu(np.outer(root, root), 1) / 2
    frequency, vectors = np.linalg.eigh(-1j * (skew - skew.T))
    vectors = vectors * np.exp(-1j * np.angle(vectors[:1]))
    return -0.5 + 1j * frequency, vectors, vectors.conj().T @ root


def log_steps(key: jax.Array, count: int, least: float, most: float) -> jax.Array:
    """Draws logarithms of step sizes, uniform between those of `least` and `most`: float32 [count].

    Raises:
        ValueError: `least` is not positive, or above `most`.
    """
    if not 0 < least <= most:
        raise ValueError(f"step_min ({least}) must be above 0 and at most step_max ({most})")
    return jax.random.uniform(key, (count,), minval=math.log(least), maxval=math.log(most))


def step_biases(key: jax.Array, count: int) -> jax.Array:
    """Draws b so that softplus(b), the step where a logit is 0, is log-uniform from 0.001 to 0.1: float32 [count].

    As Mamba does (Gu & Dao 2023, arXiv:2312.00752).
    """
    step = jnp.exp(log_steps(key, count, 0.001, 0.1))
    return step + jnp.log(-jnp.expm1(-step))


def to_complex(pairs: jax.Array) -> jax.Array:
    """[..., 2] → complex64 [...]."""
    pairs = pairs.astype(jnp.float32)
    return lax.complex(pairs[..., 0], pairs[..., 1])


def to_pairs(numbers: jax.Array | np.ndarray) -> jax.Array:
    """Complex [...] → float32 [..., 2]."""
    return jnp.stack([jnp.real(numbers), jnp.imag(numbers)], -1).astype(jnp.float32)


def exponential_kernel(weight: jax.Array, rate: jax.Array, length: int) -> jax.Array:
    """Computes Re Σ_n weight_n e^{rate_n l} for l = 0 … length − 1, without an array of all powers.

    With l = c i + j, the powers are products of e^{rate c i} and e^{rate j}: for c ≈ √L, both together have
    N (c + L / c) entries a feature instead of N L, and the sum over n is a matrix product.

    Args:
        weight: complex64 [K, H, N].
        rate: complex64 [H, N]; real parts that are not positive.
        length: L.

    Returns:
        float32 [K, H, L].
    """
    fine = 2 ** round(math.log2(length) / 2)
    coarse = -(-length // fine)
    low = jnp.exp(rate[..., None] * jnp.arange(fine).astype(jnp.complex64)[None, None, :])
    high = jnp.exp(rate[..., None] * (fine * jnp.arange(coarse)).astype(jnp.complex64)[None, None, :])
    high = weight[..., None] * high[None]
    left = jnp.concatenate([high.real, -high.imag], 2)
    right = jnp.concatenate([low.real, low.imag], 1)
    kernel = jnp.einsum("khni,hnj->khij", left, right, precision=HIGHEST)
    return kernel.reshape(*weight.shape[:2], coarse * fine)[..., :length]


def decaying_kernel(weight: jax.Array, rate: jax.Array, length: int) -> jax.Array:
    """Computes Σ_n weight_n e^{rate_n l} for l = 0 … length − 1, all real; otherwise as `exponential_kernel`.

    Args:
        weight: float32 [K, H, N].
        rate: float32 [K, H, N], not positive.
        length: L.

    Returns:
        float32 [K, H, L].
    """
    fine = 2 ** round(math.log2(length) / 2)
    coarse = -(-length // fine)
    low = jnp.exp(rate[..., None] * jnp.arange(fine).astype(jnp.float32)[None, None, None, :])
    high = jnp.exp(rate[..., None] * (fine * jnp.arange(coarse)).astype(jnp.float32)[None, None, None, :])
    kernel = jnp.einsum("khni,khnj->khij", weight[..., None] * high, low, precision=HIGHEST)
    return kernel.reshape(*weight.shape[:2], coarse * fine)[..., :length]


def scan_system(x: jax.Array, decay: jax.Array, into: jax.Array, out: jax.Array) -> jax.Array:
    """Runs h_t = decay ⊙ h_{t−1} + into x_t, and reads Re(out h_t); with two directions, both, and adds them.

    Each direction has a read-out of its own, and counts position t itself.

    Args:
        x: float32 [B, L, H].
        decay: complex64 [P].
        into: complex64 [P, H].
        out: complex64 [K, H, P].

    Returns:
        y float32 [B, L, H].
    """
    driven: Pair = (jnp.einsum("blh,ph->blp", x, into.real), jnp.einsum("blh,ph->blp", x, into.imag))
    y = jnp.zeros_like(x)
    for direction in range(out.shape[0]):
        re, im = linear_scan((decay.real, decay.imag), driven, reverse=direction == 1)
        read = out[direction]
        y = y + jnp.einsum("blp,hp->blh", re, read.real) - jnp.einsum("blp,hp->blh", im, read.imag)
    return y


def real_inputs(x: jax.Array, mask: jax.Array) -> jax.Array:
    """x [B, L, H] in float32, zero where `mask` is False, so that no state hears of padding."""
    return jnp.where(mask[..., None], x, 0).astype(jnp.float32)
