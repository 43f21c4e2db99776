"""Tuned rows: named by their budget, ranked only with rows of the same one, and never in the place of plain results."""

import csv
import io

from lra.report import fairness, figures, headline, leaderboard, published, show, tables
from tests.helpers.records import recipe, record, result

RATE = "optimizer.learning_rate"


def tuned(model="fnet", score=0.6, seed=0, trials=2, task="listops", chosen=1e-3, **changes):
    settings = recipe(task, model)
    settings["optimizer"]["learning_rate"] = chosen
    tried = [
        {"settings": [f"{RATE}={10.0**-n:g}"], "status": "ok", "validation_best": 0.1 * n, "key": str(n)}
        for n in range(2, 2 + trials)
    ]
    told = {"sweep": [f"{RATE}=1e-5..1e-2:log"], "seed": 0, "trials": tried, "chosen": trials - 1}
    return record(model, task, score, seed, recipe=settings, tuning=told, **changes)


def kinds(*records):
    return [(group.kind, [(row.model, row.rank) for row in group.rows]) for group in leaderboard.build(records).groups]


def test_budgets_are_ranked_apart():
    plain = [record("fnet", score=0.5), record("luna", score=0.7)]
    assert kinds(*plain, tuned("fnet", 0.8), tuned("luna", 0.9), tuned("fnet", 0.95, trials=4)) == [
        ("apples to apples", [("luna", 1), ("fnet", 2)]),
        ("tuned (2 trials)", [("luna", 1), ("fnet", 2)]),
        ("tuned (4 trials)", [("fnet", 1)]),
    ]  # fmt: skip


def test_what_was_tuned_is_no_change_and_what_else_was_changed_is():
    assert fairness.recipe_changes(tuned()) == []
    other = tuned(overrides=["encoder.layers=2"])
    other["recipe"]["encoder"]["layers"] = 2
    (group,) = leaderboard.build([other]).groups
    assert group.kind == "free for all, tuned (2 trials)" and group.rows[0].reasons == ("encoder.layers=2",)
    assert "free for all" not in fairness.explain("tuned (1 trial)")


def test_tasks_with_other_choices_are_one_row_and_other_sweeps_are_another():
    records = [tuned(task="listops"), tuned(task="text", chosen=3e-4, length=4000), tuned(seed=1)]
    (row,) = leaderboard.build(records).rows
    assert set(row.scores) == {"listops@2000", "text@4000"} and len(row.scores["listops@2000"].values) == 2
    assert row.overrides == f"tuned: {RATE}=1e-5..1e-2:log"
    other = tuned(seed=2)
    other["tuning"]["sweep"] = [f"{RATE}=1e-3,1e-4"]
    assert len(leaderboard.build([*records, other]).rows) == 2


def test_published_figures_stand_beside_plain_rows_only():
    board = leaderboard.build([record("fnet"), tuned("fnet")])
    beside = [published.published_for(row, board.columns["listops@2000"]) for row in board.rows]
    assert beside[0] is not None and beside[1] is None


def test_the_first_table_is_of_plain_rows_unless_more_models_were_tuned_alike():
    plain, both = [record("fnet")], [tuned("fnet"), tuned("luna")]
    table = headline.choose(leaderboard.build([*plain, *both]), [])
    assert table.trials == 2 and tables.headline_title(table) == "Protocol lra, tuned (2 trials)"
    assert f"Tuned: {RATE}=1e-5..1e-2:log" in " ".join(tables.headline_notes(table))
    table = headline.choose(leaderboard.build([*plain, both[0]]), [])
    assert table.trials == 0 and tables.headline_title(table) == "Protocol lra"


def test_the_page_s_first_table_finds_its_tuned_rows():
    from lra.report.html_page import page_data

    data = page_data(leaderboard.build([record("fnet"), tuned("fnet"), tuned("luna")]), [])
    assert [data["rows"][entry["row"]]["kind"] for entry in data["first"]["rows"]] == ["tuned (2 trials)"] * 2
    assert data["groups"][1]["told"].startswith("Settings chosen on validation")
    assert data["cells"][1]["own"]["trials"][1].endswith("validation 30.00 %, chosen")


def test_a_figure_holds_one_budget_and_nothing_from_elsewhere():
    theirs = [
        record(name, "listops", 0.9, protocol="external", recipe={}, external={"note": ""}) for name in ("gru", "lstm")
    ]
    board = leaderboard.build([record("fnet"), record("luna"), tuned("fnet"), tuned("luna"), *theirs])
    styles = figures.styles_of(board, [])
    made = figures.accuracy_speed(board, styles)
    assert [figure.heading.partition(": protocol ")[2] for figure in made] == ["lra, CPU", "lra, tuned (2 trials), CPU"]
    assert [len(figure.charts[0].series) for figure in made] == [2, 2]
    assert len({figure.name for figure in made}) == 2
    lengths = [
        record("gru", length=length, protocol="external", recipe={}, external={"note": ""}) for length in (1000, 2000)
    ]
    assert figures.trained_over_length(leaderboard.build(lengths)).empty
    assert [group.kind for group in board.groups] == ["apples to apples", "tuned (2 trials)", "external"]
    assert [row.rank for row in board.groups[2].rows] == [None, None]


def test_files_and_show_name_every_trial():
    one = tuned()
    one["tuning"]["trials"][0] |= {"status": "diverged", "validation_best": None}
    text = show.record_text(one)
    assert f"{RATE}=0.01: diverged" in text and f"{RATE}=0.001: validation 30.00 %, chosen" in text
    (row,) = csv.DictReader(io.StringIO(tables.cells_csv([one])))
    assert (row["trials"], row["chosen"]) == ("2", f"{RATE}=0.001")


def test_models_are_compared_only_within_a_budget():
    text = show.comparison_text(
        [record("fnet"), record("luna"), tuned("fnet"), tuned("luna", trials=4)], "fnet", "luna"
    )
    assert text.count("listops@2000") == 1


def test_a_tuned_record_without_a_choice_is_a_failure_of_its_budget():
    lost = tuned(score=None, status="diverged")
    lost["tuning"]["chosen"] = None
    lost["results"] = [result(None, status="diverged")]
    (group,) = leaderboard.build([lost]).groups
    assert group.kind == "tuned (2 trials)" and group.rows[0].scores["listops@2000"].failures == {"diverged": 1}
