import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.convolution.sgconv import SGConv, count_kernels
from tests.helpers.convolutions import convolved
from tests.helpers.mixing import assert_equals, build, error, inputs, padding_changes, parameter_count, run
from tests.helpers.recurrences import zeroed

PLAIN = {"taps": 2}
DECAYING = {"taps": 2, "alpha_min": 1.0, "alpha_max": 1.0, "power": 1.0}
SPREAD = {"taps": 3, "alpha_min": 1.0, "alpha_max": 3.0, "scale": 1}


def stretching(taps, factor):
    """The linear map [d, d · factor] of an interpolation with constant ends, tap j at (j + ½) · factor."""
    places = (np.arange(taps * factor) + 0.5) / factor - 0.5
    return np.stack([np.interp(places, np.arange(taps), unit) for unit in np.eye(taps)])


def joined(taps, options, xp=jnp):
    """The kernels [K, H, all lags] of the paper's section 3.2, before they are normalised, from w [K, S, H, d]."""
    options = {"alpha_min": 2.0, "alpha_max": 2.0, "power": 0.0, "scale": 0} | options
    alpha = np.linspace(options["alpha_min"], options["alpha_max"], taps.shape[2])[:, None]
    parts = []
    for i in range(taps.shape[1]):
        factor = 2 ** (max(i - 1, 0) + options["scale"])
        parts.append(alpha**-i * (taps[:, i] @ stretching(taps.shape[3], factor)))
    kernel = xp.concatenate(parts, -1)
    return kernel * np.arange(1, kernel.shape[-1] + 1.0) ** -options["power"]


def naive(options):
    def call(mixer, x, mask, xp=jnp):
        taps, gain, skip = (
            p[...] if xp is jnp else np.asarray(p[...], np.float64) for p in (mixer.taps, mixer.gain, mixer.skip)
        )
        u = zeroed(x, mask, xp)
        return (convolved(u, *(joined(taps, options, xp) * gain), xp=xp) + skip * u).astype(x.dtype)

    return call


@pytest.mark.parametrize("options", [PLAIN, DECAYING, SPREAD], ids=["plain", "decaying", "spread"])
def test_equals_the_sum(options):
    x, mask = inputs()
    assert_equals(build("sgconv", **options), naive(options), x, mask, tolerance=2e-5, rounded=0.01)


def test_one_way():
    x, mask = inputs()
    mixer = build("sgconv", bidirectional=False, **PLAIN)
    assert_equals(mixer, naive(PLAIN), x, mask, tolerance=2e-5, rounded=0.01)
    moved = np.abs(run(mixer, x.at[:, 9:].add(1.0), mask) - run(mixer, x, mask))[0].max(1)
    assert (moved[:9] < 1e-6).all() and (moved[9:] > 1e-3).all()


