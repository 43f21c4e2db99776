"""The grid: models as words, protocols as published, keys that tell cells apart."""

import dataclasses

import pytest

import configs.recipe as recipes
import models
from configs import PROTOCOLS
from lra.errors import UsageError
from lra.grid import expand, names
from lra.grid.cell import ModelSpec, cell_key, split_seeds
from models import MIXERS

FNET = ("fnet",)


def words(text: str) -> list[str]:
    return [str(model) for model in names.parse_models(text.split(","), tuple(MIXERS))]


def test_an_option_belongs_to_the_model_before_it():
    assert words("performer:features=64,kernel=softmax,fnet") == ["performer:features=64,kernel=softmax", "fnet"]
    assert words("performer:kernel=softmax,features=64") == ["performer:features=64,kernel=softmax"]
    assert words("a.b:C:depth=2,fnet,x:Y") == ["a.b:C:depth=2", "fnet", "x:Y"]
    assert words("all") == list(MIXERS)
    assert words("fnet,fnet") == ["fnet"]


def test_seeds_and_lengths_make_cells():
    made = expand.make_plans(PROTOCOLS["lra"], ["listops"], ["fnet", "transformer"], [1000, 2000], [0, 1, 2], [])
    assert len(made) == 12 and len(set(made)) == 12


def test_lengths_of_fnet_s_tables_count_the_cls_token():
    def tokens(protocol, lengths=(), settings=()):
        plans = expand.make_plans(PROTOCOLS[protocol], ["text"], ["fnet"], lengths, [0], settings)
        return [plan.length for plan in plans]

    assert tokens("fnet") == [511, 1_023, 2_047, 4_095, 8_191, 16_383] and tokens("fnet_bert") == [511]
    assert tokens("fnet", [4_096]) == [4_095] and tokens("efficiency", [4_096]) == [4_096]
    assert tokens("fnet", [4_096], ["encoder.pool=mean"]) == [4_096]
    with pytest.raises(UsageError, match="must be at least 2"):
        tokens("fnet", [1])


@pytest.mark.parametrize(
    ("task", "model", "expected"),
    [
        ("listops", "fnet", (512, 8, 4, 512, 1024, "cls")),
        ("text", "performer", (256, 4, 4, 256, 1024, "cls")),
        ("retrieval", "luna", (128, 4, 4, 128, 512, "cls")),
        ("image", "transformer", (128, 8, 1, 64, 128, "cls")),
        ("image", "local", (128, 2, 1, 64, 128, "mean")),
        ("image", "longformer", (128, 4, 4, 64, 128, "mean")),
        ("image", "reformer", (64, 8, 4, 32, 64, "cls")),
        ("image", "sinkhorn", (32, 1, 1, 32, 64, "cls")),
        ("pathfinder", "transformer", (32, 4, 4, 16, 32, "mean")),
        ("pathfinder", "performer", (128, 8, 1, 64, 128, "mean")),
        ("pathfinder", "linear_transformer", (128, 2, 1, 64, 128, "mean")),
        ("pathx", "fnet", (32, 2, 1, 16, 32, "mean")),
    ],
)
def test_the_lra_protocol_has_the_released_shapes(task, model, expected):
    e = PROTOCOLS["lra"].recipe(task, model).encoder
    assert (e.dim, e.heads, e.layers, e.qkv, e.mlp, e.pool) == expected


def test_the_lra_protocol_has_the_released_budgets():
    budgets = {
        task: (r.train.batch, r.train.steps, r.optimizer.learning_rate, r.schedule.warmup)
        for task in PROTOCOLS["lra"].tasks
        for r in [PROTOCOLS["lra"].recipe(task, "transformer")]
    }
    assert budgets == {
        "listops": (32, 5_000, 0.05, 1_000),
        "text": (32, 20_000, 0.05, 8_000),
        "retrieval": (32, 5_000, 0.05, 8_000),
        "image": (256, 175 * 200, 5e-4, 175),
        "pathfinder": (512, 312 * 200, 1e-3, 312),
        "pathx": (64, 2_500 * 200, 1e-3, 2_500),
    }


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_s_mixer_options_exist(name):
    from models.core.factory import mixer_factory

    protocol = PROTOCOLS[name]
    for task in protocol.tasks:
        for model in MIXERS:
            mixer_factory(model, dict(protocol.recipe(task, model).mixer))


