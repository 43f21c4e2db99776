import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.core.long_convolution import convolve, fast_length
from tests.helpers.mixing import error, jit, normal


def naive(x, kernel, backward=None):
    """The sums of the docstring, in double precision."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    length, y = x.shape[1], np.zeros(x.shape)
    for t in range(length):
        for s in range(length):
            if s <= t:
                y[:, t] += kernel[:, t - s] * x[:, s]
            elif backward is not None:
                y[:, t] += np.asarray(backward, np.float64)[:, s - t - 1] * x[:, s]
    return y


@pytest.mark.parametrize("length", [1, 2, 7, 16, 33])
@pytest.mark.parametrize("both", [False, True], ids=["causal", "both"])
def test_equals_the_sums(length, both):
    x, *kernels = (normal(*shape, seed=n) for n, shape in enumerate([(2, length, 3), (3, length), (3, length)]))
    kernels = kernels if both else kernels[:1]
    y = convolve(x, *kernels)
    assert y.dtype == jnp.float32
    assert error(y, naive(x, *kernels)) < 1e-6


@pytest.mark.parametrize("both", [False, True], ids=["causal", "both"])
def test_gradients_are_those_of_the_sums(both):
    """The convolution is linear in x and in the kernels: its gradient is its matrix, transposed, written out here."""
    length = 7
    x, *kernels = (normal(*shape, seed=n) for n, shape in enumerate([(2, length, 3), (3, length), (3, length)]))
    kernels = kernels if both else kernels[:1]
    weight = normal(2, length, 3, seed=9)
    given = (x, *kernels)
    gradients = jit(jax.grad(lambda *given: (convolve(*given) * weight).sum(), tuple(range(len(given)))))(*given)
    for number, actual in enumerate(gradients):
        expected = np.zeros(given[number].shape)
        for place in np.ndindex(expected.shape):
            unit = [np.zeros_like(g) if n == number else np.asarray(g) for n, g in enumerate(given)]
            unit[number][place] = 1
            others = [np.zeros_like(g) if n == number else np.asarray(g) for n, g in enumerate(given)]
            expected[place] = ((naive(*unit) - naive(*others)) * np.asarray(weight)).sum()
        assert error(actual, expected) < 2e-6


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sums_of_16_bits_are_rounded_once(dtype):
    x, kernel = normal(2, 100, 3).astype(dtype), normal(3, 100, seed=1)
    y, gradient = jax.value_and_grad(lambda x: convolve(x, kernel).astype(jnp.float32).sum())(x)
    assert convolve(x, kernel).dtype == gradient.dtype == dtype
    single = x.astype(jnp.float32)
    np.testing.assert_array_equal(convolve(x, kernel), convolve(single, kernel).astype(dtype))
    assert np.isfinite(float(y))


def test_long_inputs_keep_their_digits():
    """Against products in double precision: transforms of 32,768 points."""
    x, kernel = normal(1, 16_384, 1), normal(1, 16_384, seed=1)
    expected = np.convolve(np.asarray(x[0, :, 0], np.float64), np.asarray(kernel[0], np.float64))[:16_384]
    assert error(convolve(x, kernel)[0, :, 0], expected) < 1e-6


def test_several_at_once():
    """As when seeds train together: values and gradients of each are those it has alone."""
    x, kernel = normal(2, 2, 7, 3), normal(2, 3, 7, seed=1)
    both = jax.value_and_grad(lambda x, kernel: (convolve(x, kernel, kernel) ** 2).sum(), (0, 1))
    together = jit(jax.vmap(both))(x, kernel)
    alone = [both(x[seed], kernel[seed]) for seed in range(2)]
    for leaf, *expected in zip(*map(jax.tree.leaves, (together, *alone)), strict=True):
        assert error(leaf, jnp.stack(expected)) < 1e-6


def test_fast_lengths():
    """The next even number with factors 2, 3 and 5 alone, found by listing all of them."""
    smooth = sorted(2**a * 3**b * 5**c for a in range(1, 17) for b in range(11) for c in range(8))
    for least in [*range(1, 200), 2 * 4097, 2 * 16_385]:
        assert fast_length(least) == next(n for n in smooth if n >= least)
