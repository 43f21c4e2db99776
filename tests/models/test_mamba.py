import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.core.initial import InitialRngs
from models.state_space.mamba import Mamba
from tests.helpers.mixing import assert_equals, build, error, inputs, padding_changes, parameter_count, run
from tests.helpers.recurrences import zeroed


def silu(x, xp):
    return x / (1 + xp.exp(-x))


def one_way(p, u, real, xp):
    """Algorithm 2 of the paper over u [B, L, E], one position after the other; a state that is not real stays."""
    taps, rate, rank = p["taps"], -xp.exp(p["log_rate"]), len(p["step"])
    before = xp.pad(u, ((0, 0), (len(taps) - 1, 0), (0, 0)))
    x = silu(sum(tap * before[:, j : j + u.shape[1]] for j, tap in enumerate(taps)) + p["bias"], xp)
    selected = x @ p["select"]
    low, into, out = selected[..., :rank], selected[..., rank : -rate.shape[1]], selected[..., -rate.shape[1] :]
    step = xp.logaddexp(low @ p["step"] + p["step_bias"], 0 * x)
    decay = xp.where(real[..., None, None], xp.exp(step[..., None] * rate), 1)
    driven = xp.where(real[..., None, None], (step * x)[..., None] * into[:, :, None, :], 0)
    h, states = 0 * driven[:, 0], []
    for t in range(u.shape[1]):
        h = decay[:, t] * h + driven[:, t]
        states.append(h)
    return (xp.stack(states, 1) * out[:, :, None, :]).sum(-1) + p["skip"] * x


def naive(mixer, x, mask, xp=jnp):
    """Figure 3 of the paper; both directions are added before the gate."""
    arrays = {
        "into": mixer.into.kernel, "taps": mixer.taps.kernel, "bias": mixer.taps.bias, "select": mixer.select.kernel,
        "step": mixer.step, "step_bias": mixer.step_bias, "log_rate": mixer.log_rate, "skip": mixer.skip,
        "out": mixer.out.kernel, "backward": mixer.backward,
    }  # fmt: skip
    p = {name: v[...] if xp is jnp else np.asarray(v[...], np.float64) for name, v in arrays.items() if v is not None}
    u, z = xp.split(zeroed(x, mask, xp) @ p["into"], 2, axis=-1)
    y = one_way(p, u, mask, xp)
    if mixer.backward is not None:  # the zeros at the end count as little as those before the first position
        y = y + p["backward"] * one_way(p, u[:, ::-1], mask[:, ::-1], xp)[:, ::-1]
    return ((y * silu(z, xp)) @ p["out"]).astype(x.dtype)


HOLES = jnp.asarray(
    np.array([[1] * 13, [1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1]]) > 0
)


@pytest.mark.parametrize(
    "options",
    [{}, {"bidirectional": False}, {"state": 1, "conv": 1}, {"expand": 2.0, "conv": 7, "state": 3}],
    ids=["default", "causal", "small", "large"],
)
def test_equals_the_recurrence(options):
    x, mask = inputs()
    assert_equals(build("mamba", **options), naive, x, mask, tolerance=3e-5)


def test_a_hole_is_a_zero_to_the_convolution_and_nothing_to_the_state():
    x, _ = inputs()
    assert_equals(build("mamba"), naive, x, HOLES, tolerance=3e-5, rounded=None)


def test_equals_the_recurrence_in_double_precision_as_it_starts():
    x, mask = inputs(301, 32, (301, 150))
    mixer = Mamba(32, 301, rngs=nnx.Rngs(0))
    expected = naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)
    real = np.asarray(mask)
    assert error(run(mixer, x, mask)[real], expected[real]) < 1e-5


def test_causal_means_that_nothing_is_seen_of_what_follows():
    x, mask = inputs(lengths=(13, 13, 13))
    changed = x.at[:, 7:].add(1)
    causal, both = build("mamba", bidirectional=False), build("mamba")
    assert error(run(causal, changed, mask)[:, :7], run(causal, x, mask)[:, :7]) < 1e-6
    assert error(run(both, changed, mask)[:, :7], run(both, x, mask)[:, :7]) > 1e-3


