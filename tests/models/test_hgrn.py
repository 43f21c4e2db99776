import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.recurrent.hgrn import HGRN
from tests.helpers.mixing import (
    assert_equals,
    build,
    build_encoder,
    error,
    inputs,
    jit,
    normal,
    padding_changes,
    parameter_count,
    permissively,
    run,
)
from tests.helpers.recurrences import zeroed

HOLES = jnp.asarray(
    np.array([[1] * 13, [1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1]]) > 0
)


def sigmoid(x, xp):
    return 1 / (1 + xp.exp(-x))


def linear(layer, x, xp):
    kernel, bias = (p[...] if xp is jnp else np.asarray(p[...], np.float64) for p in (layer.kernel, layer.bias))
    return x @ kernel + bias


def recur(decay, driven, real, xp):
    """One position after the other; a state that is not real stays."""
    h, states = xp.zeros_like(driven[:, 0]), []
    for t in range(driven.shape[1]):
        h = xp.where(real[:, t, None], decay[:, t] * h + driven[:, t], h)
        states.append(h)
    return xp.stack(states, 1)


def naive_with(mixer, x, mask, bound, xp=jnp):
    """Section 3.2 of the paper under a lower bound [K], with the norm of the authors' code."""
    x32 = zeroed(x, mask, xp)
    phase, scale, bias = (
        p[...] if xp is jnp else np.asarray(p[...], np.float64)
        for p in (mixer.phase, mixer.norm.scale, mixer.norm.bias)
    )
    inner = linear(mixer.content, x32, xp)
    inner = inner * sigmoid(inner, xp)
    states = phase.shape[-1]
    decay = bound + (1 - bound) * sigmoid(linear(mixer.forget, x32, xp), xp)
    driven = (1 - decay) * (inner[..., :states] + 1j * inner[..., states:])
    if phase.ndim == 1:
        h = recur(decay * xp.exp(1j * phase), driven, mask, xp)
    else:
        h = recur(decay * xp.exp(1j * phase[0]), driven, mask, xp)
        turned = decay * xp.exp(1j * phase[1])
        h = h + recur(turned[:, ::-1], driven[:, ::-1], mask[:, ::-1], xp)[:, ::-1]
    parts = xp.concatenate([h.real, h.imag], -1)
    normed = (parts - parts.mean(-1, keepdims=True)) / xp.sqrt(parts.var(-1, keepdims=True) + 1e-6) * scale + bias
    gate = linear(mixer.gate, x32, xp)
    return linear(mixer.out, normed * gate * sigmoid(gate, xp), xp).astype(x.dtype)


def naive(mixer, x, mask, xp=jnp):
    return naive_with(mixer, x, mask, 0.0, xp)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_equals_the_recurrence(bidirectional):
    x, mask = inputs()
    assert_equals(build("hgrn", bidirectional=bidirectional, expand=0.75), naive, x, mask, tolerance=2e-5)


def test_a_hole_is_as_if_it_were_not_there():
    x, _ = inputs()
    assert_equals(build("hgrn"), naive, x, HOLES, tolerance=2e-5, rounded=None)


def test_equals_the_recurrence_in_double_precision_as_it_starts():
    x, mask = inputs(301, 32, (301, 150))
    mixer = HGRN(32, 301, rngs=nnx.Rngs(0))
    expected, real = naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np), np.asarray(mask)
    assert error(run(mixer, x, mask)[real], expected[real]) < 1e-5


def test_what_is_fresh_survives_a_decay_that_rounds_to_one():
    """1 − λ for gates of about 20: 2·10⁻⁹ is below the rounding of λ, and the norm makes it whole again."""
    x, mask = inputs(lengths=(13, 13, 13))
    mixer = build("hgrn", bidirectional=False)
    mixer.forget.bias[...] = jnp.full_like(mixer.forget.bias[...], 17.0)
    mixer.norm.scale[...] = 1e3 * mixer.norm.scale[...]
    expected = naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)
    assert error(run(mixer, x, mask), expected) < 1e-4


def lower_bounds(shared):
    """γ of each layer: what the softmax over the layers gives to those before it."""
    shares = np.exp(shared) / np.exp(shared).sum(0)
    return np.concatenate([np.zeros_like(shares[:1]), np.cumsum(shares, 0)[:-1]])


