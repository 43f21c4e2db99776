"""FNet's two methods against the Fourier transform's defining double sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.fnet import FNet, choose_method, fourier_fft, fourier_matmul

SIZES = [(8, 6), (7, 5), (12, 9), (1, 4), (5, 1), (2, 2)]


def double_sum(x: np.ndarray) -> np.ndarray:
    """Re Σ_l Σ_d x[l, d] exp(−2πi (lm/L + de/D)), term by term in float64."""
    length, dim = x.shape
    out = np.zeros((length, dim))
    for m in range(length):
        for e in range(dim):
            for l in range(length):
                for d in range(dim):
                    out[m, e] += (x[l, d] * np.exp(-2j * np.pi * (l * m / length + d * e / dim))).real
    return out


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", [fourier_fft, fourier_matmul])
def test_both_methods_are_the_double_sum(size, method):
    x = np.random.default_rng(0).normal(size=(2, *size)).astype(np.float32)
    expected = np.stack([double_sum(row) for row in x])
    np.testing.assert_allclose(method(jnp.asarray(x)), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("size", [(64, 32), (101, 48), (1000, 16)])
def test_the_methods_agree_to_float32_rounding(size):
    x = jax.random.normal(jax.random.key(1), (2, *size))
    a, b = fourier_fft(x), fourier_matmul(x)
    np.testing.assert_allclose(a, b, atol=3e-6 * float(jnp.abs(a).max()))


@pytest.mark.parametrize("method", ["fft", "matmul"])
def test_gradients_are_those_of_the_defining_sum(method):
    mixer = FNet(6, 7, method=method, rngs=nnx.Rngs(0))
    mask = jnp.ones((1, 7), bool)
    x, g = (jax.random.normal(jax.random.key(k), (1, 7, 6)) for k in (2, 3))
    gradient = jax.grad(lambda x: (mixer(x, mask) * g).sum())(x)
    # The transform is linear with a symmetric kernel: its transpose is itself.
    np.testing.assert_allclose(gradient[0], double_sum(np.asarray(g[0])), atol=2e-5)


def test_bfloat16_input_is_transformed_in_float32():
    x = jax.random.normal(jax.random.key(0), (1, 32, 16)).astype(jnp.bfloat16)
    out = fourier_fft(x)
    assert out.dtype == jnp.bfloat16
    exact = fourier_fft(x.astype(jnp.float32))
    np.testing.assert_allclose(out.astype(jnp.float32), exact, rtol=2**-8, atol=1e-3)


def test_auto_is_the_paper_s_switch():
    assert choose_method(8192, "tpu") == "matmul"
    assert choose_method(8193, "tpu") == "fft"
    assert choose_method(512, "gpu") == "fft"
    with pytest.raises(ValueError, match="method"):
        FNet(4, 4, method="fast", rngs=nnx.Rngs(0))  # type: ignore[arg-type]
