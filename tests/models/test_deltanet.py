import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.core.initial import InitialRngs
from models.core.layers import split_heads
from models.recurrent.deltanet import DeltaNet
from models.recurrent.gated_deltanet import GatedDeltaNet
from tests.helpers.mixing import array, assert_equals, build, error, inputs, padding_changes, parameter_count, run
from tests.helpers.recurrences import zeroed

NAMES = ("deltanet", "gated_deltanet")


def silu(x, xp):
    return x / (1 + xp.exp(-x))


def one_way(p, mixer, parts, real, xp):
    """The recurrence, one position after the other, with the papers' states [V, K]; one that is not real stays."""
    taps, keys, heads = p["taps"], mixer.widths[0], mixer.heads
    moved = xp.pad(parts["qkv"], ((0, 0), (len(taps) - 1, 0), (0, 0)))
    u = silu(sum(tap * moved[:, j : j + real.shape[1]] for j, tap in enumerate(taps)), xp)
    q, k, v = (
        part.reshape(*real.shape, heads, -1) for part in (u[..., :keys], u[..., keys : 2 * keys], u[..., 2 * keys :])
    )
    q, k = (part / xp.sqrt((part**2).sum(-1, keepdims=True) + 1e-6) for part in (q, k))
    beta = (2 if mixer.negative else 1) / (1 + xp.exp(-parts["beta"]))
    decay = xp.exp(-xp.exp(p["log_rate"]) * xp.logaddexp(parts["step"] + p["step_bias"], 0 * beta))
    state, out = 0 * v[:, 0][..., None] * k[:, 0][..., None, :], []
    for t in range(real.shape[1]):
        kt, vt, b = k[:, t, :, None, :], v[:, t, ..., None], beta[:, t, :, None, None]
        after = decay[:, t, :, None, None] * (state - b * (state * kt).sum(-1, keepdims=True) * kt) + b * vt * kt
        state = xp.where(real[:, t, None, None, None], after, state)
        out.append((state * q[:, t, :, None, :]).sum(-1))
    return xp.stack(out, 1)


def naive(mixer, x, mask, xp=jnp):
    """Both directions are added before the norm. Without a decay, e^{−0} = 1."""

    u, gated = zeroed(x, mask, xp), isinstance(mixer, GatedDeltaNet)
    p = {"taps": array(mixer.taps.kernel, xp), "log_rate": -np.inf, "step_bias": 0}
    qkv = xp.concatenate([u @ array(m.kernel, xp) for m in (mixer.query, mixer.key, mixer.value)], -1)
    parts = {"qkv": qkv, "beta": u @ array(mixer.beta.kernel, xp)}
    parts["step"] = u @ array(mixer.step.kernel, xp) if gated else 0 * parts["beta"]
    if gated:
        p |= {"log_rate": array(mixer.decay.log_rate, xp), "step_bias": array(mixer.decay.step_bias, xp)}
    o = one_way(p, mixer, parts, mask, xp)
    if mixer.backward is not None:  # the zeros at the end count as little as those before the first position
        back = {name: part[:, ::-1] for name, part in parts.items()}
        gain = split_heads(array(mixer.backward, xp)[None, None], mixer.heads)
        o = o + gain * one_way(p, mixer, back, mask[:, ::-1], xp)[:, ::-1]
    o = o / xp.sqrt((o**2).mean(-1, keepdims=True) + 1e-6) * array(mixer.gain, xp)
    o = o.reshape(*mask.shape, -1)
    if gated:
        o = o * silu(u @ array(mixer.gate.kernel, xp), xp)
    return (o @ array(mixer.out.kernel, xp)).astype(x.dtype)


HOLES = jnp.asarray(
    np.array([[1] * 13, [1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1]]) > 0
)
CASES = [
    ("deltanet", {}),
    ("deltanet", {"bidirectional": False, "qkv": 12}),
    ("deltanet", {"expand_k": 1.5, "conv": 7}),
    ("gated_deltanet", {"negative": True, "conv": 1}),
    ("gated_deltanet", {"bidirectional": False, "qkv": 12}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_equals_the_recurrence(name, options):
    x, mask = inputs(7, lengths=(7, 4, 1))
    assert_equals(build(name, **options), naive, x, mask, tolerance=3e-5, rounded=0.06)


@pytest.mark.parametrize("name", NAMES)
def test_a_hole_is_a_zero_to_the_convolution_and_nothing_to_the_memory(name):
    x, _ = inputs()
    mixer = build(name)
    keep = np.asarray(HOLES)[..., None]
    expected = naive(mixer, np.asarray(x, np.float64), np.asarray(HOLES), np)
    assert error(run(mixer, x, HOLES) * keep, expected * keep) < 1e-5


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("make", [DeltaNet, GatedDeltaNet])
def test_equals_the_recurrence_in_double_precision_as_it_starts(make, negative):
    x, mask = inputs(203, 32, (203, 150))
    mixer = make(32, 203, negative=negative, rngs=nnx.Rngs(0))
    expected = naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)
    real = np.asarray(mask)
    assert error(run(mixer, x, mask)[real], expected[real]) < 2e-5


@pytest.mark.parametrize("bias", [-50.0, 50.0])
def test_a_memory_that_keeps_or_forgets_everything_is_exact(bias):
    x, mask = inputs(150, lengths=(150, 70))
    mixer = build("gated_deltanet", 150)
    mixer.decay.step_bias[...] = jnp.full((2,), bias)
    expected = naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)
    real = np.asarray(mask)
    assert error(run(mixer, x, mask)[real], expected[real]) < 3e-5


