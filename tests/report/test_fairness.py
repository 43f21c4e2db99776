"""Apples to apples: the rule, and the closed count of the Transformer's parameters against the real module's."""

import dataclasses

import jax
import pytest
from flax import nnx

from configs import PROTOCOLS
from configs.recipe import SECTIONS
from lra.report import fairness, leaderboard, tables
from lra.train.worker import build
from tasks import TASKS
from tests.helpers.records import recipe, record

COUNTED = [(name, task) for name in ("lra", "lra_paper", "small", "quick", "mini") for task in PROTOCOLS[name].tasks]


@pytest.mark.parametrize("protocol, task", COUNTED)
def test_the_transformer_s_parameters_are_counted_as_the_module_has_them(protocol, task):
    assert_counted(PROTOCOLS[protocol].recipe(task, "transformer"), task)


@pytest.mark.parametrize("block", ["silu_glu", "half_glu1", "glu", "gelu"])
@pytest.mark.parametrize("norm", ["layer", "rms", "scale"])
@pytest.mark.parametrize("task", ["image_mini", "retrieval_mini"])
def test_other_blocks_and_norms_are_counted(block, norm, task):
    recipe = PROTOCOLS["mini"].recipe(task, "transformer")
    encoder = dataclasses.replace(recipe.encoder, block=block, norm=norm, final_norm=block == "glu", input="linear")
    assert_counted(dataclasses.replace(recipe, encoder=encoder), task)


def assert_counted(recipe, task):
    known, length = TASKS[task], 96
    shape = (known.vocab, known.classes, known.pair, length)
    module = nnx.eval_shape(lambda: build("transformer", recipe, *shape, seed=0, picture=bool(known.shape)))
    count = sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param)))
    assert fairness.transformer_parameters(recipe, *shape, picture=bool(known.shape)) == count


def test_the_official_text_transformer_s_count():
    recipe = PROTOCOLS["lra"].recipe("text", "transformer")
    assert fairness.transformer_parameters(recipe, 260, 2, False, 1000) == 3_487_490


def test_the_protocol_s_own_recipe_is_unchanged():
    for model in ("transformer", "performer", "nobody:Knows"):
        assert fairness.recipe_changes(record(model)) == []


@pytest.mark.parametrize(
    ("section", "field", "value", "expected"),
    [
        ("train", "steps", 9, ["train.steps=9"]),
        ("train", "batch", 64, ["train.batch=64"]),
        ("train", "eval_every", 9, ["train.eval_every=9"]),
        ("encoder", "dropout", 0.2, ["encoder.dropout=0.2"]),
        ("data", "max_depth", 5, ["data.max_depth=5"]),
        ("train", "precision", "bfloat16", []),
        ("train", "accumulate", 4, []),
        ("train", "remat", True, []),
        ("train", "unheard_of", 1, ["train.unheard_of=1"]),
    ],
)
def test_settings_of_how_it_is_computed_change_nothing_and_all_others_do(section, field, value, expected):
    edited = record()
    edited["recipe"][section][field] = value
    assert fairness.recipe_changes(edited) == expected


def test_a_field_that_an_older_version_did_not_have_stands_at_its_default():
    edited = record()
    del edited["recipe"]["encoder"]["reversible"]
    assert fairness.recipe_changes(edited) == []
    del edited["recipe"]["encoder"]["layers"]
    assert fairness.recipe_changes(edited) == ["encoder.layers is not set"]


@pytest.mark.parametrize(
    ("protocol", "examples", "changed"),
    [("quick", 0, False), ("quick", 5_000, False), ("quick", 9_000, False), ("quick", 4_999, True),
     ("quick", "many", True), ("lra", 0, False), ("lra", 1_000, True)],
)  # fmt: skip
def test_evaluating_fewer_examples_than_the_protocol_is_a_change_and_more_is_none(protocol, examples, changed):
    """`quick` tests 5,000 reviews, and `lra` all."""
    edited = record("fnet", "text", protocol=protocol, recipe=recipe("text", "fnet", protocol))
    edited["recipe"]["train"]["test_examples"] = examples
    assert fairness.recipe_changes(edited) == ([f"train.test_examples={examples}"] if changed else [])


