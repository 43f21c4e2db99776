"""The three rules of averages, by hand."""

import pytest

from lra.report import averages, leaderboard
from lra.report.averages import LENGTHS
from tests.helpers.records import record

SCORES = {"listops": 0.4, "text": 0.6, "retrieval": 0.8, "image": 0.4, "pathfinder": 0.7, "pathx": 0.5}
FIVE = "listops@2000, text@4000, retrieval@4000, image@1024, pathfinder@1024"
NAMES = [
    f"average of 5, Path-X left out ({FIVE})",
    f"average of 6, a failure as 50 ({FIVE}, pathx@16384)",
    f"average of 6, a missing one as 0 ({FIVE}, pathx@16384)",
]


def six(model, **changed):
    """Six records; a change is a status in the place of a score, or None to leave the task out."""
    records = []
    for task, score in (SCORES | changed).items():
        if isinstance(score, str):
            records.append(record(model, task, None, status=score, length=LENGTHS[task]))
        elif score is not None:
            records.append(record(model, task, score, length=LENGTHS[task]))
    return records


def means(records, model):
    (row,) = [row for row in leaderboard.build(records).rows if row.model == model]
    return [row.averages[name].mean if name in row.averages else None for name in NAMES]


def test_all_six_tasks():
    assert means(six("fnet"), "fnet") == pytest.approx([58, 340 / 6, 340 / 6])


def test_a_failed_path_x_is_50_by_one_rule_and_0_by_the_other():
    records = six("fnet") + six("local", pathx="oom")
    assert means(records, "local") == pytest.approx([58, (290 + 50) / 6, 290 / 6])


def test_a_cell_that_was_not_run_or_was_stopped_is_no_failure():
    records = six("fnet") + six("local", pathx=None) + six("luna", pathx="interrupted")
    for model in ("local", "luna"):
        five, fifty, zero = means(records, model)
        assert five == pytest.approx(58) and fifty is None and zero == pytest.approx(290 / 6)


def test_a_failure_on_ten_classes_is_never_50():
    assert means(six("fnet") + six("local", listops="diverged"), "local") == [None, None, pytest.approx(300 / 6)]


def test_only_one_missing_task_counts_as_0():
    assert means(six("fnet") + six("local", pathx="oom", text=None), "local") == [None, None, None]


def test_five_tasks_have_the_five_task_rule_alone():
    (group,) = leaderboard.build(six("fnet", pathx=None)).groups
    assert group.averages == NAMES[:1]


def test_other_lengths_have_an_average_over_what_its_name_lists():
    names = [rule.name for rule in averages.rules_for(["listops@2000", "text@1000"])]
    assert names == ["average (listops@2000, text@1000)"]
    assert averages.rules_for(["listops@2000"]) == []


def test_tasks_stand_in_the_paper_s_order_and_so_do_those_named_after_them():
    tasks = [
        "ordered_pair_4",
        "pathfinder_mini",
        "image_mini",
        "text_mini",
        "pathx",
        "listops",
        "listops_mini",
        "pathfinder",
    ]
    in_order = ["listops", "pathfinder", "pathx", "listops_mini", "text_mini", "image_mini", "pathfinder_mini"]
    assert sorted(tasks, key=averages.task_order) == [*in_order, "ordered_pair_4"]