@pytest.mark.parametrize("name", NAMES)
def test_causal_means_that_nothing_is_seen_of_what_follows(name):
    x, mask = inputs(lengths=(13, 13, 13))
    changed = x.at[:, 7:].add(1)
    causal, both = build(name, bidirectional=False), build(name)
    assert error(run(causal, changed, mask)[:, :7], run(causal, x, mask)[:, :7]) < 1e-6
    assert error(run(both, changed, mask)[:, :7], run(both, x, mask)[:, :7]) > 1e-3


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("make", "scale"), [(DeltaNet, 1.0), (GatedDeltaNet, 0.596)])
def test_scale_of_what_comes_out_for_white_noise(make, scale, bidirectional):
    """RMS makes o one, and silu of normal numbers, the gate, has a mean square of 0.596²."""
    x, mask = inputs(400, 64, (400, 400))
    mixer = make(64, 400, bidirectional=bidirectional, rngs=nnx.Rngs(1))
    assert run(mixer, x, mask).std() == pytest.approx(scale, rel=0.1)


def test_what_is_drawn():
    mixer = GatedDeltaNet(1024, 8, heads=512, rngs=nnx.Rngs(0))
    at = np.linspace(0, 1, 9)
    rate = np.exp(np.asarray(mixer.decay.log_rate[...], np.float64))
    np.testing.assert_allclose(np.quantile(rate, at), 1 + 15 * at, atol=1.2)
    first = np.log1p(np.exp(np.asarray(mixer.decay.step_bias[...], np.float64)))
    np.testing.assert_allclose(np.quantile(np.log10(first), at), -3 + 2 * at, atol=0.15)
    for linear, inputs_of_it in ((mixer.query, 1024), (mixer.step, 1024), (mixer.beta, 1024), (mixer.taps, 4)):
        np.testing.assert_allclose(np.asarray(linear.kernel[...]).std(), inputs_of_it**-0.5, rtol=0.05)


def test_linear_maps_start_as_the_recipe_asks():
    mixer = GatedDeltaNet(64, 8, rngs=InitialRngs(jax.random.key(0), "torch"))
    maps = (mixer.query, mixer.key, mixer.value, mixer.beta, mixer.step, mixer.gate, mixer.out)
    for layer, inputs_of_it in (*((layer, 64) for layer in maps), (mixer.taps, 4)):
        largest = np.abs(np.asarray(layer.kernel[...])).max()
        assert 0.95 * inputs_of_it**-0.5 < largest <= inputs_of_it**-0.5


def shapes(mixer):
    state = nnx.to_pure_dict(nnx.state(mixer, nnx.Param))
    assert np.all(state["gain"] == 1)
    return jax.tree.map(jnp.shape, state)


def test_parameters():
    plain = {
        "query": {"kernel": (8, 6)}, "key": {"kernel": (8, 6)}, "value": {"kernel": (8, 12)},
        "taps": {"kernel": (4, 24)}, "beta": {"kernel": (8, 2)}, "gain": (6,), "backward": (12,),
        "out": {"kernel": (12, 8)},
    }  # fmt: skip
    added = {
        "step": {"kernel": (8, 2)}, "decay": {"log_rate": (2,), "step_bias": (2,)}, "gate": {"kernel": (8, 12)},
    }  # fmt: skip
    options = {"heads": 2, "qkv": 12, "expand_k": 0.5}
    assert shapes(DeltaNet(8, 13, **options, rngs=nnx.Rngs(0))) == plain
    gated = GatedDeltaNet(8, 13, **options, rngs=nnx.Rngs(0))
    assert shapes(gated) == plain | added
    roles = [p.get_metadata().get("role") for p in (gated.decay.log_rate, gated.decay.step_bias)]
    assert roles == ["A", "step"]
    attention = parameter_count("transformer")
    assert parameter_count("deltanet") == attention + 4 * (4 * 256 + 4 * 3 * 256 + 64 + 256)
    assert parameter_count("gated_deltanet") == attention + 4 * (2 * 4 * 256 + 2 * 4 + 4 * 2 * 256 + 64 + 256)


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name):
    assert padding_changes(name) < 1e-5
    assert padding_changes(name, bidirectional=False, pool="mean") < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_errors(name):
    for wrong in ({"qkv": 7}, {"expand_k": 0.3}, {"conv": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build(name, **wrong)
    with pytest.raises(ValueError, match="heads"):
        DeltaNet(8, 13, heads=0, rngs=nnx.Rngs(0))
