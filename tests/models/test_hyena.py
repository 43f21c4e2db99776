import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.convolution.hyena import Hyena
from models.core.initial import InitialRngs
from tests.helpers.convolutions import convolved
from tests.helpers.mixing import (
    array,
    assert_equals,
    build,
    error,
    inputs,
    normal,
    padding_changes,
    parameter_count,
    run,
)

NETWORK = ("into", "into_bias", "hidden", "hidden_bias", "frequency", "out")


def filters_of(filters, length, xp=jnp):
    """Section 3.3 of the paper and the authors' constants: [N − 1, H, length]."""
    into, into_bias, hidden, hidden_bias, frequency, out = (
        p[...] if xp is jnp else np.asarray(p[...], np.float64) for p in (getattr(filters, name) for name in NETWORK)
    )
    count, _, dim = out.shape
    bands = np.linspace(1e-4, 15, 16)
    slow, fast = math.log(0.01) / 1.5, math.log(0.01) / 0.3
    delta = np.abs(np.linspace(slow, fast, dim * count)).reshape(dim, count).T  # a feature's filters are neighbours
    lag = np.arange(length)[:, None]
    t, phase = lag / max(filters.length - 1, 1), 2 * np.pi * bands * lag / filters.length
    s = np.concatenate([t, np.cos(phase), -np.sin(phase)], -1).astype(into.dtype)
    for weight, bias in ((into, into_bias), (hidden[0], hidden_bias[0]), (hidden[1], hidden_bias[1])):
        s = xp.sin(frequency * (s @ weight + bias))
    return (xp.swapaxes(s @ out, 1, 2) * np.exp(-delta[..., None] * t[:, 0])).astype(out.dtype)


def operate(mixer, x, xp=jnp):
    """The order-N operator on one document [1, n, H] without padding, before its last linear map."""
    kernel, bias, short, short_bias, skip = (
        p[...].astype(np.float32) if xp is jnp else np.asarray(p[...], np.float64)
        for p in (mixer.into.kernel, mixer.into.bias, mixer.short.kernel, mixer.short.bias, mixer.skip)
    )
    p = xp.pad(x @ kernel + bias, ((0, 0), (2, 0), (0, 0)))
    streams = xp.stack([(short * p[:, t : t + 3]).sum(1) + short_bias for t in range(x.shape[1])], 1)
    *gates, v = xp.split(streams, mixer.order + 1, axis=-1)
    filters = filters_of(mixer.filters, x.shape[1], xp)
    for number in range(mixer.order - 1, 0, -1):
        v = gates[number] * v
        v = convolved(v, filters[number - 1], xp=xp) + skip[number - 1] * v
    return gates[0] * v


def naive(lengths, xp=jnp):
    """The reference for documents of these lengths, each by itself and reversed by itself."""

    def call(mixer, x, mask):
        out, bias = array(mixer.out.kernel, xp), array(mixer.out.bias, xp)
        rows = []
        for document, length in enumerate(lengths):
            real = x[document : document + 1, :length]
            y = operate(mixer, real, xp)
            if mixer.backward is not None:
                y = y + array(mixer.backward, xp) * operate(mixer, real[:, ::-1], xp)[:, ::-1]
            rows.append(xp.pad((y @ out + bias)[0], ((0, x.shape[1] - length), (0, 0))))
        return xp.stack(rows).astype(x.dtype)

    return call


LENGTHS = (13, 7, 1)


@pytest.mark.parametrize("options", [{}, {"bidirectional": False}, {"order": 4, "filter_width": 6}], ids=str)
def test_equals_the_operator(options):
    x, mask = inputs(lengths=LENGTHS)
    assert_equals(calmed(build("hyena", **options)), naive(LENGTHS), x, mask, tolerance=2e-5, rounded=0.05)


def calmed(mixer):
    """Sines with small arguments, as no rounding of 16 bits could be followed through those that turn many times."""
    mixer.filters.frequency[...] = 0.5 * mixer.filters.frequency[...]
    return mixer


@pytest.mark.parametrize(("length", "lengths"), [(1, (1,)), (2, (2, 1)), (151, (151, 70))])
def test_equals_the_operator_in_double_precision_as_it_starts(length, lengths):
    x, mask = inputs(length, 4, lengths)
    mixer = Hyena(4, length, order=3, rngs=nnx.Rngs(0))
    expected = naive(lengths, np)(mixer, np.asarray(x, np.float64), mask)
    real = np.asarray(mask)[..., None]
    assert error(real * run(mixer, x, mask), expected) < 2e-5


def test_shorter_inputs_meet_the_first_lags_of_the_model_s_filters():
    mixer = build("hyena", 20)
    assert error(mixer.filters(13), filters_of(mixer.filters, 20, np)[..., :13]) < 1e-5
    x, mask = inputs(lengths=LENGTHS)
    expected = naive(LENGTHS, np)(mixer, np.asarray(x, np.float64), mask)
    assert error(np.asarray(mask)[..., None] * run(mixer, x, mask), expected) < 2e-5


def test_one_way_sees_what_precedes_and_the_circle_is_open():
    """Transforms without zeros behind would let the last positions reach the first."""
    x, mask = inputs(lengths=(13,))
    mixer = build("hyena", bidirectional=False)
    moved = np.abs(run(mixer, x.at[0, 9:].add(1.0), mask) - run(mixer, x, mask)).max((0, 2))
    assert (moved[:9] < 1e-6).all() and (moved[9:] > 1e-3).all()
    moved = np.abs(run(build("hyena"), x.at[0, 6].add(1.0), mask) - run(build("hyena"), x, mask)).max((0, 2))
    assert (moved > 1e-4).all()