@pytest.mark.parametrize(
    ("length", "options"),
    [
        (1, PLAIN),
        (2, SPREAD),
        (7, {"taps": 32}),
        (301, {"taps": 1}),
        (301, DECAYING),
        (301, SPREAD | {"init": "cosine"}),
    ],
    ids=str,
)
def test_equals_the_sum_in_double_precision_as_it_starts(length, options):
    """The norm of all lags, those beyond the input too, is taken out."""
    x, mask = inputs(length, 4, (length, (length + 1) // 2))
    mixer = SGConv(4, length, **options, rngs=nnx.Rngs(0))
    kernel = joined(np.asarray(mixer.taps[...], np.float64), options, np)
    assert kernel.shape[-1] >= length
    np.testing.assert_allclose(mixer.gain[..., 0], 1 / np.sqrt((kernel**2).sum(-1)), rtol=1e-5)
    expected = naive(options)(mixer, np.asarray(x, np.float64), np.asarray(mask), np)
    assert error(run(mixer, x, mask), expected) < 1e-5


def test_shorter_inputs_meet_the_kernel_s_first_lags():
    x, mask = inputs()
    mixer = build("sgconv", 100, **PLAIN)
    assert error(run(mixer, x, mask), naive(PLAIN)(mixer, np.asarray(x, np.float64), np.asarray(mask), np)) < 1e-5


def test_the_norm_is_that_of_the_start_and_stays():
    x, mask = inputs(lengths=(13,))
    mixer = SGConv(8, 13, rngs=nnx.Rngs(0))
    mixer.skip[...] = jnp.zeros(8)
    before = run(mixer, x, mask)
    mixer.taps[...] = 3 * mixer.taps[...]
    np.testing.assert_allclose(run(mixer, x, mask), 3 * before, atol=1e-5)
    assert {path[-1] for path, _ in nnx.to_flat_state(nnx.state(mixer, nnx.Param))} == {"taps", "skip"}


@pytest.mark.parametrize(
    ("length", "taps", "kernels"), [(1, 1, 1), (1024, 32, 6), (1025, 32, 7), (4096, 2, 12), (2048, 1, 12), (20, 32, 1)]
)
def test_as_many_small_kernels_as_reach_the_length(length, taps, kernels):
    assert count_kernels(length, taps, 0) == kernels == max(1, 1 + math.ceil(math.log2(length / taps)))
    assert count_kernels(length, taps, 1) == max(1, kernels - 1)
    for scale in (0, 1, 2):
        factors = [2 ** (max(i - 1, 0) + scale) for i in range(count_kernels(length, taps, scale))]
        assert taps * sum(factors) >= length


def test_what_is_drawn():
    taps = np.asarray(SGConv(256, 1024, taps=16, rngs=nnx.Rngs(0)).taps[...])
    assert taps.shape == (2, 7, 256, 16)
    assert taps.mean() == pytest.approx(0, abs=0.02) and taps.std() == pytest.approx(1, rel=0.02)
    assert abs(np.corrcoef(*taps.reshape(2, -1))[0, 1]) < 0.02
    assert np.asarray(SGConv(512, 8, rngs=nnx.Rngs(0)).skip[...]).std() == pytest.approx(1, rel=0.1)


def test_cosines_of_all_periods_in_a_random_order():
    taps = np.asarray(SGConv(16, 256, taps=64, init="cosine", rngs=nnx.Rngs(0)).taps[...])
    np.testing.assert_array_equal(taps[0], taps[1])
    waves = np.cos(2 * np.pi * np.arange(16)[:, None] * np.linspace(0, 1, 64))
    orders = [np.abs(taps[0, i][:, None] - waves).max(-1).argmin(-1) for i in range(taps.shape[1])]
    for i, order in enumerate(orders):
        assert sorted(order) == list(range(16)) and list(order) != sorted(order)
        np.testing.assert_allclose(taps[0, i], waves[order], atol=1e-4)
    assert len({tuple(order) for order in orders}) == len(orders)


def test_scale_of_what_comes_out_for_white_noise():
    """1 for each direction far from the ends, since each kernel's norm is 1."""
    x, mask = inputs(1024, 128, (1024,))
    for bidirectional in (False, True):
        mixer = SGConv(128, 1024, taps=2, bidirectional=bidirectional, rngs=nnx.Rngs(1))
        mixer.skip[...] = jnp.zeros(128)
        middle = run(mixer, x, mask)[:, 256:768]
        assert middle.std() == pytest.approx(math.sqrt(1 + bidirectional), rel=0.05)


def test_parameters():
    mixer = SGConv(8, 13, taps=2, rngs=nnx.Rngs(0))
    assert mixer.taps.shape == (2, 4, 8, 2) and mixer.gain.shape == (2, 8, 1)
    assert mixer.taps.get_metadata().get("role") == "A" and "role" not in mixer.skip.get_metadata()
    kernels = 1 + math.ceil(math.log2(1001 / 32))
    assert parameter_count("sgconv") == parameter_count("ff_only") + 4 * (2 * kernels * 256 * 32 + 256)


def test_a_hole_in_the_mask_is_read_as_a_zero_and_16_bits_are_rounded_once():
    x, _ = inputs(lengths=(13,))
    mask, mixer = jnp.ones((1, 13), bool).at[0, 4].set(False), build("sgconv", **PLAIN)
    changed = run(mixer, x.at[0, 4].set(100.0), mask)
    assert error(changed, run(mixer, x.at[0, 4].set(0.0), jnp.ones_like(mask))) < 1e-6
    half = x.astype(jnp.bfloat16)
    y, single = mixer(half, mask), mixer(half.astype(jnp.float32), mask)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, single.astype(jnp.bfloat16))


def test_padding_changes_nothing():
    assert padding_changes("sgconv", taps=2) < 1e-5
    assert padding_changes("sgconv", bidirectional=False, pool="mean") < 1e-5


def test_errors():
    wrongs = ({"taps": 0}, {"alpha_min": 0.0}, {"alpha_max": -1.0}, {"scale": -1}, {"init": "sine"})
    for wrong in wrongs:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("sgconv", **wrong)
    x, mask = inputs(100, lengths=(100,))
    with pytest.raises(ValueError, match="100 positions are more than the 16"):
        build("sgconv", taps=2)(x, mask)
