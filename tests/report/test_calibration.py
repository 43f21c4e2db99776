"""Calibration: which rows of ours and which published ones are compared, and what is said of the rest."""

import dataclasses
import math

import pandas as pd
import pytest
import scipy.stats

from lra.errors import UsageError
from lra.report import calibration, calibration_text, leaderboard, published
from lra.report.calibration import AVERAGE, COUNTED, calibrate, published_scores
from models import MIXERS
from tasks import PAPER, TASKS
from tests.helpers.records import HOSTILE, made_by, recipe, record

LENGTHS = {"listops": 2000, "text": 4000, "retrieval": 4000, "image": 1024, "pathfinder": 1024}
FIVE = ("fnet", "luna", "s5", "mega", "transformer")


def small(model, task, score, **changes):
    """A record of protocol small, whose tasks are the benchmark's own."""
    own = recipe(task, model, "small")
    key = f"{model}-{task}-{sorted(map(str, changes.items()))}"
    return record(model, task, score, length=LENGTHS[task], protocol="small", **{"recipe": own, "key": key} | changes)


def grid(models=FIVE, tasks=COUNTED, factor=0.008, **changes):
    """Records whose scores are a multiple of the published medians."""
    theirs = published_scores()
    return [small(m, t, factor * theirs[m][t].values["median"], **changes) for m in models for t in tasks]


def calibrated(records):
    return calibrate(leaderboard.build(records))


def agreement(found, task, kind="median"):
    (one,) = [each for each in found.agreements if (each.task, each.kind) == (task, kind)]
    return one


def test_the_table_names_mixers_of_ours_and_agrees_with_the_names_that_stand_beside_them():
    for row in published.load_table():
        assert not row["mixer"] or row["mixer"] in MIXERS, row
        assert not row["ours"] or row["mixer"] == row["ours"], row


def test_no_pretrained_or_rotary_row_and_none_without_a_source_counts():
    counted = [row for row in published.load_table() if row["mixer"]]
    assert len(counted) == 56
    for row in counted:
        assert row["protocol"] in ("lra-paper", "small", "ssm", "own-tuned") and row["source_kind"], row
        for word in ("rope", "rotary", "pretrain"):
            assert word not in f"{row['model']} {row['note']}".lower(), row


def test_first_publications_are_of_one_paper_and_the_benchmark_s_where_it_has_the_model():
    papers = {}
    for row in published.load_table():
        assert row["first"] in ("", "yes") and (row["mixer"] or not row["first"])
        if row["first"]:
            papers.setdefault(row["mixer"], set()).add(row["paper"])
    assert all(len(of_model) == 1 for of_model in papers.values())
    benchmark = {row["mixer"] for row in published.load_table() if "2011.04006" in row["paper"]}
    assert len(benchmark) == 11
    assert all("2011.04006" in next(iter(papers[mixer])) for mixer in benchmark)
    assert {row["mixer"] for row in published.load_table()} - papers.keys() == {"", "cosformer", "mamba", "mamba2"}


@pytest.mark.parametrize(
    ("mixer", "task", "median", "highest", "first"),
    [
        # 36.37 (benchmark), 37.1, 38.71, 38.49, 36.0, 37.6, 37.11
        ("transformer", "listops", 37.11, 38.71, 36.37),
        # 82.98, 81.27, and NA in the third; none is its own paper's
        ("mamba", "text", 82.125, 82.98, None),
        # two quotations of one paper
        ("luna", "image", 47.62, 47.86, 47.62),
        ("mega", "retrieval", 91.25, 91.25, 91.25),
    ],
)
def test_published_scores_as_worked_out_by_hand(mixer, task, median, highest, first):
    values = published_scores()[mixer][task].values
    assert (values["median"], values["highest"]) == (pytest.approx(median), highest)
    assert values.get("first") == (None if first is None else pytest.approx(first))


def test_a_multiple_of_the_published_scores_ranks_the_models_as_they_do():
    found = calibrated(grid())
    for task in (AVERAGE, *COUNTED):
        one = agreement(found, task)
        assert one.count == 5 and one.rho.value == pytest.approx(1) and one.tau.value == pytest.approx(1)
    (mega,) = [point for point in found.of(AVERAGE) if point.model == "mega"]
    # The mean of the five figures of its paper, 63.14, 90.43, 91.25, 90.44 and 96.01.
    assert mega.published.values["median"] == pytest.approx(431.27 / 5) and mega.ours == pytest.approx(0.8 * 431.27 / 5)
    assert (mega.family, mega.seeds, found.columns["text"]) == ("moving_average", 1, "text@4000")


def test_the_opposite_order_has_a_correlation_of_minus_one():
    turned = [small(m, "listops", 0.9 - published_scores()[m]["listops"].values["median"] / 100) for m in FIVE]
    one = agreement(calibrated(turned), "listops")
    assert one.rho.value == pytest.approx(-1) and one.tau.value == pytest.approx(-1)


