import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.core.initial import InitialRngs
from models.recurrent.mamba2 import Mamba2
from tests.helpers.mixing import assert_equals, build, error, inputs, padding_changes, parameter_count, run
from tests.helpers.recurrences import zeroed


def silu(x, xp):
    return x / (1 + xp.exp(-x))


def one_way(p, parts, real, xp):
    """Sections 6 and 7 of the paper, one position after the other; a state that is not real stays."""
    taps, heads, width = p["taps"], len(p["skip"]), len(p["gain"])
    u, logits = parts[..., :-heads], parts[..., -heads:]
    before = xp.pad(u, ((0, 0), (len(taps) - 1, 0), (0, 0)))
    u = silu(sum(tap * before[:, j : j + u.shape[1]] for j, tap in enumerate(taps)) + p["bias"], xp)
    x, (into, out) = u[..., :width], xp.split(u[..., width:], 2, axis=-1)
    x = x.reshape(*x.shape[:2], heads, -1)
    step = xp.where(real[..., None], xp.logaddexp(logits + p["step_bias"], 0 * logits), 0)
    decay = xp.exp(-step * xp.exp(p["log_rate"]))
    state, read = 0 * x[:, 0, :, None, :] * into[:, 0, None, :, None], []
    for t in range(x.shape[1]):
        driven = into[:, t, None, :, None] * (step[:, t, :, None] * x[:, t])[:, :, None, :]
        state = decay[:, t, :, None, None] * state + driven
        read.append((state * out[:, t, None, :, None]).sum(-2) + p["skip"][:, None] * x[:, t])
    return xp.stack(read, 1).reshape(*x.shape[:2], width)


def naive(mixer, x, mask, xp=jnp):
    """Both directions are added before the gate and the norm."""
    arrays = {
        "into": mixer.into.kernel, "taps": mixer.taps.kernel, "bias": mixer.taps.bias, "skip": mixer.skip,
        "log_rate": mixer.decay.log_rate, "step_bias": mixer.decay.step_bias, "gain": mixer.gain,
        "out": mixer.out.kernel, "backward": mixer.backward,
    }  # fmt: skip
    p = {name: v[...] if xp is jnp else np.asarray(v[...], np.float64) for name, v in arrays.items() if v is not None}
    projected, width = zeroed(x, mask, xp) @ p["into"], len(p["gain"])
    z, parts = projected[..., :width], projected[..., width:]
    y = one_way(p, parts, mask, xp)
    if mixer.backward is not None:  # the zeros at the end count as little as those before the first position
        y = y + p["backward"] * one_way(p, parts[:, ::-1], mask[:, ::-1], xp)[:, ::-1]
    y = y * silu(z, xp)
    y = y / xp.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * p["gain"]
    return (y @ p["out"]).astype(x.dtype)


HOLES = jnp.asarray(
    np.array([[1] * 13, [1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1]]) > 0
)


@pytest.mark.parametrize(
    "options",
    [{"state": 5}, {"bidirectional": False, "state": 3}, {"state": 1, "conv": 1}, {"expand": 2.0, "conv": 7}],
    ids=["default", "causal", "small", "large"],
)
def test_equals_the_recurrence(options):
    x, mask = inputs()
    assert_equals(build("mamba2", **options), naive, x, mask, tolerance=3e-5, rounded=0.05)


def test_a_hole_is_a_zero_to_the_convolution_and_nothing_to_the_state():
    x, _ = inputs()
    assert_equals(build("mamba2", state=5), naive, x, HOLES, tolerance=3e-5, rounded=None)


def test_equals_the_recurrence_in_double_precision_as_it_starts():
    x, mask = inputs(301, 32, (301, 150))
    mixer = Mamba2(32, 301, rngs=nnx.Rngs(0))
    expected = naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)
    real = np.asarray(mask)
    assert error(run(mixer, x, mask)[real], expected[real]) < 1e-5


@pytest.mark.parametrize("bias", [-50.0, 50.0])
def test_steps_that_vanish_or_erase_everything_are_exact(bias):
    x, mask = inputs(150, lengths=(150, 70))
    mixer = build("mamba2", 150, state=5)
    mixer.decay.step_bias[...] = jnp.full((2,), bias)
    expected = naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)
    real = np.asarray(mask)
    assert error(run(mixer, x, mask)[real], expected[real]) < 2e-5


