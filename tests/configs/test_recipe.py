"""Overrides: typed, checked, and every wrong one told with the nearest right name."""

import dataclasses

import pytest

from configs import PROTOCOLS
from configs.recipe import Recipe, RecipeError, from_dict, override, validate_recipe
from tasks import TASKS
from tasks.listops import ListOpsConfig

BASE = dataclasses.replace(PROTOCOLS["lra"].recipe("listops", "fnet"), data=ListOpsConfig())


def test_fields_of_every_type_can_be_set():
    changed = override(
        BASE,
        [
            "optimizer.learning_rate=1e-3",
            "train.steps=2e3",
            "encoder.pool=mean",
            "data.max_depth=5",
            "train.steps=7",
        ],
    )
    assert changed.optimizer.learning_rate == 1e-3
    assert changed.train.steps == 7 and isinstance(changed.train.steps, int)
    assert changed.encoder.pool == "mean" and changed.data.max_depth == 5
    assert BASE.train.steps == 5000


@pytest.mark.parametrize(("word", "value"), [("true", True), ("1", True), ("False", False), ("0", False)])
def test_a_switch_can_be_set_either_way(word, value):
    before = dataclasses.replace(BASE, train=dataclasses.replace(BASE.train, remat=not value))
    assert override(before, [f"train.remat={word}"]).train.remat is value


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.stepz=3", "did you mean 'train.steps'"),
        ("train.steps", "section.field=value"),
        ("train.steps=3.5", "takes a whole number"),
        ("train.steps=many", "takes a whole number"),
        ("train.steps=0", "at least 1"),
        ("train.validation_examples=-1", "train.validation_examples must be at least 1, or 0 for all, not -1"),
        ("train.test_examples=-5", "train.test_examples must be at least 1, or 0 for all, not -5"),
        ("train.test_examples=0.5", "takes a whole number"),
        ("train.steps=1e400", "takes a whole number"),
        ("optimizer.learning_rate=nan", "takes a number"),
        ("encoder.pool=meen", "did you mean 'mean'"),
        ("encoder.heads=3", "multiple of encoder.heads"),
        ("encoder.dropout=1", "less than 1"),
        ("optimizer.b1=2", "b1"),
        ("encoder.input_std=0", "input_std must be positive"),
        ("encoder.norm_momentum=1", "norm_momentum must be at least 0 and less than 1"),
        ("encoder.norm_momentum=-0.1", "norm_momentum must be at least 0 and less than 1"),
        ("optimizer.slow_factor=-1", "slow_factor must not be negative"),
        ("optimizer.slow=A,,B", "optimizer.slow takes roles"),
        ("optimizer.slow=A, B", "optimizer.slow takes roles"),
        ("optimizer.undecayed=A,", "optimizer.undecayed takes roles"),
        ("train.steps=9007199254740993e3", "takes a whole number"),
        *(
            (f"{name}=3", "unknown setting")
            for name in ("train.__class__", "data.__dict__", "data", "mixer", "mixer.0", "train.steps.real", ".steps")
        ),
        ("../train.steps=3", "unknown setting"),
        ("encoder=3", "unknown setting"),
        ("train.batch=1e9", "2³²"),
    ],
)
def test_wrong_settings_are_told_in_one_line(setting, words):
    with pytest.raises(RecipeError, match=words.replace("(", r"\(")) as told:
        override(BASE, [setting])
    assert "\n" not in str(told.value)


def test_fields_at_the_edge_of_their_range_can_be_set():
    changed = override(
        BASE, ["optimizer.slow=", "optimizer.undecayed=bias", "optimizer.slow_factor=0", "encoder.norm_momentum=0"]
    )
    assert (changed.optimizer.slow, changed.optimizer.undecayed) == ("", "bias")
    assert changed.optimizer.slow_factor == changed.encoder.norm_momentum == 0


def test_as_many_examples_are_evaluated_as_asked_for_and_as_there_are():
    counts = {"train": 9, "validation": 5, "test": 7}
    assert BASE.train.evaluated(counts) == {"validation": 5, "test": 7}
    changed = override(BASE, ["train.validation_examples=3", "train.test_examples=8"])
    assert changed.train.evaluated(counts) == {"validation": 3, "test": 7}
    assert changed.train.evaluated({}) == {}


def test_a_recipe_survives_the_way_through_json():
    assert from_dict(Recipe, dataclasses.asdict(dataclasses.replace(BASE, data=None))) == dataclasses.replace(
        BASE, data=None
    )


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))
def test_every_protocol_has_a_valid_recipe_for_each_of_its_tasks(protocol):
    from models import MIXERS

    for task in protocol.tasks:
        assert task in TASKS
        for model in MIXERS:
            validate_recipe(protocol.recipe(task, model))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["encoder.reversible=true", "encoder.block=glu"], "encoder.reversible needs"),
        (["encoder.prenorm=false", "encoder.reversible=true"], "encoder.reversible needs"),
        (["encoder.norm=batch", "encoder.reversible=true"], "encoder.reversible needs"),
        (["encoder.positions=rotary", "encoder.qkv=24"], "even encoder.qkv / encoder.heads, not 24 / 8"),
        (["encoder.reversible=true", "train.remat=true"], "leave one out"),
    ],
)
def test_settings_that_contradict_each_other_are_told(settings, words):
    for setting in settings[:1]:
        override(BASE, [setting])
    with pytest.raises(RecipeError, match=words):
        override(BASE, settings)