def test_seeds_are_averaged():
    found = calibrated([*grid(), small("mega", "listops", 0.3, seed=1)])
    (mega,) = [point for point in found.of("listops") if point.model == "mega"]
    assert mega.seeds == 2 and mega.ours == pytest.approx((0.8 * 63.14 + 30) / 2)


def test_the_first_publication_counts_only_models_that_have_one():
    found = calibrated(grid((*FIVE, "mamba2", "cosformer")))
    assert agreement(found, AVERAGE).count == 7 and agreement(found, AVERAGE, "first").count == 5
    assert agreement(found, AVERAGE, "highest").count == 7
    assert "own: cosformer, mamba2." in calibration_text.to_markdown(found, "small")


RERUN = {"bigbird", "linear_transformer", "linformer", "local", "nystromformer", "performer", "reformer", "skyformer"}


def of_kind(kind, models):
    """Records whose scores are four fifths of the published ones of that kind."""
    theirs = published_scores()
    return [small(m, t, 0.008 * theirs[m][t].values[kind]) for m in models for t in COUNTED]


def test_later_publications_are_those_that_are_not_the_first():
    # 18.01 in the benchmark's paper; later 17.8, 18.8 and 36.8.
    values = published_scores()["performer"]["listops"].values
    assert (values["first"], values["later"]) == (18.01, 18.8)
    assert "later" not in published_scores()["mega"]["listops"].values  # run by its authors alone
    assert "later" not in published_scores()["mamba2"]["listops"].values  # which has no first publication


def test_publications_are_compared_over_the_models_that_have_several():
    found = calibrated([*of_kind("first", RERUN), *of_kind("median", ("s5", "mega", "mamba2"))])
    theirs = published_scores()
    for task, one in zip((AVERAGE, *COUNTED), found.reruns, strict=True):
        tasks = COUNTED if task == AVERAGE else (task,)
        first, later = (
            [sum(theirs[model][each].values[kind] for each in tasks) for model in sorted(RERUN)]
            for kind in ("first", "later")
        )
        assert (one.task, one.count) == (task, len(RERUN))
        assert one.published.value == pytest.approx(scipy.stats.spearmanr(first, later).statistic)
        assert one.ours_first.value == pytest.approx(1)
        assert one.ours_later.value == pytest.approx(one.published.value)


def test_publications_of_fewer_than_four_models_are_not_compared():
    found = calibrated(grid())
    assert all(one.published is None for one in found.reruns if one.count < 4)
    assert "How far publications agree" not in calibration_text.to_markdown(found, "small")


def test_the_task_that_breaks_the_order_is_seen_in_the_average_without_it():
    theirs = published_scores()
    broken = [small(m, "listops", 0.9 - 0.01 * theirs[m]["listops"].values["median"]) for m in FIVE]
    found = calibrated([*grid(FIVE, COUNTED[1:], 0.001), *broken])
    assert found.without["listops"].value == pytest.approx(1) and found.without["text"].value < 0.9
    assert "| listops" in calibration_text.to_markdown(found, "small").split("without one task")[1].split("##")[0]


def test_rows_with_overrides_or_another_recipe_do_not_count():
    changed = grid(("local",), overrides=["train.steps=9"])
    for cell in changed:
        cell["recipe"]["train"]["steps"] = 9
    found = calibrated([*grid(), *changed, *grid(("sparse",), overrides=["train.precision=float32"])])
    assert {point.model for point in found.points} == set(FIVE)
    assert found.left_out["local"] == found.left_out["sparse"] == "no result with the protocol's own recipe"


def test_an_earlier_recipe_of_the_protocol_does_not_count():
    earlier = grid(("local",))
    for cell in earlier:
        cell["recipe"]["train"]["steps"] += 1
    found = calibrated([*grid(), *earlier])
    assert found.left_out["local"] == "no result with the protocol's own recipe"


def test_scores_by_earlier_code_of_a_mixer_do_not_count_even_where_they_are_more():
    earlier = [small("luna", "listops", 0.9, seed=seed, code=made_by("", "luna", mixer=1)) for seed in (1, 2, 3)]
    later = [cell | {"created": "2026-02-01T00:00:00+00:00"} for cell in grid()]
    found = calibrated([*[cell for cell in later if cell["cell"]["task"] == "listops"], *earlier])
    (luna,) = [point for point in found.of("listops") if point.model == "luna"]
    assert (luna.seeds, luna.ours) == (1, pytest.approx(0.8 * 37.615))


def test_of_two_accelerators_the_one_with_most_seeds_gives_a_score():
    more = [c for s in (1, 2) for c in grid(("fnet",), tasks=COUNTED[:1], factor=0.001, accelerator="H200", seed=s)]
    found = calibrated([*grid(), *more])
    ours = {point.task: point.ours for point in found.points if point.model == "fnet"}
    assert ours["listops"] == pytest.approx(0.1 * 35.33) and ours["text"] == pytest.approx(0.8 * 65.11)


