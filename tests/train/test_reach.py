"""How far a model looks, against models whose answer is known."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lra.train import reach
from lra.train.data import tokens_of
from lra.train.reach import Sample, jacobian, measure, summarise, window_range
from lra.train.shuffles import CHANGES
from models import MIXERS
from models.state_space.s4d import S4D
from tests.helpers.looking import POINTWISE, SHAPE, model_of, parts, random_sample
from tests.helpers.training import first_token_splits, session, train


def norms_of(model, sample, batch=8):
    make, state = parts(model)
    ((norms, places, lengths),) = jacobian(make, [state], sample, batch)
    return norms, places, lengths


def offsets(norms, places):
    return np.arange(norms.shape[2]) - places[..., None]


def real(norms, lengths):
    return np.broadcast_to(np.arange(norms.shape[2]) < lengths[:, None, None], norms.shape)


def test_a_model_of_single_tokens_looks_nowhere_and_every_cut_and_order_is_the_same():
    model, sample = model_of("ff_only"), random_sample()
    make, state = parts(model)
    (found,) = measure(make, [state], [state], sample, 8)
    plain = found["windows"][-1]
    assert found["windows"] == [plain] * 5 and found["k"] == [1, 2, 4, 8, 16]
    assert found["within"] == found["blocks"] == found["shifted"] == [plain] * 3 and found["coarse_k"] == [1, 4, 16]
    assert found["jacobian"] == found["jacobian_initial"] == {"at_0": 1.0}
    norms, places, _ = norms_of(model, sample)
    assert (norms[offsets(norms, places) != 0] == 0).all() and (norms[offsets(norms, places) == 0] > 0).all()


@pytest.mark.parametrize("layers", [1, 2])
def test_centred_convolutions_look_as_far_as_their_kernels_reach(layers):
    shape = dataclasses.replace(POINTWISE, layers=layers)
    norms, places, lengths = norms_of(model_of("short_conv", shape, width=5), random_sample())
    far = np.abs(offsets(norms, places))
    seen = norms > 0
    assert not seen[far > 2 * layers].any()
    inside = (far <= 2 * layers) & real(norms, lengths)
    assert seen[inside].mean() > 0.99


def test_a_causal_model_does_not_look_ahead():
    norms, places, lengths = norms_of(model_of("retnet", bidirectional=False), random_sample())
    assert np.abs(norms[offsets(norms, places) > 0]).max() == 0
    assert summarise(norms, places, lengths)["ahead"] == 0
    both, places, lengths = norms_of(model_of("retnet"), random_sample())
    assert 0.2 < summarise(both, places, lengths)["ahead"] < 0.8


def test_uniform_attention_is_flat_over_distance():
    model = model_of("transformer")
    query = model.blocks[0].mixer.query.kernel
    query[...] = jnp.zeros_like(query[...])
    sample = random_sample()
    sample = dataclasses.replace(sample, values=np.full_like(sample.values, 3))  # else tokens' norms differ
    norms, places, lengths = norms_of(model, sample)
    for n, i in np.ndindex(places.shape):  # the random signs of a state are the same for all tokens
        beside = (np.arange(16) != places[n, i]) & (np.arange(16) < lengths[n])
        np.testing.assert_allclose(norms[n, i][beside], norms[n, i][beside][:1].repeat(beside.sum()), rtol=1e-4)
    assert (norms[~real(norms, lengths)] == 0).all()


class OneLayer:
    """One S4D layer, without norm, gate, feed-forward or residual."""

    cls = None

    def __init__(self, mixer):
        self.mixer = mixer

    def embed(self, tokens):
        return jnp.ones((*tokens.shape, 6)) * tokens[..., None].astype(jnp.float32)

    def states(self, x, mask):
        return self.mixer(x, mask), mask


def test_an_s4d_layer_has_its_kernel_by_distance():
    """√J at distance d is √Σ_h K_h[d]², with the skip in K[0]."""
    mixer = S4D(6, 16, bidirectional=False, rngs=nnx.Rngs(0))
    kernel = np.array(mixer.kernels(16)[0])
    kernel[:, 0] += mixer.skip[...]
    expected = np.sqrt(np.square(kernel).sum(0))
    sample = random_sample()
    ((norms, places, lengths),) = jacobian(OneLayer, [mixer], sample, 8)
    back = -offsets(norms, places)
    for distance in range(16):
        pairs = (back == distance) & real(norms, lengths)
        np.testing.assert_allclose(norms[pairs], expected[distance], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norms[back < 0], 0, atol=1e-6)
    lag = summarise(norms, places, lengths)
    assert lag["ahead"] < 1e-5 and lag["share"][0] == pytest.approx(expected[1] / expected[1:].sum(), rel=0.02)


def test_the_norms_are_those_of_the_whole_jacobian():
    """Against jax.jacobian, which needs no random signs; these err by 1/√4 a pair, and not on average."""
    model, sample = model_of("transformer", dataclasses.replace(SHAPE, layers=1)), random_sample(count=16)
    norms, places, lengths = norms_of(model, sample)
    tokens, mask = tokens_of(SimpleNamespace(values=jnp.asarray(sample.values), lengths=jnp.asarray(sample.lengths)))
    ratios = []
    for n in range(6):
        x = model.embed(tokens[n])
        whole = jax.jacobian(lambda x, n=n: model.states(x, mask[n])[0][0, 1:])(x)[:, :, 0]
        exact = np.sqrt(np.square(whole).sum((1, 3)))
        for i, place in enumerate(places[n]):
            count = lengths[n]
            ratios += list(norms[n, i, :count] / exact[place, :count])
    assert np.mean(np.square(ratios)) == pytest.approx(1, abs=0.06) and min(ratios) > 0.2 and max(ratios) < 2


def test_windows_see_only_themselves():
    """Against windows written by hand: every window is a document of its own, padded before and after."""
    shape = dataclasses.replace(SHAPE, pool="mean", positions="learned", layers=2)
    model, sample = model_of("transformer", shape), random_sample(count=12)
    tokens, mask = tokens_of(SimpleNamespace(values=jnp.asarray(sample.values), lengths=jnp.asarray(sample.lengths)))
    tokens, mask = tokens[:, 0], np.asarray(mask[:, 0])
    states_of = jax.jit(lambda mask: model.states(model.embed(tokens), mask)[0])
    cut_into = jax.jit(partial(model.encode_windows, tokens, jnp.asarray(mask)), static_argnums=(0, 1))
    for size, first in ((1, 1), (3, 3), (4, 4), (16, 16), (3, 1), (4, 2), (16, 8)):
        total = np.zeros((12, SHAPE.dim))
        for window in range(-(-16 // size) + 1):
            inside = mask & ((np.arange(16) + size - first) // size == window)
            states = np.asarray(states_of(inside))
            total += np.where(inside[..., None], states, 0).sum(1)
        expected = total / mask.sum(1, keepdims=True)
        cut = cut_into(size, first)
        np.testing.assert_allclose(cut, expected, atol=2e-5)
        if first == size:
            np.testing.assert_array_equal(cut_into(size), cut)
    whole = model.encode_windows(tokens, jnp.asarray(mask), 16)
    np.testing.assert_array_equal(whole, model.encode(tokens, jnp.asarray(mask)))


def test_with_cls_each_window_has_a_token_of_its_own():
    model, sample = model_of("transformer", SHAPE), random_sample(count=12)
    tokens, mask = tokens_of(SimpleNamespace(values=jnp.asarray(sample.values), lengths=jnp.asarray(sample.lengths)))
    tokens, mask = tokens[:, 0], np.asarray(mask[:, 0])
    total, windows = 0, 0
    for window in range(4):
        inside = mask & (np.arange(16) // 4 == window)
        some = inside.any(1, keepdims=True)
        total += some * np.asarray(model.encode(tokens, jnp.asarray(inside)))
        windows += some.astype(int)
    mask = jnp.asarray(mask)
    np.testing.assert_allclose(model.encode_windows(tokens, mask, 4), total / windows, atol=2e-5)
    np.testing.assert_array_equal(model.encode_windows(tokens, mask, 16), model.encode(tokens, mask))


def by_hand(name, text, size, place):
    """A sorted multiset of what a change may give; for stretches, the stretch at `place`."""
    blocks = [text[i : i + size] for i in range(0, len(text), size)]
    if name == "within":
        return [sorted(block) for block in blocks]
    if name == "blocks":
        return sorted(blocks)
    return {"first": text[:size], "last": text[-size:], "random": text[place : place + size]}[name]


@pytest.mark.parametrize("name", CHANGES)
def test_shuffles_and_stretches(name):
    sample = Sample(np.arange(4 * 2 * 13).reshape(4, 2, 13).astype(np.uint8), np.full((4, 2), 13), np.zeros(4))
    lengths = np.array([[13, 1], [12, 5], [7, 8], [3, 13]], np.int32)
    changed = 0
    for size in (1, 3, 4, 13):
        values, left = CHANGES[name](sample.values, lengths, size)
        for n, p in np.ndindex(4, 2):
            text = sample.values[n, p, : lengths[n, p]].tolist()
            new = values[n, p, : left[n, p]].tolist()
            if name == "within":
                assert by_hand(name, new, size, 0) == by_hand(name, text, size, 0)
            elif name == "blocks":
                cut = [text[i : i + size] for i in range(0, len(text), size)]
                order = sorted(cut, key=lambda block, new=new: new.index(block[0]))
                assert [token for block in order for token in block] == new
            else:
                assert new == by_hand(name, text, size, text.index(new[0]))
            changed += new != text
        same = CHANGES[name](sample.values, lengths, size)[0]
        np.testing.assert_array_equal(same, values)
    assert changed > 8
    if name in ("within", "blocks"):
        whole = {"within": 1, "blocks": 13}[name]
        np.testing.assert_array_equal(
            np.where(np.arange(13) < lengths[..., None], CHANGES[name](sample.values, lengths, whole)[0], 0),
            np.where(np.arange(13) < lengths[..., None], sample.values, 0),
        )


def test_every_order_of_a_shuffle_is_as_likely():
    values = np.broadcast_to(np.arange(3, dtype=np.uint8), (6000, 1, 3))
    for name, size in (("within", 3), ("blocks", 1)):
        shuffled, _ = CHANGES[name](values, np.full((6000, 1), 3), size)
        _, counts = np.unique(shuffled[:, 0], axis=0, return_counts=True)
        assert len(counts) == 6 and counts.min() > 880 and counts.max() < 1120
    stretches, _ = CHANGES["random"](values, np.full((6000, 1), 3), 1)
    assert np.bincount(stretches[:, 0, 0]).min() > 1880


def test_ranges():
    sizes, accuracies = [1, 2, 4, 8], [0.5, 0.6, 0.75, 0.9]
    assert window_range(sizes, accuracies, 0.5, 0.5) == 4 and window_range(sizes, accuracies, 0.5, 0.9) == 8
    assert window_range(sizes, accuracies, 0.5, 0.0) == 1
    assert window_range(sizes, [None, None, 0.75, 0.9], 0.5, 0.1) == 4
    assert window_range(sizes, [0.5, 0.5, 0.5, 0.54], 0.5, 0.5) is None


def test_mass_by_distance_is_a_mean_over_pairs():
    """m(0) = 4, m(1) = 2, m(2) = 1 wherever both are real."""
    places, lengths = np.array([[0, 2], [1, 1]]), np.array([3, 2])
    norms = np.zeros((2, 2, 4))
    for n, i, j in np.ndindex(2, 2, 4):
        if j < lengths[n]:
            norms[n, i, j] = 4 / 2 ** abs(j - places[n, i])
    found = summarise(norms, places, lengths)
    assert found["at_0"] == pytest.approx(4 / 7) and found["mean"] == pytest.approx(4 / 3)
    assert (found["r50"], found["r90"], found["d"]) == (1, 2, [1, 2, 3])
    assert found["share"] == pytest.approx([2 / 3, 1, 1])
    assert found["ahead"] == pytest.approx((2 + 1) / (2 + 1 + 1 + 2 + 2 + 2))


def test_a_picture_s_row_is_one_of_the_sizes_of_blocks():
    make, state = parts(model_of("ff_only"))
    (found,) = measure(make, [state], [state], dataclasses.replace(random_sample(), row=8), 8)
    assert found["coarse_k"] == [1, 4, 8, 16] and len(found["blocks"]) == len(found["shifted"]) == 4
    (same,) = measure(make, [state], [state], dataclasses.replace(random_sample(), row=4), 8)
    assert same["coarse_k"] == [1, 4, 16]


def test_numbers_do_not_depend_on_the_batch_nor_on_other_seeds():
    model, sample = model_of("transformer", SHAPE, pair=True), random_sample(documents=2)
    make, state = parts(model)
    other = nnx.state(model_of("transformer", SHAPE, pair=True, seed=1))
    (small,) = measure(make, [state], [other], sample, 3)
    large, _ = measure(make, [state, other], [other, state], sample, 40)
    assert small.keys() == large.keys()
    assert [small[name] for name in ("windows", *CHANGES)] == [large[name] for name in ("windows", *CHANGES)]
    for name in ("jacobian", "jacobian_initial"):
        np.testing.assert_allclose(small[name]["share"], large[name]["share"], rtol=1e-4)
    assert small["jacobian"]["share"] != small["jacobian_initial"]["share"]


class NoShortInput(nnx.Module):
    """A mixer that takes inputs of one length alone."""

    def __init__(self, dim, length, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (length, length)) / length)

    def __call__(self, x, mask, rngs):
        return jnp.einsum("ij,bjd->bid", self.kernel[...], x)


def test_a_mixer_of_a_fixed_length_has_no_windows_but_all_else():
    make, state = parts(model_of("tests.train.test_reach:NoShortInput"))
    (found,) = measure(make, [state], [state], random_sample(), 8)
    assert found["windows"][:-1] == [None] * 4 and found["windows"][-1] is not None
    assert None not in found["within"] and found["jacobian"]["r90"] > 5


@pytest.mark.slow
@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_takes_windows_and_has_a_jacobian(mixer):
    model = model_of(mixer, dataclasses.replace(SHAPE, pool="mean"))
    tokens, mask = (jax.ShapeDtypeStruct((2, 16), kind) for kind in (jnp.int32, bool))
    for size in (1, 5):
        encode = partial(model.encode_windows, size=size)
        assert jax.eval_shape(encode, tokens, mask).shape == (2, SHAPE.dim)

    def gradient(x, mask):
        states, pull = jax.vjp(lambda x: model.states(x, mask)[0], x)
        return pull(states)

    x = jax.ShapeDtypeStruct((2, 16, SHAPE.dim), jnp.float32)
    assert jax.eval_shape(gradient, x, mask)[0].shape == x.shape


def test_the_whole_window_is_the_ordinary_accuracy_and_training_is_the_same():
    plain, measured = train(seeds=(0, 3)), train(seeds=(0, 3), reach=True)
    assert plain.reach == [] and plain.results == measured.results
    for result, found in zip(measured.results, measured.reach, strict=True):
        assert found["seed"] == result.seed and found["examples"] == 103
        assert found["windows"][-1] == found["within"][0] == found["blocks"][-1] == found["first"][-1]
        assert found["windows"][-1] == pytest.approx(result.test_best, abs=1e-9)
        assert found["range_90"] is not None


def test_the_sample_is_at_most_500_examples_of_the_test_split(monkeypatch):
    monkeypatch.setattr(reach, "EXAMPLES", 50)
    (found,) = train(reach=True).reach
    assert found["examples"] == 50
    labels = first_token_splits().splits["test"].labels
    assert found["majority"] == pytest.approx(np.bincount(labels).max() / len(labels), abs=0.03)


def test_what_is_stopped_while_it_measures_goes_on_from_the_last_step(tmp_path):
    whole, _ = session(tmp_path / "whole", reach=True)
    chunks = len(whole.blocks) + len(whole.first_blocks)
    first, _ = session(tmp_path / "cut", chunks=chunks + 2, reach=True)
    assert first.status == "interrupted" and first.error == "enough" and first.steps == 200 and first.reach == []
    again, _ = session(tmp_path / "cut", reach=True)
    assert again.status == "ok" and again.results == whole.results and again.reach == whole.reach
    assert again.blocks == first.blocks  # no step was repeated


def test_an_error_of_a_mixer_costs_only_this_measure(monkeypatch):
    monkeypatch.setattr(reach, "jacobian", lambda *arguments: 1 / 0)
    outcome = train(reach=True)
    assert outcome.status == "ok" and outcome.results[0].test_best > 0.3
    assert outcome.reach == [] and outcome.reach_error == "ZeroDivisionError: division by zero"
