import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.attention.transformer import Attention
from models.mixing.fnet import FNet, choose_method, fourier_fft, fourier_matmul
from models.mixing.fnet_hybrid import FNetHybrid
from tests.helpers.mixing import DIM, build, error, inputs, normal, padding_is_mixed_in, parameter_count


def naive(x):
    """Σ_m Σ_e x[m, e] cos(2π(lm/L + de/D)) in float64: the real part of the double sum of the transform."""
    x = np.asarray(x, np.float64)
    length, dim = x.shape[-2:]
    out = np.zeros_like(x)
    for row in range(length):
        for column in range(dim):
            angle = row * np.arange(length)[:, None] / length + column * np.arange(dim) / dim
            out[..., row, column] = (x * np.cos(2 * np.pi * angle)).sum((-1, -2))
    return out


SIZES = [(16, 8), (13, 8), (12, 7), (17, 9), (1, 4), (5, 1)]


@pytest.mark.parametrize("length, dim", SIZES)
@pytest.mark.parametrize("method", ["fft", "matmul"])
def test_transform_and_its_gradient_are_the_double_sum(method, length, dim):
    x = normal(2, length, dim)
    weight = normal(*x.shape, seed=1)
    mixer = FNet(dim, length, method=method, rngs=nnx.Rngs(0))
    y, pullback = jax.vjp(jax.jit(lambda x: mixer(x, jnp.ones((2, length), bool))), x)
    assert error(y, naive(x)) < 2e-6
    # The kernel cos(2π(lm/L + de/D)) is symmetric, so the double sum is its own transpose.
    assert error(pullback(weight)[0], naive(weight)) < 2e-6


@pytest.mark.parametrize("length, dim", [(1001, 32), (1024, 33)])
def test_fft_and_matrices_agree_at_real_lengths(length, dim):
    x = normal(1, length, dim)
    assert error(fourier_matmul(x), fourier_fft(x)) < 3e-6
    assert error(fourier_fft(x), np.fft.fft2(np.asarray(x, np.float64)).real) < 1e-6


@pytest.mark.parametrize("method, tolerance", [("fft", 2**-8), ("matmul", 0.03)])
def test_bfloat16(method, tolerance):
    # The FFT runs in float32 and rounds once; the matrices and the product between them are bfloat16.
    x, mask = inputs()
    x = x.astype(jnp.bfloat16)
    y = build("fnet", method=method)(x, mask)
    assert y.dtype == jnp.bfloat16
    assert error(y, naive(x)) < tolerance


def test_method_is_chosen_by_length_and_checked():
    assert choose_method(8192, "tpu") == "matmul" and choose_method(8193, "tpu") == "fft"
    assert choose_method(512, "cpu") == choose_method(512, "gpu") == "fft"
    with pytest.raises(ValueError, match="method must be"):
        build("fnet", method="dct")


def test_hybrid_has_attention_in_its_last_layers():
    kinds = [type(FNetHybrid(DIM, 5, layer=i, layers=5, rngs=nnx.Rngs(0)).mixer) for i in range(5)]
    assert kinds == [FNet] * 3 + [Attention] * 2
    one = FNetHybrid(DIM, 5, layer=3, layers=5, attention=1, rngs=nnx.Rngs(0))
    assert isinstance(one.mixer, FNet)
    with pytest.raises(ValueError, match="attention must be at least 0"):
        build("fnet_hybrid", attention=-1)


def test_hybrid_equals_its_parts():
    x, mask = inputs()
    last = build("fnet_hybrid", layer=3, layers=4)
    same = build("transformer")
    assert error(last(x, mask), same(x, mask)) < 1e-6
    first = build("fnet_hybrid", layer=1, layers=4)
    assert error(first(x, mask), naive(x)) < 2e-6


def test_parameters():
    base = 3_487_490 - 4 * 4 * 256**2
    assert parameter_count("fnet") == base
    assert parameter_count("fnet_hybrid") == base + 2 * 4 * 256**2


def test_padding_is_mixed_in():
    # The transform has no mask: said in the docstrings, and so by the mathematics.
    assert padding_is_mixed_in("fnet")
    assert padding_is_mixed_in("fnet_hybrid", layer=1, layers=4)
    assert not padding_is_mixed_in("fnet_hybrid", layer=2, layers=4)
