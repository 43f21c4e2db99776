"""The board: what is a row, a column and a group; ranks and bold; and what must not depend on what."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lra.report import leaderboard, selection, stats, tables
from tests.helpers.records import record, result


def row(built, model, **fields):
    (matching,) = [r for r in built.rows if r.model == model and all(getattr(r, k) == v for k, v in fields.items())]
    return matching


def test_a_tie_has_two_first_ranks_and_no_bold():
    built = leaderboard.build([record(m, score=0.5, seed=s) for m in ("fnet", "local") for s in range(3)])
    assert [r.rank for r in built.rows] == [1, 1] and [r.model for r in built.rows] == ["fnet", "local"]
    assert not any(r.scores["listops@2000"].best for r in built.rows)


def test_a_lead_within_the_errors_is_not_bold():
    built = leaderboard.build([record("fnet", score=0.51), record("local", score=0.50)])
    assert not row(built, "fnet").scores["listops@2000"].best
    built = leaderboard.build([record("fnet", score=0.56), record("local", score=0.50)])
    assert row(built, "fnet").scores["listops@2000"].best


def test_a_row_alone_is_not_bold():
    assert not leaderboard.build([record(score=0.5)]).rows[0].scores["listops@2000"].best


def test_a_mean_that_leaves_a_diverged_seed_out_says_so_and_is_never_bold():
    records = [record(score=0.9, seed=s) for s in (0, 1)] + [
        record(seed=2, status="diverged"),
        record("local", score=0.2),
    ]
    built = leaderboard.build(records)
    score = row(built, "fnet").scores["listops@2000"]
    assert tables.score_text(score) == "90.00 ± 1.32 (2 seeds, 1 diverged)"
    assert row(built, "fnet").rank == 1 and not score.best


@pytest.mark.parametrize("status", ["failed", "oom", "diverged", "timeout", "interrupted"])
def test_a_cell_without_a_result_says_why(status):
    built = leaderboard.build([record(score=0.4), record("transformer", status=status)])
    assert tables.score_text(row(built, "transformer").scores["listops@2000"]) == status
    assert f"| {status} " in tables.to_markdown(built)


def test_a_missing_task_is_a_dash_and_leaves_no_average():
    records = [record(score=0.4), record(task="text", length=1000, score=0.6), record("transformer", score=0.9)]
    built = leaderboard.build(records)
    (group,) = built.groups
    assert group.averages == ["average (listops@2000, text@1000)"]
    assert row(built, "fnet").averages[group.averages[0]].mean == pytest.approx(50)
    assert row(built, "transformer").averages == {} and row(built, "transformer").rank is None
    assert "| – | transformer | CPU         | **90.00" in tables.to_markdown(built)


def test_rows_without_an_average_go_by_the_column_that_most_have():
    records = [record(name, score=score) for name, score in (("fnet", 0.3), ("local", 0.5), ("luna", 0.4))]
    built = leaderboard.build([*records, record("bigbird", task="text", length=1000, score=0.6)])
    assert [r.model for r in built.groups[0].rows] == ["local", "luna", "fnet", "bigbird"]


def test_two_accelerators_share_the_ranking_and_never_the_speed():
    records = [record(score=0.4), record(score=0.6, accelerator="H200"), record("local", score=0.5, accelerator="H200")]
    built = leaderboard.build(records)
    (group,) = built.groups
    assert [(r.model, r.accelerator, r.rank) for r in group.rows] == [
        ("fnet", "H200", 1), ("local", "H200", 2), ("fnet", "CPU", 3),
    ]  # fmt: skip


def test_two_task_versions_are_named_and_stand_in_columns_of_their_own():
    new = record("local", score=0.8)
    new["data"] = new["data"] | {"task_version": "2", "fingerprint": "0123456789abcdef"}
    built = leaderboard.build([record(score=0.4), record(score=0.5, seed=1), new])
    assert set(row(built, "fnet").scores) == {"listops@2000"}
    assert set(row(built, "local").scores) == {"listops@2000 [version 2, data 01234567]"}
    (line,) = built.conflicts
    assert line.startswith("conflict: listops@2000 was run on task versions 1 and 2")
    assert not any(score.best for r in built.rows for score in r.scores.values())


def test_other_overrides_protocols_and_recipes_are_rows_of_their_own():
    overridden = record(score=0.9, seed=2, overrides=["train.steps=9"])
    overridden["recipe"]["train"]["steps"] = 9
    changed = record(score=0.8, seed=1, created="2025-01-01T00:00:00+00:00")
    changed["recipe"]["train"]["steps"] = 7
    built = leaderboard.build([record(score=0.4), changed, overridden])
    assert [(r.kind, r.overrides, r.variant[:6], r.rank) for r in built.rows] == [
        ("apples to apples", "", "", 1), ("free for all", "train.steps=9", "", 1), ("free for all", "", "recipe", 2),
    ]  # fmt: skip
    assert built.rows[1].reasons == ("train.steps=9",)


def test_settings_are_compared_in_any_order_and_the_last_of_a_name_counts():
    first = record(score=0.4, overrides=["train.steps=9", "encoder.dim=8"])
    second = record(score=0.6, seed=1, overrides=["train.steps=5", "encoder.dim=8", "train.steps=9"])
    (merged,) = leaderboard.build([first, second]).rows
    assert merged.overrides == "encoder.dim=8 train.steps=9" and merged.scores["listops@2000"].estimate.mean == 50


def test_seeds_trained_together_count_one_by_one_and_each_once():
    group = record(score=0.5, seeds=[0, 1, 2], created="2026-02-01T00:00:00+00:00")
    group["results"] = [result(0.40, 0), result(0.44, 1), result(None, 2, "diverged")]
    built = leaderboard.build([group, record(score=0.9, seed=1)])
    score = row(built, "fnet").scores["listops@2000"]
    assert score.values == {0: pytest.approx(40), 1: pytest.approx(44)} and score.failures == {"diverged": 1}
    assert built.conflicts == ["duplicate: fnet, listops@2000, seed 1: two records have a score, the later counts"]


def test_speed_and_memory_of_seeds_trained_together_are_left_out():
    group = record(score=0.5, seeds=[0, 1])
    group["results"] = [result(0.40, 0), result(0.44, 1)]
    score = leaderboard.build([group]).rows[0].scores["listops@2000"]
    assert score.steps_per_second is None and score.memory("compiled_bytes") is None
    both = leaderboard.build([group, record(score=0.5, seed=2)]).rows[0].scores["listops@2000"]
    assert both.steps_per_second == 4 and both.memory("compiled_bytes") == 2 * 10**9


def test_a_cell_that_was_stopped_half_way_has_no_score_yet():
    stopped = record(status="interrupted", results=[result(0.9)])
    score = leaderboard.build([stopped]).rows[0].scores["listops@2000"]
    assert score.estimate is None and score.failures == {"interrupted": 1}


def test_other_metrics_take_their_own_split():
    validated = record(score=0.4)
    validated["results"][0]["validation_best"] = 0.6
    validated["data"]["counts"]["validation"] = 100
    built = leaderboard.build([validated], selection.Selection(metric="validation_best"))
    assert built.rows[0].scores["listops@2000"].estimate.mean == pytest.approx(60)
    assert built.columns["listops@2000"].examples == 100


def of_sample(examples, model="fnet", score=0.4, **changes):
    """A record that was tested on so many examples of 2,000."""
    changes.setdefault("overrides", [f"train.test_examples={examples}"])
    return record(model, score=score, evaluated={"validation": 2_000, "test": examples}, **changes)


def test_the_interval_of_a_sample_is_that_of_as_many_examples():
    (column,) = (built := leaderboard.build([of_sample(500)])).columns.values()
    assert (column.name, column.examples, column.sampled) == ("listops@2000", 500, True)
    assert built.rows[0].scores["listops@2000"].estimate.interval == pytest.approx(
        [100 * end for end in stats.wilson(0.4, 500)]
    )
    assert column.notes == ("test is a fixed sample of 500 of 2,000 examples",)
    table = [[cell.strip() for cell in line.split("|")] for line in tables.to_markdown(built).splitlines()]
    assert ["listops@2000", "generated (seed 0)", "1", "listops-", "500", "20.00"] in [line[1:-1] for line in table]


def test_all_examples_evaluated_are_no_sample():
    (column,) = leaderboard.build([of_sample(2_000), record("luna")]).columns.values()
    assert (column.name, column.examples, column.sampled, column.notes) == ("listops@2000", 2_000, False, ())


def test_scores_on_a_sample_and_on_the_whole_split_are_not_ranked_together():
    """Of one data set the whole split has the plain name, though more cells were tested on a sample."""
    samples = [of_sample(500, model, overrides=[]) for model in ("luna", "local")]
    built = leaderboard.build([*samples, record("fnet", score=0.5)])
    assert {name: column.examples for name, column in built.columns.items()} == {
        "listops@2000": 2_000, "listops@2000 [500 examples]": 500,
    }  # fmt: skip
    assert built.conflicts == [
        "conflict: listops@2000 was run on all examples and on samples of them; results on different data stand in "
        "columns of their own"
    ]
    assert not any(score.best for row in built.rows for score in row.scores.values())
    failed = of_sample(2_000, "performer", None, status="failed")
    names = leaderboard.build([samples[0], failed]).columns
    assert list(names) == ["listops@2000", "listops@2000 [all examples]"]


def test_a_sample_of_the_other_split_changes_nothing():
    other = record(score=0.4, evaluated={"validation": 50, "test": 2_000})
    assert leaderboard.build([other]).columns["listops@2000"].examples == 2_000
    choice = selection.Selection(metric="validation_best")
    assert leaderboard.build([other], choice).columns["listops@2000"].examples == 50


MODELS = ("fnet", "transformer", "luna", "local")
CELLS = st.builds(
    record,
    st.sampled_from(MODELS),
    st.sampled_from(("listops", "text", "image")),
    st.floats(0, 1),
    st.integers(0, 3),
    st.sampled_from(("ok", "ok", "ok", "oom", "diverged", "failed", "interrupted")),
    st.sampled_from((1000, 2000)),
    accelerator=st.sampled_from(("CPU", "H200")),
    created=st.sampled_from(("2026-01-01", "2026-01-02")),
    parameters=st.sampled_from((10, 10**8)),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(CELLS, max_size=25), st.randoms())
def test_the_order_of_records_does_not_matter(records, rng):
    shuffled = list(records)
    rng.shuffle(shuffled)
    assert tables.to_markdown(leaderboard.build(records)) == tables.to_markdown(leaderboard.build(shuffled))
    assert tables.to_frame(leaderboard.build(records)).equals(tables.to_frame(leaderboard.build(shuffled)))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(CELLS, max_size=20),
    st.sampled_from(("oom", "failed", "diverged", "interrupted")),
    st.sampled_from(MODELS),
    st.sampled_from(("listops", "text", "pathx")),
    st.sampled_from(("1", "2")),
)
def test_adding_a_failed_cell_changes_no_other_row(records, status, model, task, version):
    failed = record(model, task, None, 9, status, created="2027-01-01")
    failed["data"] = failed["data"] | {"task_version": version, "fingerprint": f"other-{version}"}
    lines = [_lines(leaderboard.build(cells), model, "CPU") for cells in (records, [*records, failed])]
    assert lines[0] == lines[1]


def _lines(built, model, accelerator):
    """All that is said of every row but one model's."""
    return [
        (r.model, r.protocol, r.kind, r.overrides, r.accelerator, r.variant, r.rank, r.averages, r.best,
         {name: (s.estimate, s.values, s.failures, s.best, s.steps_per_second) for name, s in r.scores.items()})
        for r in built.rows if (r.model, r.accelerator) != (model, accelerator)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "models"),
    [
        (selection.Selection(models=("fnet",)), {"fnet"}),
        (selection.Selection(tasks=("text",)), {"local"}),
        (selection.Selection(protocols=("small",)), {"performer:features=8"}),
        (selection.Selection(models=("performer",)), {"performer:features=8"}),
        (selection.Selection(accelerator="h200"), {"fnet"}),
    ],
)
def test_filters_choose_cells(choice, models):
    records = [
        record(score=0.4, accelerator="NVIDIA H200"), record("local", "text", 0.5),
        record("performer:features=8", score=0.6, mixer="performer", protocol="small"),
    ]  # fmt: skip
    assert {r.model for r in leaderboard.build(records, choice).rows} == models


def test_sorting_orders_within_groups():
    records = [record(m, score=s, parameters=p) for m, s, p in (("fnet", 0.4, 9), ("local", 0.5, 8), ("luna", 0.3, 7))]
    for sort, models in (
        ("average", ["local", "fnet", "luna"]), ("model", ["fnet", "local", "luna"]),
        ("parameters", ["luna", "local", "fnet"]), ("listops", ["local", "fnet", "luna"]),
    ):  # fmt: skip
        assert [r.model for r in leaderboard.build(records, selection.Selection(sort=sort)).rows] == models
