"""The first table: which protocol, which row of each model, which speed."""

import pytest

from lra.report import headline, leaderboard
from tests.helpers.records import measurement, recipe, record

TASKS = {"listops": 2000, "image": 1024}


def cells(model, score=0.5, protocol="lra", tasks=TASKS, **changes):
    """A model's cells under a protocol's own recipe."""
    return [
        record(model, task, score, length=length, protocol=protocol, recipe=recipe(task, model, protocol), **changes)
        for task, length in tasks.items()
    ]  # fmt: skip


def chosen(records, benchmarks=()):
    return headline.choose(leaderboard.build(records), benchmarks)


def names(table):
    return [entry.row.model for entry in table.entries]


def bench(model, task="listops", speed=8.0, **changes):
    made = measurement(model, TASKS[task], speed, **changes)
    made["cell"] |= {"task": task, "protocol": "lra"}
    return made


def test_the_protocol_with_most_averages_comes_first_and_mini_before_all(monkeypatch):
    records = [*cells("fnet"), *cells("local", 0.4), *cells("luna", tasks={"listops": 2000})]
    records += [c for m in ("fnet", "local", "luna", "s4d") for c in cells(m, 0.5, "small", {"listops": 2000})]
    assert chosen(records).protocol == "lra"
    monkeypatch.setattr(headline, "FIRST", "small")
    assert chosen(records).protocol == "small" and chosen(cells("fnet")).protocol == "lra"


def test_rows_with_overrides_or_options_are_left_to_the_tables_below():
    changed = record("local", score=0.9, overrides=["train.steps=1"])
    changed["recipe"]["train"]["steps"] = 1
    assert names(chosen([record(score=0.4), changed])) == ["fnet"]
    assert chosen([changed]) is None and chosen([]) is None


def test_a_row_a_model_with_its_average_rank_and_leader():
    table = chosen([*cells("fnet", 0.4), *cells("local", 0.5), *cells("luna", tasks={"image": 1024})])
    assert [(e.row.model, e.rank, e.best) for e in table.entries] == [
        ("local", 1, {"", "listops@2000"}), ("fnet", 2, set()), ("luna", None, set()),
    ]  # fmt: skip
    assert table.entries[0].value.mean == pytest.approx(50)
    assert table.average == "average (listops@2000, image@1024)"


def test_a_task_that_few_models_ran_costs_nobody_an_average():
    records = [*cells("fnet"), *cells("local"), *cells("luna"), record("fnet", length=512)]
    table = chosen(records)
    assert table.columns == ["listops@2000", "image@1024"] and all(entry.value for entry in table.entries)
    assert any("listops@512" in note for note in table.notes)


def test_a_model_with_more_parameters_is_shown_and_not_ranked():
    table = chosen([record(score=0.4), record("luna", score=0.6, parameters=10**8)])
    found = [(entry.row.model, entry.rank, headline.mark(entry, table)) for entry in table.entries]
    assert found == [("luna", None, " †"), ("fnet", 1, "")]
    assert any("†" in note for note in table.notes)
    own = chosen(cells("s4d", protocol="ssm"))  # every result of that protocol is free for all
    assert [(entry.rank, headline.mark(entry, own)) for entry in own.entries] == [(1, "")]


def test_of_several_accelerators_each_score_is_of_the_one_with_most_seeds_then_the_latest():
    h200 = {"accelerator": "NVIDIA H200", "created": "2026-09-01T00:00:00+00:00"}
    seeds = [record(score=0.4, seed=s) for s in (0, 1)]
    table = chosen([*seeds, record(score=0.9, **h200)])
    assert [(e.row.accelerator, e.value.mean, e.value.count) for e in table.entries] == [("CPU", pytest.approx(40), 2)]
    assert not any("accelerators" in note for note in table.notes)
    assert chosen([seeds[0], record(score=0.9, **h200)]).entries[0].row.accelerator == "NVIDIA H200"


def test_scores_of_several_accelerators_make_one_row_and_a_note():
    h200 = {"accelerator": "NVIDIA H200", "created": "2026-09-01T00:00:00+00:00"}
    listops = {"listops": 2000}
    one, many = cells("fnet", 0.4), [c for s in (0, 1, 2) for c in cells("fnet", 0.7, tasks=listops, seed=s, **h200)]
    table = chosen([*one, *many])
    (entry,) = table.entries
    assert entry.row.accelerator == "NVIDIA H200" and entry.value.mean == pytest.approx((70 + 40) / 2)
    assert entry.row.estimate("listops@2000").count == 3 and entry.row.estimate("image@1024").count == 1
    assert any("1 on NVIDIA H200" in note and "1 on CPU" in note for note in table.notes)