def test_a_task_that_failed_or_is_missing_leaves_no_average_and_is_named():
    cells = [cell for cell in grid() if (cell["cell"]["model"], cell["cell"]["task"]) != ("luna", "image")]
    cells.append(small("luna", "image", None, status="oom"))
    found = calibrated([*cells, *grid(("sparse",), tasks=("listops",))])
    assert agreement(found, AVERAGE).count == 4 and agreement(found, "listops").count == 6
    assert found.left_out["luna"] == "no score of ours on image (oom)"
    missing = ", ".join(f"{task} (missing)" for task in COUNTED[1:])
    assert found.left_out["sparse"] == f"no score of ours on {missing}"
    assert found.left_out["mamba"] == "no result with the protocol's own recipe" and "mega" not in found.left_out


def test_a_task_without_any_published_score_leaves_no_average(monkeypatch):
    table = [row | {"image": "FAIL"} if row["mixer"] == "s5" else row for row in published.load_table()]
    monkeypatch.setattr(published, "load_table", lambda: table)
    published_scores.cache_clear()
    try:
        without = calibrated([*grid(("fnet", "luna", "mega", "transformer")), *grid(("s5",), ("listops", "text"))])
    finally:
        monkeypatch.undo()
        published_scores.cache_clear()
    assert without.left_out["s5"].startswith("no published score on image; no score of ours on retrieval (missing)")
    assert agreement(without, AVERAGE).count == 4


def test_models_without_published_scores_are_named():
    extra = [small("ff_only", task, 0.3) for task in COUNTED]
    strange = [small("fnet", task, 0.3) for task in COUNTED]
    for cell in strange:
        cell["cell"]["model"] = HOSTILE
    found = calibrated([*grid(), *extra, *strange])
    assert found.left_out["ff_only"] == found.left_out[HOSTILE] == "no published score"
    assert "<script>" not in calibration_text.to_markdown(found, "small").replace("\\<script>", "")


def test_a_part_of_the_tasks_says_how_many_models_have_them():
    found = calibrated([*grid(FIVE, ("listops",)), *grid(FIVE[:3], ("text",))])
    text = calibration_text.to_markdown(found, "small")
    assert agreement(found, "listops").rho is not None and agreement(found, "text").rho is None
    assert "0 models have all five tasks" in text
    assert "Fewer than 4 models have both scores, and so no correlation: average, text, retrieval" in text
    row = next(line for line in text.splitlines() if line.startswith("| text"))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["text", "text@4000", "3", "–", "–"]


def test_fewer_than_four_models_are_an_error():
    with pytest.raises(UsageError, match="3 models have a score here and a published one on the same task"):
        calibrated([*grid(FIVE[:3]), small("ff_only", "listops", 0.3)])


def test_a_constant_score_of_ours_has_a_dash():
    found = calibrated([small(model, "listops", 0.5) for model in FIVE])
    assert math.isnan(agreement(found, "listops").rho.value)
    row = next(line for line in calibration_text.to_markdown(found, "small").splitlines() if "listops" in line)
    assert row.split("|")[4].strip() == row.split("|")[5].strip() == "–"


def test_a_small_task_is_compared_with_the_one_it_stands_for(monkeypatch):
    short = dataclasses.replace(TASKS["listops_short"], stands_for="listops")
    monkeypatch.setattr(calibration, "TASKS", TASKS | {"listops_short": short})
    cells = []
    for number, model in enumerate(("fnet", "transformer", "s5", "mega")):
        own = recipe("listops_short", model, "quick")
        cells.append(record(model, score=0.2 + 0.1 * number, length=64, protocol="quick", recipe=own, key=model))
        cells[-1]["cell"]["task"] = "listops_short"
    found = calibrated(cells)
    # Published medians: 35.33, 37.11, 62.15, 63.14.
    assert found.columns == {"listops": "listops_short@64"}
    assert agreement(found, "listops").rho.value == pytest.approx(1)


def test_only_tasks_of_the_paper_are_stood_for():
    assert {task.stands_for for task in TASKS.values()} <= {"", *PAPER}
    assert all(not TASKS[task].stands_for for task in PAPER)


def test_of_two_data_sets_the_one_with_most_models_counts():
    other = small("mega", "listops", 0.01, seed=3)
    other["data"] = other["data"] | {"fingerprint": "other"}
    found = calibrated([*grid(), other])
    assert found.columns["listops"] == "listops@2000"
    (mega,) = [point for point in found.of("listops") if point.model == "mega"]
    assert mega.ours == pytest.approx(0.8 * 63.14)


def test_the_csv_has_a_row_for_each_model_and_task():
    frame = calibration_text.to_frame(calibrated(grid()))
    assert len(frame) == 5 * 6
    mega = frame[(frame["model"] == "mega") & (frame["task"] == "image")].iloc[0]
    assert mega["published median"] == mega["published highest"] == mega["published first"] == 90.44
    assert pd.isna(mega["published later"])
    assert mega["sources"] == "MEGA, MEGA (2209.10655): 90.44" and mega["publications"] == 1
    luna = frame[(frame["model"] == "luna") & (frame["task"] == "text")].iloc[0]
    assert luna["publications"] == 2 and luna["published median"] == pytest.approx(65.175)
