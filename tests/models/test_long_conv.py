import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.convolution.long_conv import LongConv
from tests.helpers.convolutions import convolved
from tests.helpers.mixing import assert_equals, build, error, inputs, padding_changes, parameter_count, run
from tests.helpers.recurrences import zeroed


def naive(mixer, x, mask, xp=jnp):
    """Section 3 of the paper, with the squash operator as it is written there."""
    kernel, skip = (p[...] if xp is jnp else np.asarray(p[...], np.float64) for p in (mixer.kernel, mixer.skip))
    kernel = xp.sign(kernel) * xp.maximum(xp.abs(kernel) - mixer.squash, 0)
    u = zeroed(x, mask, xp)
    return (convolved(u, *kernel, xp=xp) + skip * u).astype(x.dtype)


@pytest.mark.parametrize("options", [{}, {"bidirectional": False}, {"squash": 0.3}, {"squash": 0.0}], ids=str)
def test_equals_the_sum(options):
    x, mask = inputs()
    assert_equals(build("long_conv", **options), naive, x, mask, rounded=0.01)


@pytest.mark.parametrize("length", [1, 2, 7, 301])
def test_equals_the_sum_in_double_precision(length):
    x, mask = inputs(length, 4, (length, (length + 1) // 2))
    mixer = build("long_conv", length, 4, squash=0.1)
    assert error(run(mixer, x, mask), naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)) < 1e-5


def test_shorter_inputs_meet_the_kernel_s_first_lags():
    x, mask = inputs()
    mixer = build("long_conv", 20)
    assert error(run(mixer, x, mask), naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)) < 1e-5


def test_a_causal_kernel_sees_what_precedes_and_the_circle_is_open():
    """Transforms without zeros behind would let the last positions reach the first."""
    x, mask = inputs(lengths=(13,))
    mixer = build("long_conv", bidirectional=False)
    moved = np.abs(run(mixer, x.at[0, 9:].add(1.0), mask) - run(mixer, x, mask)).max((0, 2))
    assert (moved[:9] < 1e-6).all() and (moved[9:] > 1e-3).all()


def test_small_entries_are_squashed_and_get_no_gradient():
    x, mask = inputs(lengths=(13,))
    mixer = build("long_conv", squash=0.3)
    graph, params = nnx.split(mixer, nnx.Param)
    assert 0.1 < (np.abs(mixer.kernel[...]) < 0.3).mean() < 0.9
    gradient = nnx.grad(lambda mixer: (mixer(x, mask) ** 2).sum())(nnx.merge(graph, params)).kernel[...]
    heard = np.abs(mixer.kernel[:, :, :12]) > 0.3  # the last entry that reads backwards has no position to read
    np.testing.assert_array_equal(np.asarray(gradient)[:, :, :12] != 0, heard)


def test_dropped_entries_of_the_kernel():
    """A unit of input reads the kernel out: an entry is dropped for all examples alike, or divided by 1 − rate."""
    length, dim = 40, 50
    mixer = build("long_conv", length, dim, squash=0.0, kernel_dropout=0.25, bidirectional=False)
    mixer.skip[...] = jnp.zeros(dim)
    x = jnp.zeros((2, length, dim)).at[:, 0].set(1.0)
    mask = jnp.ones((2, length), bool)
    kernel, trained = np.asarray(mixer.kernel[0].T), run(mixer, x, mask, seed=3)
    np.testing.assert_allclose(trained[0], trained[1], atol=1e-6)
    kept = np.abs(trained[0]) > 1e-5
    np.testing.assert_allclose(trained[0][kept], kernel[kept] / 0.75, atol=1e-5)
    assert kept.mean() == pytest.approx(0.75, abs=0.03)
    assert (np.abs(run(mixer, x, mask, seed=4)[0]) > 1e-5).mean() == pytest.approx(0.75, abs=0.03)
    assert error(run(mixer, x, mask, seed=4), trained) > 0.1
    np.testing.assert_allclose(run(mixer, x, mask)[0], kernel, atol=1e-5)


def test_what_is_drawn_and_the_scale_for_white_noise():
    """Of N(0, σ²) beyond λ = 1.5 σ: a seventh, whose squashed variance is 2 ((1 + a²) Q(a) − a φ(a)) σ², a = 1.5."""
    x, mask = inputs(1024, 128, (1024,))
    mixer = LongConv(128, 1024, rngs=nnx.Rngs(0))
    kernel = np.asarray(mixer.kernel[...])
    assert kernel.std() == pytest.approx(0.002, rel=0.01) and abs(np.corrcoef(*kernel.reshape(2, -1))[0, 1]) < 0.01
    assert (np.abs(kernel) > 0.003).mean() == pytest.approx(0.1336, abs=0.002)
    assert np.asarray(mixer.skip[...]).std() == pytest.approx(1, rel=0.2)
    mixer.skip[...] = jnp.zeros(128)
    a, density, tail = 1.5, math.exp(-(1.5**2) / 2) / math.sqrt(2 * math.pi), math.erfc(1.5 / math.sqrt(2)) / 2
    variance = 2 * ((1 + a * a) * tail - a * density) * 0.002**2
    assert run(mixer, x, mask).std() == pytest.approx(math.sqrt(1024 * variance), rel=0.05)


def test_parameters():
    mixer = LongConv(8, 13, rngs=nnx.Rngs(0))
    assert mixer.kernel.shape == (2, 8, 13) and mixer.skip.shape == (8,)
    assert mixer.kernel.get_metadata().get("role") == "A" and "role" not in mixer.skip.get_metadata()
    assert parameter_count("long_conv") == parameter_count("ff_only") + 4 * (2 * 256 * 1001 + 256)


def test_padding_changes_nothing():
    assert padding_changes("long_conv") < 1e-5
    assert padding_changes("long_conv", bidirectional=False, pool="mean") < 1e-5


def test_errors():
    for wrong in ({"squash": -0.1}, {"kernel_dropout": 1.0}, {"kernel_dropout": -0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("long_conv", **wrong)
    x, mask = inputs()
    with pytest.raises(ValueError, match="13 positions are more than the 12"):
        build("long_conv", 12)(x, mask)
