"""FNet: the real part of a two-dimensional Fourier transform instead of attention."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.core import rader

Method = Literal["auto", "fft", "matmul"]


def fourier_fft(x: jax.Array) -> jax.Array:
    """Computes Re(F_L x F_D) of real x [..., L, D] by fast Fourier transforms, in float32.

    The hidden dimension uses the real transform, so only ⌊D/2⌋ + 1 columns are transformed along L; the remaining
    ones follow from the symmetry Y[l, D − d] = conj(Y[−l, d]) of a real signal's spectrum. On a CPU, lengths with a
    large prime factor, which a CLS token makes of round ones, go by Rader's algorithm (`models.core.rader`).
    """
    length, dim = x.shape[-2:]
    plan = rader.plan(length) if jax.default_backend() == "cpu" else None
    if plan is not None:
        return _fourier_rader(x, plan)
    half = jnp.fft.fft(jnp.fft.rfft(x.astype(jnp.float32), axis=-1), axis=-2).real
    mirrored = jnp.roll(jnp.flip(half[..., 1 : (dim + 1) // 2], axis=(-2, -1)), 1, axis=-2)
    return jnp.concatenate([half, mirrored], axis=-1).astype(x.dtype)


def _fourier_rader(x: jax.Array, plan: rader.Plan) -> jax.Array:
    """`fourier_fft` for lengths that have a plan."""
    length, dim = x.shape[-2:]
    rows = jnp.fft.rfft(x.astype(jnp.float32)[..., plan.order, :], axis=-1)
    half = rader.real_of_transform(rows.swapaxes(-1, -2), plan).swapaxes(-1, -2)
    mirrored = jnp.flip(half[..., 1 : (dim + 1) // 2], axis=-1)[..., plan.place[-np.arange(length)], :]
    return jnp.concatenate([half[..., plan.place, :], mirrored], axis=-1).astype(x.dtype)


def fourier_matmul(x: jax.Array) -> jax.Array:
    """Computes Re(F_L x F_D) by matrix products with the real and imaginary parts of the DFT matrices.

    Re(F_L x F_D) = C_L x C_D − S_L x S_D with C = cos(2πjk/n), S = sin(2πjk/n); 2·L·D·(L + D) products.
    """
    cos_l, sin_l = _dft(x.shape[-2], x.dtype)
    cos_d, sin_d = _dft(x.shape[-1], x.dtype)
    return cos_l @ (x @ cos_d) - sin_l @ (x @ sin_d)


def _dft(n: int, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    # jk is reduced modulo n in integers: in float32 a large jk would lose the digits of its angle.
    step = jnp.arange(n, dtype=jnp.uint32)
    angle = (step[:, None] * step[None, :] % n).astype(jnp.float32) * (2 * jnp.pi / n)
    return jnp.cos(angle).astype(dtype), jnp.sin(angle).astype(dtype)


@jax.custom_vjp
def _fft_mixing(x: jax.Array) -> jax.Array:
    return fourier_fft(x)


# x ↦ Re(F x F) has the symmetric kernel cos(2π(lm/L + de/D)): it is its own transpose.
_fft_mixing.defvjp(lambda x: (fourier_fft(x), None), lambda _, g: (fourier_fft(g),))


class FNet(nnx.Module):
    """FNet: Mixing Tokens with Fourier Transforms. Lee-Thorp et al. 2021, arXiv:2105.03824, eq. 3.

        out = Re(F_L(F_D(x)))

    No parameters. Time L·D·log(L·D) with the FFT, L²·D with the matrix products; memory L·D, plus L² for the
    products' matrices. `auto` is the paper's rule: on TPUs matrix products up to length 8,192 and the FFT
    beyond, elsewhere the FFT. The FFT is computed in float32 whatever the input's type, the matrix products
    in the input's type.

    The padding mask is not used: every position is mixed with every other, padding included, as in the paper.
    Logits therefore depend on the length that inputs are padded to.
    """

    def __init__(self, dim: int, length: int, *, method: Method = "auto", rngs: nnx.Rngs):
        if method not in ("auto", "fft", "matmul"):
            raise ValueError(f"method must be auto, fft or matmul, not {method!r}")
        if method == "auto":
            method = choose_method(length, jax.default_backend())
        self.method = method

    def __call__(self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return _fft_mixing(x) if self.method == "fft" else fourier_matmul(x)


def choose_method(length: int, backend: str) -> Method:
    """Chooses the faster method for a length, by the paper's measurements (section 3.2 and abstract)."""
    return "matmul" if backend == "tpu" and length <= 8192 else "fft"