def test_a_task_without_a_recipe_and_a_wrong_name_are_told():
    with pytest.raises(UsageError, match="no recipe for task listops_short"):
        expand.make_plans(PROTOCOLS["lra"], ["listops_short"], FNET, [], [], [])
    with pytest.raises(UsageError, match="did you mean 'pathx'"):
        expand.make_plans(PROTOCOLS["lra"], ["pathxx"], FNET, [], [], [])


def test_the_key_changes_with_everything_that_decides_the_result(monkeypatch):
    plan = expand.make_plans(PROTOCOLS["lra"], ["listops"], FNET, [], [0], [])[0]
    device = {"platform": "gpu", "kind": "NVIDIA H200", "count": 8}
    base = expand.make_cell(plan, None, device)
    assert base.plan.recipe.train.precision == "bfloat16"
    assert expand.make_cell(plan, None, device).key == base.key
    recipe = dataclasses.replace(plan.recipe, mixer=(("method", "matmul"),))
    others = [
        dataclasses.replace(plan, seeds=(1,)),
        dataclasses.replace(plan, length=1000),
        dataclasses.replace(plan, recipe=recipe),
        dataclasses.replace(plan, model=ModelSpec("luna")),
    ]
    keys = {base.key, *(expand.make_cell(p, None, device).key for p in others)}
    keys.add(expand.make_cell(plan, None, device | {"kind": "NVIDIA A100"}).key)
    keys.add(expand.make_cell(plan, None, device, device_count=2).key)
    keys.add(expand.make_cell(plan, None, device, limits={"max_batch": True}).key)
    assert len(keys) == 8


@pytest.mark.parametrize("change", ["fingerprint", "task_version"])
def test_the_key_changes_with_the_data(change):
    plan = expand.make_plans(PROTOCOLS["lra"], ["listops"], FNET, [], [0], [])[0]
    data = {"task_version": "1", "fingerprint": "a", "source": "here"}
    key = cell_key(plan, data, "CPU", {})
    assert cell_key(plan, data | {"source": "there"}, "CPU", {}) == key
    assert cell_key(plan, data | {change: "b"}, "CPU", {}) != key


def test_the_key_changes_with_every_field_of_the_recipe():
    plan = expand.make_plans(PROTOCOLS["lra"], ["listops"], FNET, [], [0], [])[0]
    data, recipe = {"task_version": "1", "fingerprint": "a"}, plan.recipe
    keys, count = {cell_key(plan, data, "CPU", {})}, 1
    for section in ("encoder", "optimizer", "schedule", "train", "data"):
        part = getattr(recipe, section)
        for field in dataclasses.fields(part):
            changed = dataclasses.replace(recipe, **{section: dataclasses.replace(part, **{field.name: "another"})})
            keys.add(cell_key(dataclasses.replace(plan, recipe=changed), data, "CPU", {}))
            count += 1
    assert len(keys) == count > 30