def test_what_is_drawn():
    mixer = Mamba(1024, 8, rngs=nnx.Rngs(0))
    rank, width = 64, 1280
    step = np.asarray(mixer.step[...])
    assert step.shape == (rank, width) and np.abs(step).max() <= rank**-0.5
    np.testing.assert_allclose(np.quantile(step, [0.1, 0.5, 0.9]) * rank**0.5, [-0.8, 0, 0.8], atol=0.02)
    first = np.log1p(np.exp(np.asarray(mixer.step_bias[...], np.float64)))
    at = np.linspace(0, 1, 9)
    np.testing.assert_allclose(np.quantile(np.log10(first), at), -3 + 2 * at, atol=0.1)
    np.testing.assert_allclose(np.exp(mixer.log_rate[...]), np.tile(np.arange(1.0, 17), (width, 1)), rtol=1e-6)
    np.testing.assert_array_equal(mixer.skip[...], np.ones(width))
    np.testing.assert_allclose(np.asarray(mixer.into.kernel[...]).std(), 1024**-0.5, rtol=0.02)
    np.testing.assert_allclose(np.asarray(mixer.out.kernel[...]).std(), width**-0.5, rtol=0.02)
    np.testing.assert_allclose(np.asarray(mixer.select.kernel[...]).std(), width**-0.5, rtol=0.02)


def test_scale_of_what_comes_out_for_white_noise():
    """One way, at width 128: first of all D u ⊙ silu(z), a product of two SiLUs of normal numbers; h adds a seventh."""
    x, mask = inputs(512, 128, (512,))
    z = np.linspace(-8, 8, 10_001)
    square = ((z / (1 + np.exp(-z))) ** 2 * np.exp(-(z**2) / 2)).sum() / np.exp(-(z**2) / 2).sum()
    mixer = Mamba(128, 512, bidirectional=False, rngs=nnx.Rngs(1))
    assert run(mixer, x, mask).std() == pytest.approx(square, rel=0.1)
    mixer.skip[...] = jnp.zeros(160)
    assert run(mixer, x, mask).std() == pytest.approx(0.05, rel=0.3)


def test_linear_maps_start_as_the_recipe_asks():
    mixer = Mamba(64, 8, rngs=InitialRngs(jax.random.key(0), "torch"))
    for layer, inputs_of_it in ((mixer.into, 64), (mixer.taps, 4), (mixer.select, 80), (mixer.out, 80)):
        largest = np.abs(np.asarray(layer.kernel[...])).max()
        assert 0.95 * inputs_of_it**-0.5 < largest <= inputs_of_it**-0.5


def test_parameters():
    mixer = Mamba(40, 13, rngs=nnx.Rngs(0))
    state = nnx.to_pure_dict(nnx.state(mixer, nnx.Param))
    assert jax.tree.map(jnp.shape, state) == {
        "into": {"kernel": (40, 100)}, "taps": {"kernel": (4, 50), "bias": (50,)}, "select": {"kernel": (50, 35)},
        "step": (3, 50), "step_bias": (50,), "log_rate": (50, 16), "skip": (50,), "backward": (50,),
        "out": {"kernel": (50, 40)},
    }  # fmt: skip
    roles = {"log_rate": "A", "step": "step", "step_bias": "step", "skip": "D"}
    assert {name: getattr(mixer, name).get_metadata().get("role") for name in roles} == roles
    one = 256 * 640 + 5 * 320 + 320 * 48 + 17 * 320 + 17 * 320 + 320 + 320 * 256
    assert parameter_count("mamba") == parameter_count("ff_only") + 4 * one
    assert one < 4.2 * 256**2


def test_padding_changes_nothing():
    assert padding_changes("mamba") < 1e-5
    assert padding_changes("mamba", bidirectional=False, pool="mean") < 1e-5


def test_errors():
    for wrong in ({"state": 0}, {"conv": 0}, {"expand": 0.05}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("mamba", **wrong)
