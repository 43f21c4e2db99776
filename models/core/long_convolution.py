"""Convolution along positions with kernels as long as the input, by Fourier transforms: time L log L, memory L.

Shapes: B examples, L positions, D features.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def convolve(x: jax.Array, kernel: jax.Array, backward: jax.Array | None = None) -> jax.Array:
    """Convolves each feature with its own kernel, from the left, or from both sides.

        y_t = Σ_{l ≥ 0} kernel_l x_{t−l} + Σ_{l ≥ 1} backward_{l−1} x_{t+l}

    What is before the first and after the last position is zero. Both kernels together count a position itself once,
    since the second begins at its neighbour, as in S4's code (Gu et al. 2021, arXiv:2111.00396). Transforms are
    float32, and their gradients are transforms too; x and the kernels alone are kept for them.

    Args:
        x: [B, L, D] in any floating-point type.
        kernel: [D, L].
        backward: [D, L]; its last entry has no position to read.

    Returns:
        y [B, L, D] in x's type.
    """
    length = x.shape[1]
    points = fast_length(2 * length)
    padded = jnp.pad(kernel.astype(jnp.float32), ((0, 0), (0, points - length)))
    if backward is not None:  # what is l positions ahead is points − l behind, on the circle
        padded += jnp.pad(backward.astype(jnp.float32)[:, ::-1], ((0, 0), (points - length, 0)))
    return _convolve(x, padded)


def fast_length(least: int) -> int:
    """The smallest even number from `least` on without prime factors above 5, for which transforms are fast."""
    found = least + least % 2
    while not _is_smooth(found):
        found += 2
    return found


def _is_smooth(number: int) -> bool:
    for factor in (2, 3, 5):
        while number % factor == 0:
            number //= factor
    return number == 1


def _transform(x: jax.Array, points: int) -> jax.Array:
    """x [B, L, D] of any type → its transform over positions, complex64 [B, D, points / 2 + 1]."""
    return jnp.fft.rfft(x.astype(jnp.float32).swapaxes(1, 2), n=points)


def _back(spectrum: jax.Array, like: jax.Array, points: int) -> jax.Array:
    """The inverse of `_transform`, cut to the length of `like` and in its type."""
    return jnp.fft.irfft(spectrum, n=points)[..., : like.shape[1]].swapaxes(1, 2).astype(like.dtype)


@jax.custom_vjp
def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves x [B, L, D], followed by zeros, with periodic kernels [D, points], points ≥ 2 L."""
    points = kernel.shape[1]
    return _back(_transform(x, points) * jnp.fft.rfft(kernel)[None], x, points)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel), (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Correlations: of g with the kernel, and of g with x."""
    x, kernel = saved
    points = kernel.shape[1]
    of_output = _transform(g, points)
    of_x = _back(of_output * jnp.fft.rfft(kernel).conj()[None], x, points)
    of_kernel = jnp.fft.irfft((of_output * _transform(x, points).conj()).sum(0), n=points)
    return of_x, of_kernel


_convolve.defvjp(_forward, _backward)
