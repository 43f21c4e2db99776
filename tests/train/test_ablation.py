"""Models trained on windows, or on tokens in another order: against inputs that are changed by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import PROTOCOLS
from configs.recipe import Ablation, RecipeError, from_dict, identity, override
from lra.train import shuffles
from lra.train.shuffles import ablated
from lra.train.worker import build
from tasks import TASKS
from tests.helpers.training import RECIPE, first_token_splits, train

SHAPE = dataclasses.replace(RECIPE.encoder, pool="mean", positions="learned", dropout=0.0, attention_dropout=0.0)


def cut_recipe(shape=SHAPE, **sizes):
    return dataclasses.replace(RECIPE, encoder=shape, ablation=Ablation(**sizes))


def built(mixer, recipe, length=8):
    return build(mixer, recipe, vocab=5, classes=4, pair=False, length=length, seed=0)


def test_settings_of_the_data_take_them_and_only_those_that_change_something_count():
    cut = override(RECIPE, ["data.window=64", "data.blocks=4"])
    assert cut.ablation == Ablation(window=64, blocks=4)
    plain, changed = (dataclasses.asdict(recipe) for recipe in (RECIPE, cut))
    assert identity(changed)["ablation"] == {"window": 64, "blocks": 4}
    assert "ablation" not in identity(plain)  # as in records from before it could be set
    before = {name: part for name, part in plain.items() if name != "ablation"}
    assert identity(before) == identity(plain) and from_dict(type(RECIPE), before) == RECIPE
    with pytest.raises(RecipeError, match=r"data\.within must be at least 1 token, or 0"):
        override(RECIPE, ["data.within=-1"])
    with pytest.raises(RecipeError, match=r"did you mean 'data\.window'"):
        override(RECIPE, ["data.windows=3"])


def test_no_task_has_settings_of_the_same_names():
    ours = {field.name for field in dataclasses.fields(Ablation)}
    for task in TASKS.values():
        assert not ours & {field.name for field in dataclasses.fields(task.rules)}, task.name


@pytest.mark.parametrize("mixer", ["transformer", "linformer", "lru"])
def test_a_model_of_windows_sees_each_as_a_document(mixer):
    """Its mixers are built for the window: of a short model with the same parameters, each window is a document."""
    cut = built(mixer, cut_recipe(window=4))
    short = built(mixer, dataclasses.replace(RECIPE, encoder=SHAPE), length=4)
    for model in (cut, short):
        model.eval()
    assert cut.positions.shape == (8, SHAPE.dim)
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(1, 5, (6, 8)))
    mask = jnp.arange(8)[None] < jnp.asarray([8, 7, 5, 4, 3, 1])[:, None]
    total = jnp.zeros((6, SHAPE.dim))
    for window in range(2):
        part = slice(4 * window, 4 * window + 4)
        state = nnx.state(cut, nnx.Param)
        state["positions"] = nnx.Param(cut.positions[...][part])
        nnx.update(short, state)
        states = short.states(short.embed(tokens[:, part]), mask[:, part])[0]
        total += jnp.where(mask[:, part, None], states, 0).sum(1)
    np.testing.assert_allclose(
        cut.encode(tokens, mask), np.asarray(total) / np.asarray(mask).sum(1, keepdims=True), atol=1e-5
    )


def test_a_window_of_the_whole_length_or_more_changes_nothing():
    plain, cut = (train(recipe) for recipe in (cut_recipe(), cut_recipe(window=100)))
    assert plain.results == cut.results


def test_dropout_of_windows_does_not_depend_on_how_a_batch_is_split():
    recipe = cut_recipe(dataclasses.replace(SHAPE, dropout=0.3), window=4)
    whole = train(dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, steps=3)))
    parts = train(dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, steps=3, accumulate=4)))
    a, b = (outcome.results[0].curve[-1]["train_loss"] for outcome in (whole, parts))
    assert a == pytest.approx(b, rel=1e-5)


def test_tokens_are_shuffled_once_and_for_all(monkeypatch):
    """Each document as by one call for all, whatever is sorted at once; labels and lengths stay."""
    data = first_token_splits()
    for sizes, change in (({"within": 4}, shuffles.shuffled_within), ({"blocks": 2}, shuffles.shuffled_blocks)):
        size = next(iter(sizes.values()))
        expected, _ = change(data.values, data.lengths, size)
        for at_once in (1, 8 * 100, 2**22):
            monkeypatch.setattr(shuffles, "_AT_ONCE", at_once)
            changed = ablated(data, Ablation(**sizes))
            np.testing.assert_array_equal(changed.values, expected)
        assert changed.splits is data.splits and (changed.values != data.values).any()
    orders = {row.tobytes() for row in np.argsort(ablated(_numbered(), Ablation(within=8)).values, axis=1)}
    assert len(orders) > 95


def _numbered():
    """A hundred documents of the tokens 0 … 7 in order."""
    data = first_token_splits((60, 20, 20))
    return dataclasses.replace(data, values=np.tile(np.arange(8, dtype=np.uint8), (100, 1)), lengths=np.full(100, 8))


def test_a_shuffled_cell_learns_from_what_is_left_and_measures_no_reach():
    """The class is the first token: gone when order is, and still there when only blocks' inner order is."""
    order = cut_recipe(dataclasses.replace(SHAPE, positions="sinusoidal"), within=8)
    kept = train(cut_recipe(dataclasses.replace(SHAPE, positions="sinusoidal")), model="transformer")
    lost = train(order, model="transformer", reach=True)
    assert kept.results[0].test_best > lost.results[0].test_best + 0.2
    assert lost.reach == [] and lost.reach_error == ""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_protocol_takes_anything_away(protocol):
    chosen = PROTOCOLS[protocol]
    assert all(chosen.recipe(task, "transformer").ablation == Ablation() for task in chosen.tasks)


def test_a_step_of_windows_costs_less_where_cost_is_quadratic():
    long = dataclasses.replace(SHAPE, positions="none")
    costs = []
    for window in (0, 16):
        model = built("transformer", cut_recipe(long, window=window), length=512)
        model.eval()
        tokens = jnp.ones((2, 1, 512), jnp.int32)
        compiled = jax.jit(lambda t, model=model: model(t, t > 0)).lower(tokens).compile()
        costs.append(compiled.cost_analysis()["flops"])
    assert costs[1] < costs[0] / 2
