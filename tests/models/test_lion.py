import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.recurrent.lion import LionD, LionS, features
from tests.helpers.mixing import array, assert_equals, build, error, inputs, jit, padding_changes, parameter_count, run
from tests.helpers.recurrences import zeroed

DECAYS = ["none", "fixed", "selective"]


def phi(x, xp):
    y = x / (1 + xp.exp(-x)) + 0.5
    return y / xp.sqrt((y**2).sum(-1, keepdims=True))


def mask_of_decays(decay, xp):
    """M [B, H, L, L] from λ [B, L, H], each entry as the product of the decays that it names."""
    length = decay.shape[1]
    i, j, r = np.ogrid[:length, :length, :length]
    counted = xp.asarray(((j < r) & (r <= i)) | ((i <= r) & (r < j)))
    return xp.where(counted, decay.swapaxes(1, 2)[:, :, None, None, :], 1).prod(-1)


def naive(mixer, x, mask, xp=jnp):
    """The full attention of the paper, with its mask of decays and the sums of its rows."""

    p, u = mixer.projections, zeroed(x, mask, xp)
    q, k, v = (
        (u @ array(m.kernel, xp)).reshape(*x.shape[:2], p.heads, -1).swapaxes(1, 2) for m in (p.query, p.key, p.value)
    )
    logits = 1e9 * xp.ones((*x.shape[:2], p.heads)) if mixer.kind == "none" else array(mixer.decay, xp) + 0 * u[..., :1]
    if mixer.kind == "selective":
        logits = xp.where(mask[..., None], logits + u @ array(mixer.gate.kernel, xp), 1e9)
    weights = phi(q, xp) @ phi(k, xp).swapaxes(-1, -2) * mask[:, None, None, :]
    weights = weights * mask_of_decays(1 / (1 + xp.exp(-logits)), xp)
    y = weights @ v / (weights.sum(-1, keepdims=True) + 1e-6)
    return (y.swapaxes(1, 2).reshape(*x.shape[:2], -1) @ array(p.out.kernel, xp)).astype(x.dtype)


@pytest.mark.parametrize("qkv", [None, 12])
@pytest.mark.parametrize("decay", DECAYS)
def test_equals_the_full_attention(decay, qkv):
    x, mask = inputs()
    assert_equals(build("lion_d", decay=decay, qkv=qkv), naive, x, mask, tolerance=2e-5)


@pytest.mark.parametrize("decay", DECAYS)
def test_equals_the_full_attention_in_double_precision_as_it_starts(decay):
    x, mask = inputs(150, 16, (150, 77))
    mixer = LionD(16, 150, decay=decay, rngs=nnx.Rngs(0))
    expected = naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)
    real = np.asarray(mask)[..., None]
    assert error(run(mixer, x, mask) * real, expected * real) < 1e-5


def test_a_hole_is_not_seen_and_lets_the_memory_pass():
    x, mask = inputs(lengths=(13,))
    mask = mask.at[0, 4].set(False)
    keep = np.asarray(mask)[..., None]
    for decay in DECAYS:
        mixer = build("lion_d", decay=decay)
        expected = naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)
        assert error(run(mixer, x, mask) * keep, expected * keep) < 1e-5


def test_the_gates_are_trained():
    """The authors' code for images cuts them out of the graph."""
    x, mask = inputs()
    graph, state = nnx.split(build("lion_s"))
    gradient = nnx.to_pure_dict(jit(jax.grad(lambda state: (nnx.merge(graph, state)(x, mask) ** 2).sum()))(state))
    assert np.abs(gradient["gate"]["kernel"]).max() > 1e-3 and np.abs(gradient["decay"]).max() > 1e-3


@pytest.mark.parametrize("logit", [-1e5, 1e5])
def test_decays_of_zero_and_of_one(logit):
    """λ = 0 leaves each position its own value, λ = 1 is LION-Lit."""
    x, mask = inputs(150, lengths=(150, 70))
    mixer = build("lion_s", 150)
    mixer.decay[...] = jnp.full((2,), logit)
    graph, state = nnx.split(mixer)
    value, gradients = jit(jax.value_and_grad(lambda state: (nnx.merge(graph, state)(x, mask) ** 2).sum()))(state)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    p, real = mixer.projections, np.asarray(mask)[..., None]
    if logit < 0:
        expected = np.asarray(x) @ np.asarray(p.value.kernel[...]) @ np.asarray(p.out.kernel[...])
    else:
        mixer.kind = "none"
        expected = naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)
        mixer.kind = "selective"
    assert error(run(mixer, x, mask) * real, expected * real) < 1e-5


def test_rows_whose_sum_vanishes_are_zero():
    x, mask = inputs(lengths=(13, 7, 0))
    y = run(build("lion_d"), x, mask)
    assert np.all(y[2] == 0)
    assert np.isfinite(run(build("lion_d"), 1e4 * x, mask)).all()


def test_features_are_positive_and_of_length_one():
    y = np.asarray(features(jnp.linspace(-30, 30, 600).reshape(100, 6)))
    np.testing.assert_allclose(np.sum(y**2, -1), 1, rtol=1e-5)
    assert y.min() > 0


@pytest.mark.parametrize("model", [LionD, LionS])
def test_decays_start_slow_and_spread(model):
    """λ = e^{−Δ} for steps from 0.001 to 0.1, each the same factor larger than the one before."""
    mixer = model(8, 13, heads=8, qkv=16, rngs=nnx.Rngs(0))
    step = -np.log(1 / (1 + np.exp(-np.asarray(mixer.decay[...], np.float64))))
    np.testing.assert_allclose(step, np.geomspace(0.001, 0.1, 8), rtol=1e-4)


def test_scale_of_what_comes_out_for_white_noise():
    """A mean of n values has 1/n of their variance: n is (Σ w)² / Σ w² of the weights w = λ^{|i−j|} φ(q)·φ(k)."""
    x, mask = inputs(1024, 64, (1024, 1024))
    mixer = LionD(64, 1024, heads=4, step_min=0.05, step_max=0.2, rngs=nnx.Rngs(1))
    q, k = np.random.default_rng(0).normal(size=(2, 4000, 16))
    alike = (phi(q, np) * phi(k, np)).sum(-1)
    spread = (alike**2).mean() / alike.mean() ** 2
    decay = np.exp(-np.geomspace(0.05, 0.2, 4))
    variance = spread * (1 + decay**2) / (1 - decay**2) * ((1 - decay) / (1 + decay)) ** 2
    assert run(mixer, x, mask).std() == pytest.approx(np.sqrt(variance.mean()), rel=0.1)


def test_parameters():
    for model, gates in ((LionD, False), (LionS, True)):
        mixer = model(8, 13, heads=2, qkv=12, rngs=nnx.Rngs(0))
        assert mixer.decay[...].shape == (2,) and mixer.decay[...].dtype == jnp.float32
        assert mixer.decay.get_metadata()["role"] == "A"
        assert hasattr(mixer, "gate") == gates
    assert mixer.gate.kernel[...].shape == (8, 2)
    official = parameter_count("transformer")
    assert parameter_count("lion_d") == official + 4 * 4
    assert parameter_count("lion_s") == official + 4 * (4 + 4 * 256) == parameter_count("lion_d", decay="selective")
    assert parameter_count("lion_d", decay="none") == official


def test_padding_changes_nothing():
    for decay in DECAYS:
        assert padding_changes("lion_d", decay=decay) < 1e-5


def test_errors():
    for wrong in ({"decay": "some"}, {"step_min": 0.0}, {"step_min": 0.2}, {"qkv": 7}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("lion_s", **wrong)