def test_records_from_before_samples_evaluated_everything():
    old = record("fnet", "text", protocol="quick", recipe=recipe("text", "fnet", "quick"))
    del old["recipe"]["train"]["test_examples"], old["recipe"]["train"]["validation_examples"]
    assert fairness.recipe_changes(old) == []


def test_a_mixer_s_options_are_a_change_unless_the_protocol_sets_them():
    edited = record("performer:features=64", mixer="performer")
    edited["recipe"]["mixer"] = [["features", 64]]
    assert fairness.recipe_changes(edited) == ["mixer.features=64"]
    own = record("linformer", "text")
    assert own["recipe"]["mixer"] == [["rank", 32]] and fairness.recipe_changes(own) == []
    own["recipe"]["mixer"] = []
    assert fairness.recipe_changes(own) == ["mixer.rank is not set"]


def test_ten_percent_more_parameters_are_allowed():
    recipe = PROTOCOLS["lra"].recipe("listops", "transformer")
    base = fairness.transformer_parameters(recipe, TASKS["listops"].vocab, 10, False, 2000)
    assert fairness.excess_parameters(record(parameters=int(1.1 * base))) == []
    (line,) = fairness.excess_parameters(record(parameters=int(1.12 * base)))
    assert line == "listops: 1.12 × the Transformer's parameters"
    assert fairness.excess_parameters(record(parameters=None)) == []


def of_ssm(model, **changes):
    return record(model, protocol="ssm", recipe=recipe("listops", model, "ssm"), **changes)


def test_published_recipes_are_free_for_all_and_the_tables_say_what_is_unverified():
    built = leaderboard.build([of_ssm("s5"), of_ssm("lru"), record("fnet")])
    groups = {(group.protocol, group.kind): [row.model for row in group.rows] for group in built.groups}
    assert groups == {("lra", "apples to apples"): ["fnet"], ("ssm", "free for all"): ["lru", "s5"]}
    assert all(row.unchanged for row in built.rows)
    reasons = {row.model: row.reasons for row in built.rows}
    assert reasons["s5"] == (fairness.OWN_RECIPE,)
    assert reasons["lru"][1].startswith("recipe unverified") and len(reasons["lru"]) == 2
    assert f"- lru: {fairness.OWN_RECIPE}; recipe unverified" in tables.to_markdown(built)


def test_published_recipes_are_not_measured_by_a_transformer_s_size():
    assert fairness.excess_parameters(of_ssm("s5", parameters=10**9)) == []
    assert fairness.recipe_changes(of_ssm("s5")) == [] and fairness.protocol_reasons(record()) == []


def test_what_is_not_known_here_is_free_for_all():
    assert fairness.recipe_changes(record(protocol="theirs")) == [
        "no recipe of protocol theirs for listops is known here"
    ]
    assert fairness.excess_parameters(record(protocol="theirs")) == []
    assert fairness.protocol_reasons(record(protocol="theirs")) == []
    assert fairness.recipe_changes(record() | {"cell": record()["cell"] | {"task": "chess"}}) == [
        "no recipe of protocol lra for chess is known here"
    ]


def test_the_recipe_s_sections_are_those_the_rule_knows():
    names = {field.name for field in dataclasses.fields(PROTOCOLS["lra"].recipe("text", "fnet"))}
    assert names == {*SECTIONS, "data", "mixer"}


def test_an_ablation_is_a_change_of_the_data_that_older_records_do_not_have():
    older = record()
    assert "ablation" not in older["recipe"] or not any(older["recipe"]["ablation"].values())
    assert not any("window" in change for change in fairness.recipe_changes(older))
    cut = older | {"recipe": older["recipe"] | {"ablation": {"window": 8, "within": 0, "blocks": 0}}}
    assert "data.window=8" in fairness.recipe_changes(cut)
    assert not any(name in " ".join(fairness.recipe_changes(cut)) for name in ("within", "blocks"))