def test_a_hole_in_the_mask_is_not_read():
    x, _ = inputs(lengths=(13,))
    mask = jnp.ones((1, 13), bool).at[0, 4].set(False)
    mixer = build("hyena")
    assert error(run(mixer, x.at[0, 4].set(100.0), mask), run(mixer, x, mask)) < 1e-6


def test_16_bits_are_rounded_around_the_linear_maps_alone():
    """Short and long convolutions, filters and gates are float32: here with maps that do nothing else."""
    (x, mask), mixer = inputs(lengths=LENGTHS), build("hyena")
    streams = normal(3, 13, 24, seed=2).astype(jnp.bfloat16)
    mixer.into, mixer.out = (lambda x: streams.astype(x.dtype)), (lambda y: y)
    half, single = mixer(x.astype(jnp.bfloat16), mask), mixer(x, mask)
    assert half.dtype == jnp.bfloat16 and single.dtype == jnp.float32
    np.testing.assert_array_equal(half, single.astype(jnp.bfloat16))


def test_what_is_drawn():
    mixer = Hyena(256, 1001, order=3, rngs=nnx.Rngs(0))
    filters = mixer.filters
    for weight in (filters.into, filters.hidden, filters.out):
        assert np.asarray(weight[...]).std() == pytest.approx(0.02, rel=0.05)
    assert not filters.into_bias[...].any() and not filters.hidden_bias[...].any()
    assert (filters.frequency[...] == 14).all()
    assert np.asarray(mixer.skip[...]).std() == pytest.approx(1, rel=0.1)
    assert np.asarray(mixer.into.kernel[...]).std() == pytest.approx(256**-0.5, rel=0.03)
    assert np.asarray(mixer.short.kernel[...]).std() == pytest.approx(3**-0.5, rel=0.05)
    torch = Hyena(256, 8, rngs=InitialRngs(nnx.Rngs(0).params(), "torch"))
    assert np.abs(torch.short.kernel[...]).max() == pytest.approx(3**-0.5, rel=0.01)
    assert np.asarray(torch.filters.hidden[...]).std() == pytest.approx(0.02, rel=0.05)


def test_scale_of_filters_and_of_what_comes_out_for_white_noise():
    """E[sin²] = (1 − e^{−2v}) / 2 for sines of N(0, v), of which v = 14² · 0.02² · Σ s² in each layer.

    Without window the last map then gives 0.02² · Σ s². Under windows the squares of L = 1,024 lags add up to L / 2δ
    of that, for rates δ from 3.07 to 15.4, and s x⁰ x¹ v adds 1. Both ways that is twice
    as much.
    """
    x, mask = inputs(1024, 256, (1024,))
    mixer = Hyena(256, 1024, bidirectional=False, rngs=nnx.Rngs(1))
    total = 16.3  # of the squares of z
    for _ in range(3):
        total = 64 * (1 - math.exp(-2 * 14**2 * 0.02**2 * total)) / 2
    variance = 0.02**2 * total
    bare = mixer.filters(1024) / mixer.filters.windows(mixer.filters.lags(1024)[0])
    assert np.asarray(bare).std() == pytest.approx(math.sqrt(variance), rel=0.1)
    reach = 1024 * math.log(5) / 2 / (math.log(100) * (1 / 0.3 - 1 / 1.5))
    expected = math.sqrt(1 + variance * reach)
    assert run(mixer, x, mask)[:, 256:768].std() == pytest.approx(expected, rel=0.1)
    both = Hyena(256, 1024, rngs=nnx.Rngs(1))
    assert run(both, x, mask)[:, 256:768].std() == pytest.approx(math.sqrt(2) * expected, rel=0.1)


def test_windows_fall_to_a_hundredth_between_0_3_and_1_5_of_the_length():
    filters = build("hyena", 301).filters
    t = jnp.array([0.0, 0.3, 1.5])
    windows = np.asarray(filters.windows(t))[0]
    np.testing.assert_allclose(windows[:, 0], 1)
    np.testing.assert_allclose([windows[0, 2], windows[-1, 1]], 0.01, rtol=1e-4)
    assert (np.diff(windows[:, 1]) < 0).all()


def test_parameters():
    mixer = build("hyena")
    assert {name: getattr(mixer.filters, name).shape for name in NETWORK} == {
        "into": (33, 64), "into_bias": (64,), "hidden": (2, 64, 64), "hidden_bias": (2, 64), "frequency": (64,),
        "out": (1, 64, 8),
    }  # fmt: skip
    assert {getattr(mixer.filters, name).get_metadata().get("role") for name in NETWORK} == {"A"}
    assert "role" not in mixer.skip.get_metadata() and mixer.skip.shape == (1, 8)
    network = 33 * 64 + 64 + 2 * (64 * 64 + 64) + 64 + 64 * 256
    rest = 256 * 768 + 768 + 3 * 768 + 768 + 256 + 256 + 256 * 256 + 256
    assert parameter_count("hyena") == parameter_count("ff_only") + 4 * (network + rest)


def test_padding_changes_nothing():
    assert padding_changes("hyena") < 1e-5
    assert padding_changes("hyena", bidirectional=False, order=3, pool="mean") < 1e-5


def test_errors():
    for wrong in ({"order": 1}, {"filter_width": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("hyena", **wrong)
