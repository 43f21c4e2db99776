"""Mixers as a user might write them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Poles(nnx.Module):
    """A linear recurrence x_t = p x_{t−1} + u_t with a complex pole for each channel, by FFT."""

    def __init__(self, dim: int, length: int, *, rngs: nnx.Rngs):
        angle = np.linspace(0.0, 3.0, dim)
        self.pole = nnx.Param(jnp.asarray(0.9 * np.exp(1j * angle), jnp.complex64))
        self.bytes = nnx.Variable(jnp.arange(5, dtype=jnp.int8))

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        length = x.shape[1]
        kernel = (self.pole[...][None, :] ** jnp.arange(length)[:, None].astype(jnp.complex64)).real
        spectra = [jnp.fft.rfft(part.astype(jnp.float32), 2 * length, axis=-2) for part in (x, kernel)]
        return jnp.fft.irfft(spectra[0] * spectra[1][None], axis=1)[:, :length].astype(x.dtype)


class Drops(nnx.Module):
    """Two dropout layers with keys of their own, as Flax's guides write them."""

    def __init__(self, dim: int, length: int, *, rngs: nnx.Rngs):
        self.first = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.first(jnp.ones_like(x)) + 10 * self.second(jnp.ones_like(x))


class Averages(nnx.Module):
    """Running statistics, as Flax's batch norm has them."""

    def __init__(self, dim: int, length: int, *, rngs: nnx.Rngs):
        self.norm = nnx.BatchNorm(dim, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.norm(x)


class Counts(nnx.Module):
    """A variable of its own that it changes, and nothing would keep."""

    def __init__(self, dim: int, length: int, *, rngs: nnx.Rngs):
        self.calls = nnx.Variable(jnp.zeros(()))

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        self.calls[...] += 1
        return x
