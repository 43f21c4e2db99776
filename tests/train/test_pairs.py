"""Pair interaction, against models whose answer is known and against its definition."""

import dataclasses
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lra.train import pairs
from lra.train.reach import Sample
from tests.helpers.looking import POINTWISE, model_of, parts, random_sample
from tests.helpers.training import RECIPE, train


def measured(model, sample, batch=64):
    make, state = parts(model)
    (found,) = pairs.measure(make, [state], sample, batch)
    return found


@pytest.mark.parametrize("documents", [1, 2])
def test_a_model_of_single_tokens_joins_none_whatever_its_head(documents):
    sample = random_sample(documents=documents)
    found = measured(model_of("ff_only", pair=documents == 2), sample)
    assert found["d"] == [1, 2, 4, 8, 15] and found["interaction"] == [0.0] * 5 and found["alone"] > 0


@pytest.mark.parametrize(("layers", "width"), [(1, 3), (2, 3), (1, 5)])
def test_convolutions_join_what_one_state_sees(layers, width):
    """n layers of centred convolutions of width w: nothing beyond n (w − 1), the ends of one state's field."""
    shape = dataclasses.replace(POINTWISE, layers=layers)
    found = measured(model_of("short_conv", shape, width=width), random_sample())
    for distance, value in zip(found["d"], found["interaction"], strict=True):
        assert (value > 1e-6) == (distance <= layers * (width - 1)), distance


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_the_numbers_are_those_of_the_definition(pool):
    """Against f(x') = g · pooled(x') written out for every pair by itself."""
    shape = dataclasses.replace(RECIPE.encoder, pool=pool)
    model, sample = model_of("transformer", shape), random_sample(seed=3)
    found = measured(model, sample)
    logits = jax.jit(model.classify)
    encode = jax.jit(lambda tokens, mask: model.encode(tokens[None], mask[None])[0])
    for distance, expected in zip(found["d"][:3], found["interaction"], strict=False):
        drawn = pairs.draw(sample, distance)
        differences = []
        for n in range(0, pairs.PAIRS, 4):
            row, i, j, u, v = (int(a[n]) for a in drawn)
            length = sample.lengths[row, 0]
            assert i >= 0 and j == i + distance < length
            mask = jnp.arange(16) < length
            texts = {}
            for changed in product((False, True), repeat=2):
                text = sample.values[row, 0].astype(np.int32) + 1
                text[[i] * changed[0] + [j] * changed[1]] = [u + 1] * changed[0] + [v + 1] * changed[1]
                texts[changed] = encode(jnp.where(mask, jnp.asarray(text), 0), mask)

            def margin(e, label=int(sample.labels[row])):
                found = logits(e[None, None])[0]
                return found[label] - jnp.delete(found, label, assume_unique_indices=True).mean()

            g = jax.grad(margin)(texts[False, False])
            f = {key: float(g @ e) for key, e in texts.items()}
            differences.append(abs(f[False, False] - f[True, False] - f[False, True] + f[True, True]))
        every = _all_differences(model, sample, distance)
        np.testing.assert_allclose(differences, every[::4], rtol=2e-2, atol=2e-6)
        assert every.mean() == pytest.approx(expected, rel=1e-4)


def _all_differences(model, sample, distance):
    drawn = pairs.draw(sample, distance)
    batch = pairs.Batch(*(jnp.asarray(a[drawn.rows]) for a in (sample.values, sample.lengths, sample.labels)))
    return np.asarray(pairs._differences(model, batch, *(jnp.asarray(a.astype(np.int32)) for a in drawn[1:]))[0])


def test_pairs_are_drawn_uniformly_and_depend_on_the_sample_alone(monkeypatch):
    monkeypatch.setattr(pairs, "PAIRS", 20_000)
    sample = Sample(
        np.arange(16, dtype=np.uint8)[None, None].repeat(10, 0), np.full((10, 1), 16, np.int32), np.zeros(10, np.int32)
    )
    drawn = pairs.draw(sample, 4)
    for array, size in ((drawn.rows, 10), (drawn.first, 12), (drawn.new_first, 16), (drawn.new_second, 16)):
        counts = np.bincount(array, minlength=size)
        assert len(counts) == size and stats.chisquare(counts).pvalue > 1e-3
    assert abs(np.corrcoef(drawn.new_first, drawn.new_second)[0, 1]) < 0.03
    for a, b in zip(drawn, pairs.draw(sample, 4), strict=True):
        np.testing.assert_array_equal(a, b)


def test_documents_that_are_too_short_are_left_out():
    sample = random_sample()
    sample = dataclasses.replace(sample, lengths=np.minimum(sample.lengths, 5))
    assert measured(model_of("ff_only"), sample)["d"] == [1, 2, 4]
    lone = dataclasses.replace(sample, lengths=np.ones_like(sample.lengths))
    assert measured(model_of("ff_only"), lone) == {"d": [], "interaction": [], "alone": None}


def test_the_batch_changes_only_rounding():
    model, sample = model_of("transformer"), random_sample()
    small, large = measured(model, sample, 17), measured(model, sample, 256)
    np.testing.assert_allclose(small["interaction"], large["interaction"], rtol=1e-3, atol=1e-7)


def test_a_cell_measures_it_where_it_is_asked_for():
    outcome = train(model="transformer", reach=True, pairs=True)
    assert outcome.reach_error == ""
    assert outcome.reach[0]["pairs"]["d"] == [1, 2, 4, 7] and min(outcome.reach[0]["pairs"]["interaction"]) > 0
    assert "pairs" not in train(reach=True).reach[0]