def test_causal_means_that_nothing_is_seen_of_what_follows():
    x, mask = inputs(lengths=(13, 13, 13))
    changed = x.at[:, 7:].add(1)
    causal, both = build("mamba2", bidirectional=False), build("mamba2")
    assert error(run(causal, changed, mask)[:, :7], run(causal, x, mask)[:, :7]) < 1e-6
    assert error(run(both, changed, mask)[:, :7], run(both, x, mask)[:, :7]) > 1e-3


def test_what_is_drawn():
    mixer = Mamba2(1024, 8, heads=1024, rngs=nnx.Rngs(0))
    at = np.linspace(0, 1, 9)
    rate = np.exp(np.asarray(mixer.decay.log_rate[...], np.float64))
    np.testing.assert_allclose(np.quantile(rate, at), 1 + 15 * at, atol=1.0)
    assert rate.min() >= 1 - 1e-5 and rate.max() <= 16 + 1e-5
    first = np.log1p(np.exp(np.asarray(mixer.decay.step_bias[...], np.float64)))
    np.testing.assert_allclose(np.quantile(np.log10(first), at), -3 + 2 * at, atol=0.1)
    assert abs(np.corrcoef(rate, np.log(first))[0, 1]) < 0.1
    np.testing.assert_array_equal(mixer.skip[...], np.ones(1024))
    np.testing.assert_array_equal(mixer.gain[...], np.ones(1024))
    np.testing.assert_allclose(np.asarray(mixer.into.kernel[...]).std(), 1024**-0.5, rtol=0.02)
    np.testing.assert_allclose(np.asarray(mixer.taps.kernel[...]).std(), 0.5, rtol=0.05)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_scale_of_what_comes_out_for_white_noise(bidirectional):
    """RMS makes it one, whatever the states hold."""
    x, mask = inputs(400, 64, (400, 400))
    assert run(Mamba2(64, 400, bidirectional=bidirectional, rngs=nnx.Rngs(1)), x, mask).std() == pytest.approx(
        1, rel=0.1
    )


def test_memory_matters_as_it_starts():
    """Beside D x, a SiLU of normal numbers, what the states give to white noise is a quarter to a half."""
    x, mask = inputs(400, 64, (400,))
    mixer = Mamba2(64, 400, bidirectional=False, rngs=nnx.Rngs(1))
    parts = mixer.into(x)[..., 80:]
    whole = np.asarray(mixer._scan(parts, mask))
    mixer.skip[...] = jnp.zeros(4)
    states = np.asarray(mixer._scan(parts, mask))
    assert np.sqrt(((whole - states) ** 2).mean()) == pytest.approx(0.596, rel=0.1)
    assert 0.1 < states.std() < 0.4


def test_linear_maps_start_as_the_recipe_asks():
    mixer = Mamba2(64, 8, rngs=InitialRngs(jax.random.key(0), "torch"))
    for layer, inputs_of_it in ((mixer.into, 64), (mixer.taps, 4), (mixer.out, 80)):
        largest = np.abs(np.asarray(layer.kernel[...])).max()
        assert 0.95 * inputs_of_it**-0.5 < largest <= inputs_of_it**-0.5


def test_parameters():
    mixer = Mamba2(40, 13, heads=5, state=6, rngs=nnx.Rngs(0))
    state = nnx.to_pure_dict(nnx.state(mixer, nnx.Param))
    assert jax.tree.map(jnp.shape, state) == {
        "into": {"kernel": (40, 117)}, "taps": {"kernel": (4, 62), "bias": (62,)},
        "decay": {"log_rate": (5,), "step_bias": (5,)}, "skip": (5,), "gain": (50,), "backward": (50,),
        "out": {"kernel": (50, 40)},
    }  # fmt: skip
    roles = [p.get_metadata().get("role") for p in (mixer.decay.log_rate, mixer.decay.step_bias, mixer.skip)]
    assert roles == ["A", "step", "D"]
    one = 256 * (640 + 128 + 4) + 5 * (320 + 128) + 3 * 4 + 320 + 320 + 320 * 256
    assert parameter_count("mamba2") == parameter_count("ff_only") + 4 * one
    assert one < 4.35 * 256**2


def test_features_are_a_multiple_of_heads():
    assert Mamba2(20, 13, heads=3, rngs=nnx.Rngs(0)).gain.shape == (24,)


def test_padding_changes_nothing():
    assert padding_changes("mamba2") < 1e-5
    assert padding_changes("mamba2", bidirectional=False, pool="mean") < 1e-5


def test_errors():
    for wrong in ({"state": 0}, {"conv": 0}, {"expand": 0.05}, {"heads": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Mamba2(8, 13, **wrong, rngs=nnx.Rngs(0))