def test_speed_is_that_of_bench_of_the_same_protocol_and_accelerator():
    records = [*cells("fnet"), *cells("local")]
    speeds = {"fnet": {"listops": 8.0, "image": 2.0}, "local": {"listops": 4.0, "image": 1.0}}
    benchmarks = [bench(model, task, speed) for model in speeds for task, speed in speeds[model].items()]
    table = chosen(records, benchmarks)
    assert table.speed == headline.Measure("bench", ("listops@2000", "image@1024"))
    assert {e.row.model: e.speed for e in table.entries} == pytest.approx({"fnet": 4.0, "local": 2.0})


def test_bench_counts_where_it_covers_half_of_the_models_that_training_does():
    records = [c for model in ("fnet", "local", "luna", "bigbird") for c in cells(model, tasks={"listops": 2000})]
    two = chosen(records, [bench("fnet"), bench("local")])
    assert two.speed.source == "bench"
    speeds = {entry.row.model: entry.speed for entry in two.entries}
    assert speeds.pop("luna") is speeds.pop("bigbird") is None
    assert speeds == pytest.approx({"fnet": 8.0, "local": 8.0})
    assert chosen(records, [bench("fnet")]).speed.source == "training"


def test_speed_and_memory_are_of_the_one_accelerator_with_most_speeds():
    shared = [c for model in ("fnet", "local", "luna") for c in cells(model, sharing=4, accelerator="NVIDIA H200")]
    records = [*shared, *cells("fnet"), *cells("bigbird", accelerator="NVIDIA H100")]
    table = chosen(records, [bench(model, task, 3.0) for model in ("fnet", "luna") for task in TASKS])
    assert table.accelerator == "CPU" and table.speed.source == "bench"
    speeds = {e.row.model: e.speed for e in table.entries}
    assert speeds == pytest.approx({"fnet": 3.0, "luna": 3.0, "local": None, "bigbird": None})
    assert {e.row.model for e in table.entries if e.memory} == {"fnet", "luna"}
    trained = chosen(records)
    assert trained.accelerator == "CPU" and [e.row.model for e in headline.compared(trained, "speed")] == ["fnet"]


@pytest.mark.parametrize("change", [
    {"overrides": ["train.steps=1"]}, {"max_batch": True}, {"memory_limit_bytes": 2**30}, {"device": {"used": 2}},
    {"status": "oom"}, {"sharing": 2},
])  # fmt: skip
def test_a_measurement_of_something_else_is_no_speed(change):
    table = chosen(cells("fnet"), [bench("fnet", t) | change for t in TASKS])
    assert table.speed.source == "training" and table.entries[0].speed == pytest.approx(2.0)


def test_bench_of_another_protocol_is_no_speed():
    other = bench("fnet")
    other["cell"]["protocol"] = "small"
    assert chosen(cells("fnet"), [other]).speed.source == "training"


def test_speed_is_over_the_tasks_that_most_models_have():
    lost = record("local", "image", status="oom", length=1024)
    table = chosen([*cells("fnet"), *cells("local", tasks={"listops": 2000}), lost])
    assert table.speed == headline.Measure("training", ("listops@2000",))
    assert [entry.speed for entry in table.entries] == [2.0, 2.0]


def test_a_device_that_was_shared_gives_no_speed():
    table = chosen([*cells("fnet", sharing=2), *cells("local", sharing=2)])
    assert table.speed.source == "" and all(entry.speed is None for entry in table.entries)
    assert headline.compared(table, "speed") == []


def test_memory_is_the_largest_over_tasks_by_the_method_that_covers_most():
    records = [*cells("fnet"), *cells("local")]
    records[0]["memory"] = {"device_peak_bytes": 7, "compiled_bytes": 3 * 10**9}
    table = chosen(records)
    assert table.method == "compiled_bytes"
    assert {e.row.model: e.memory for e in table.entries} == {"fnet": 3e9, "local": 2e9}


def test_speeds_are_compared_on_the_accelerator_of_most_models():
    records = [*cells("fnet"), *cells("local"), *cells("luna", accelerator="NVIDIA H200")]
    table = chosen(records)
    assert table.accelerator == "CPU"
    assert {entry.row.model for entry in headline.compared(table, "speed")} == {"fnet", "local"}