def test_seeds_train_together_where_asked_or_where_steps_are_small():
    made = expand.make_plans(PROTOCOLS["quick"], [], FNET, [], [0, 1, 5], [])
    gpu, cpu = {"platform": "gpu"}, {"platform": "cpu"}
    assert [p.seeds for p in expand.group_seeds(made, "on", cpu)] == [(0, 1, 5)]
    assert [p.seeds for p in expand.group_seeds(made, "auto", gpu)] == [(0, 1, 5)]
    assert [p.seeds for p in expand.group_seeds(made, "auto", cpu)] == [(0,), (1,), (5,)]
    assert [p.seeds for p in expand.group_seeds(made, "off", gpu)] == [(0,), (1,), (5,)]
    large = expand.make_plans(PROTOCOLS["lra"], ["text"], FNET, [], [0, 1], [])
    assert len(expand.group_seeds(large, "auto", gpu)) == 2
    both = expand.make_plans(PROTOCOLS["quick"], ["text", "image"], FNET, [], [0, 1], [])
    assert [(p.task, p.seeds) for p in expand.group_seeds(both, "on", gpu)] == [("text", (0, 1)), ("image", (0, 1))]
    (cell,) = [expand.make_cell(p, None, gpu | {"kind": "x", "count": 1}) for p in expand.group_seeds(made, "on", gpu)]
    alone = [expand.make_cell(p, None, gpu | {"kind": "x", "count": 1}) for p in made]
    assert split_seeds(cell) == alone


def test_devices_must_be_there_and_divide_the_batch():
    plan = expand.make_plans(PROTOCOLS["quick"], [], FNET, [], [0], ["train.batch=30", "train.accumulate=5"])[0]
    device = {"platform": "gpu", "kind": "x", "count": 4}
    assert expand.make_cell(plan, None, device, device_count=3).accelerator == "3 × x"
    for used, words in ((8, "1 to 4 devices"), (0, "1 to 4 devices"), (4, "multiple of devices")):
        with pytest.raises(UsageError, match=words):
            expand.make_cell(plan, None, device, device_count=used)
    with pytest.raises(UsageError, match=r"multiple of train\.accumulate"):
        expand.make_plans(PROTOCOLS["quick"], [], FNET, [], [0], ["train.accumulate=5"])


def key_of(plan, **code):
    changed = dataclasses.replace(plan, code=dataclasses.replace(plan.code, **code))
    return cell_key(changed, {"task_version": "1", "fingerprint": "a"}, "CPU", {})


def test_versions_count_in_the_key_and_so_does_the_source_of_a_mixer_that_is_none_of_ours(monkeypatch):
    monkeypatch.setattr(models, "ENCODER_VERSIONS", {})
    ours, theirs = expand.make_plans(PROTOCOLS["lra"], ["listops"], ["fnet", "a.b:C"], [], [0], [])
    assert not ours.code.foreign and theirs.code.foreign
    assert key_of(ours, fingerprint="x") == key_of(ours, fingerprint="y") == key_of(ours)
    assert len({key_of(theirs, fingerprint=source) for source in ("", "x", "y")}) == 3
    monkeypatch.setitem(models.VERSIONS, "fnet", 2)
    (raised,) = expand.make_plans(PROTOCOLS["lra"], ["listops"], FNET, [], [0], [])
    assert raised.code.versions == (("mixer", 2),) and key_of(raised) != key_of(ours)
    monkeypatch.setitem(models.ENCODER_VERSIONS, "positions", {"sinusoidal": 3})
    (again,) = expand.make_plans(PROTOCOLS["lra"], ["listops"], FNET, [], [0], [])
    assert again.code.versions == (("mixer", 2), ("encoder.positions", 3))
    (learned,) = expand.make_plans(PROTOCOLS["lra"], ["listops"], FNET, [], [0], ["encoder.positions=learned"])
    assert learned.code.versions == (("mixer", 2),)


def test_a_field_that_was_added_counts_only_where_it_differs_from_its_default(monkeypatch):
    recipe = {"encoder": {"dim": 3, "new": "a"}, "mixer": [["new", "a"]], "data": None}
    monkeypatch.setitem(recipes._ADDED, "encoder.new", "a")
    assert recipes.identity(recipe) == recipe | {"encoder": {"dim": 3}}
    recipe["encoder"]["new"] = "b"
    assert recipes.identity(recipe) == recipe
