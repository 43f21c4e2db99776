"""The mini arena: every model has a recipe of its family, of the Transformer's size."""

import dataclasses

import jax
import pytest
from flax import nnx

import models
from configs import PROTOCOLS, mini
from lra.report import fairness
from lra.train.worker import build
from models import MIXERS
from tasks import TASKS


def count(model, task):
    """Parameters of the protocol's model, without learned positions."""
    recipe, known = PROTOCOLS["mini"].recipe(task, model), TASKS[task]
    shape = (known.vocab, known.classes, known.pair, known.length)
    module = nnx.eval_shape(lambda: build(model, recipe, *shape, seed=0, picture=bool(known.shape)))
    sizes = sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param)))
    return sizes - (module.positions.size if module.positions is not None else 0)


def test_the_families_are_the_zoo_s():
    assert {name: set(members) for name, members in mini.FAMILIES.items()} == {
        name: set(mixers) for name, (_, mixers) in models.FAMILIES.items()
    }


@pytest.mark.parametrize("task", mini.STEPS)
def test_every_model_has_the_transformer_s_size(task):
    size = count("transformer", task)
    others = {model: count(model, task) / size for model in MIXERS}
    outside = {model: round(ratio, 2) for model, ratio in others.items() if not 0.9 <= ratio <= 1.1}
    assert set(outside) <= set(mini.OVERSIZED), outside
    assert all(ratio >= 0.9 for ratio in others.values()), outside


def test_models_of_a_family_have_one_rate_and_one_frame():
    for task in mini.STEPS:
        for members in mini.FAMILIES.values():
            recipes = {model: PROTOCOLS["mini"].recipe(task, model) for model in members}
            assert len({(r.optimizer, r.schedule, r.train) for r in recipes.values()}) == 1
            # Sizes apart, the encoder is the same, but for the positions of those that need them.
            sizes = {"layers": 1, "qkv": 1, "mlp": 1}
            encoders = {model: dataclasses.replace(r.encoder, **sizes) for model, r in recipes.items()}
            others = {e for model, e in encoders.items() if model not in mini.MIRRORED}
            assert len(others) == 1
            for model in set(members) & set(mini.MIRRORED):
                assert {dataclasses.replace(encoders[model], positions="none")} == others


def test_a_mixer_of_a_user_s_has_the_default_recipe():
    recipe = PROTOCOLS["mini"].recipe("image_mini", "their_package:Mixer")
    assert recipe == PROTOCOLS["mini"].recipe("image_mini", "another:Mixer") and recipe.mixer == ()
    assert fairness.transformer_parameters(
        recipe, TASKS["image_mini"].vocab, 10, False, 256, picture=True
    ) <= 1.1 * fairness.transformer_parameters(
        PROTOCOLS["mini"].recipe("image_mini", "transformer"), 257, 10, False, 256, picture=True
    )