def test_the_encoder_hands_the_bounds_on():
    """Three layers by hand; recomputed, the last two are one loop. Gradients reach the bounds through them all."""
    models = [
        build_encoder("hgrn", 6, layers=3, remat=remat, positions="none", pool="mean", mixer={"expand": 0.5})
        for remat in (False, True)
    ]
    model = models[0]
    shared, rest = model.blocks[0].mixer.bounds, [block.mixer.bounds for block in model.blocks[1:]]
    assert shared[...].shape == (3, 4) and rest == [None] * 2
    tokens = np.array([[[1, 2, 3, 4, 5, 6]], [[7, 8, 9, 0, 0, 0]]])
    mask = tokens[:, 0] > 0
    graph, params, others = nnx.split(model, nnx.Param, ...)
    weight = normal(2, 8, seed=3)

    def by_encoder(params, graph):
        model = nnx.merge(graph, params, others)
        return (weight * model.encode(jnp.asarray(tokens[:, 0]), jnp.asarray(mask))).sum()

    def by_hand(params):
        model = nnx.merge(graph, params, others)
        x, bound = model.embed(jnp.asarray(tokens[:, 0])), 0.0
        gamma = model.blocks[0].mixer.bounds[...]
        for layer, block in enumerate(model.blocks):
            bound = sum(jnp.exp(gamma[m]) for m in range(layer)) / jnp.exp(gamma).sum(0)
            x = x + naive_with(block.mixer, block.norm_mixer(x), jnp.asarray(mask), bound)
            x = x + block.mlp(block.norm_mlp(x), None)
        x = model.norm(x)
        return (weight * (jnp.where(mask[..., None], x, 0).sum(1) / mask.sum(1)[:, None])).sum()

    expected = jit(permissively(jax.value_and_grad(by_hand)))(params)
    assert np.abs(expected[1]["blocks"][0]["mixer"]["bounds"][...]).max() > 1e-4
    for each in models:
        actual = jit(jax.value_and_grad(functools.partial(by_encoder, graph=nnx.graphdef(each))))(params)
        leaves = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
        assert all(error(a, e) < 1e-4 or np.abs(a - e).max() < 1e-6 for a, e in leaves)
    later = model.blocks[1].mixer
    with pytest.raises(ValueError, match="of the previous layer"):
        later(*inputs())


def test_what_it_starts_from():
    mixer = HGRN(512, 8, layers=5, rngs=nnx.Rngs(0))
    states = 288
    np.testing.assert_allclose(mixer.phase[...], [10_000 ** (-2 * np.arange(states) / states)] * 2, rtol=1e-5)
    np.testing.assert_allclose(
        lower_bounds(np.asarray(mixer.bounds[...])), np.tile([[0], [0.2], [0.4], [0.6], [0.8]], states), rtol=1e-6
    )
    for layer, fan_in in ((mixer.content, 512), (mixer.forget, 512), (mixer.gate, 512), (mixer.out, 576)):
        np.testing.assert_allclose(np.asarray(layer.kernel[...]).std(), fan_in**-0.5, rtol=0.02)
        np.testing.assert_array_equal(layer.bias[...], 0)


def test_scale_of_what_comes_out_for_white_noise():
    """That of a SiLU of normal numbers, since what it gates is normalised."""
    x, mask = inputs(256, 128, (256,))
    z = np.linspace(-8, 8, 10_001)
    square = ((z / (1 + np.exp(-z))) ** 2 * np.exp(-(z**2) / 2)).sum() / np.exp(-(z**2) / 2).sum()
    for bidirectional in (True, False):
        mixer = HGRN(128, 256, bidirectional=bidirectional, rngs=nnx.Rngs(1))
        assert run(mixer, x, mask).std() == pytest.approx(square**0.5, rel=0.1)


def test_causal_means_that_nothing_is_seen_of_what_follows():
    x, mask = inputs(lengths=(13, 13, 13))
    changed = x.at[:, 7:].add(1)
    causal, both = build("hgrn", bidirectional=False), build("hgrn")
    assert error(run(causal, changed, mask)[:, :7], run(causal, x, mask)[:, :7]) < 1e-6
    assert error(run(both, changed, mask)[:, :7], run(both, x, mask)[:, :7]) > 1e-3


def test_parameters():
    mixer = HGRN(16, 13, layers=3, rngs=nnx.Rngs(0))
    state = nnx.to_pure_dict(nnx.state(mixer, nnx.Param))
    assert jax.tree.map(jnp.shape, state) == {
        "content": {"kernel": (16, 18), "bias": (18,)}, "forget": {"kernel": (16, 9), "bias": (9,)}, "phase": (2, 9),
        "bounds": (3, 9), "gate": {"kernel": (16, 18), "bias": (18,)}, "norm": {"scale": (18,), "bias": (18,)},
        "out": {"kernel": (18, 16), "bias": (16,)},
    }  # fmt: skip
    assert {getattr(mixer, name).get_metadata().get("role") for name in ("phase", "bounds")} == {"A"}
    one = 7 * 256 * 144 + (2 + 1 + 2 + 2 + 2 + 2) * 144 + 256
    assert parameter_count("hgrn") == parameter_count("ff_only") + 4 * one + 4 * 144
    assert 7 * 256 * 144 < 4 * 256**2


def test_padding_changes_nothing():
    assert padding_changes("hgrn", layers=2) < 1e-5
    assert padding_changes("hgrn", bidirectional=False, pool="mean") < 1e-5


def test_errors():
    with pytest.raises(ValueError, match="expand"):
        build("hgrn", expand=0.05)
