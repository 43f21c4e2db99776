"""How far models look, in tables, on the page and in figures; and the largest distance that they solve."""

import pytest

from lra.report import distance, figures, headline, html_page, leaderboard, looks, tables
from lra.report.rows import one_a_model
from tests.helpers.records import recipe, record, result


def look(seed=0, windows=(0.5, 0.6, 0.8, 0.9), majority=0.5, r50=3, r90=7, k=(1, 2, 4, 8)):
    return {
        "seed": seed, "majority": majority, "k": list(k), "windows": list(windows),
        "jacobian": {"at_0": 0.2, "r50": r50, "r90": r90},
    }  # fmt: skip


def measured(model="fnet", looks_of=None, task="listops", length=2000, **changes):
    made = record(model, task, 0.5, length=length, **changes)
    seeds = made["cell"]["seeds"]
    return made | {"reach": [look(seed) for seed in seeds] if looks_of is None else looks_of}


def board(*records):
    return leaderboard.build(list(records))


def score_of(*records):
    ((row,),) = [board(*records).rows]
    return next(iter(row.scores.values()))


def test_a_look_is_the_median_over_seeds():
    seeds = [
        measured(seed=0, looks_of=[look(0, (0.5, 0.6, 0.8, 0.9), r50=3)]),
        measured(seed=1, looks_of=[look(1, (0.5, 0.7, 0.9, 1.0), r50=5)]),
        measured(seed=2, looks_of=[look(2, (0.5, 0.65, 0.7, 0.8), r50=40)]),
    ]
    found = looks.of_score(score_of(*seeds))
    assert found.windows == pytest.approx({1: 50, 2: 65, 4: 80, 8: 90}) and found.text == "5/7"
    assert found.kept == pytest.approx({1: 0, 2: 37.5, 4: 75, 8: 100})


def test_where_it_was_not_measured_there_is_none_and_a_weak_model_has_nothing_to_keep():
    assert looks.of_score(score_of(record())) is None and looks.of_score(None) is None
    weak = looks.of_score(score_of(measured(looks_of=[look(windows=(0.5, 0.5, 0.5, 0.54))])))
    assert weak.kept == {} and weak.windows[8] == pytest.approx(54)


@pytest.mark.parametrize(
    "junk",
    [
        "far", [], [[]], [{}], [{"seed": 0}], [{"seed": [0]}], [look(k=("a", None, 2.5, -1))], [look(seed=7)],
        [look(windows=(None,) * 4)], [look(windows=(float("nan"), 1e308, -3, "0.5"))], [look(majority="half")],
        [look() | {"k": 4}], [look() | {"windows": {"1": 0.5}}],
    ],
)  # fmt: skip
def test_a_damaged_measurement_counts_as_none(junk):
    damaged = measured(looks_of=junk)
    assert looks.of_score(score_of(damaged)) is None
    html_page.to_html(board(damaged), [])


def test_a_damaged_jacobian_costs_only_itself():
    for jacobian in (None, [], {"r50": "far", "r90": 1e400}, {"r50": float("nan")}):
        found = looks.of_score(score_of(measured(looks_of=[look() | {"jacobian": jacobian}])))
        assert found.text == "" and found.windows[8] == pytest.approx(90)


def test_tables_have_it_beside_the_score():
    found = board(measured("fnet", recipe=recipe()), record("local", recipe=recipe(model="local")))
    table = headline.choose(found, [])
    lines = {line[1].text: line for line in tables.headline_table(table)[1]}
    assert lines["fnet"][3].seen == " · 3/7" and lines["local"][3].seen == ""
    assert looks.NOTE in tables.headline_notes(table)
    assert "50.00 ± 2.19 · 3/7 |" in tables.to_markdown(found)
    frame = tables.to_frame(found).set_index("model")
    assert frame.loc["fnet", "listops@2000 r50"] == 3 and frame["listops@2000 r90"].isna()["local"]
    assert "listops@2000 r50" not in tables.to_frame(board(record()))
    assert looks.NOTE not in tables.headline_notes(headline.choose(board(record(recipe=recipe())), []))


def test_a_combined_row_takes_it_from_another_accelerator_where_that_of_its_score_has_none():
    own = [record("fnet", score=0.6, length=2000, seed=seed, accelerator="H200") for seed in (0, 1)]
    built = board(*own, measured(accelerator="CPU"))
    (row,) = one_a_model(built.rows)
    score = row.scores["listops@2000"]
    assert score.estimate.mean == pytest.approx(60) and looks.of_score(score).text == "3/7"
    for row in built.rows:
        assert (looks.of_score(row.scores["listops@2000"]) is None) == (row.accelerator == "H200")
    both = board(*(r | {"reach": [look(seed, r50=1)]} for seed, r in enumerate(own)), measured(accelerator="CPU"))
    (row,) = one_a_model(both.rows)
    assert looks.of_score(row.scores["listops@2000"]).text == "1/7"


def test_the_figure_has_a_line_a_model_and_tells_what_small_windows_keep():
    k = (1, 8, 16, 128, 1024)
    records = [
        measured("fnet", [look(windows=(0.5, 0.6, 0.7, 0.8, 0.9), k=k)], "image", 1024),
        measured("local", [look(windows=(0.5, 0.5, 0.9, 0.9, 0.9), k=k)], "image", 1024),
        measured("luna", [look(windows=(0.5, 0.5, 0.5, 0.5, 0.5), k=k)], "image", 1024),
        record("linformer", "image", length=1024),
    ]
    found = {figure.name: figure for figure in figures.of_leaderboard(board(*records), [])}
    (chart,) = found["windows-lra"].charts
    assert {line.name for line in chart.series} == {"fnet", "local", "luna"} and chart.x.ticks == k
    line = next(line for line in chart.series if line.name == "fnet")
    assert line.x == k and line.y == pytest.approx((50, 60, 70, 80, 90))
    assert any("windows of 16 tokens" in told for told in line.told) and any("3/7" in told for told in line.told)
    assert found["windows-lra"].notes[1] == (
        "image@1024: windows of 1 % of the length (8 tokens) keep 12 %, of 10 % of the length (16 tokens) keep 75 % "
        "of what is above the most frequent class, in the median over 2 models."
    )
    assert "windows-lra" not in {figure.name for figure in figures.of_leaderboard(board(record()), [])}


def test_the_page_has_the_figure():
    data = html_page.page_data(board(measured("fnet"), measured("local")), [])
    (figure,) = data["windows"]
    assert figure["title"] == "How far models look: protocol lra" and len(figure["plots"][0]["marks"]) == 2
    assert html_page.page_data(board(record()), [])["windows"] == []


def pairs(model, solved, seeds=(0, 1, 2), length=256, **changes):
    """Cells of ordered pairs: accuracy by distance, for all seeds."""
    return [
        record(
            model, f"ordered_pair_{d}", score, seed, length=length, protocol="mini",
            recipe=recipe(f"ordered_pair_{d}", model, "mini"), **changes,
        )
        for d, score in solved.items()
        for seed in seeds
    ]  # fmt: skip


def distance_of(*records):
    found = board(*records)
    (row,) = found.rows
    return distance.of_row(row, found.columns)


def test_the_largest_distance_that_all_seeds_solve():
    found = distance_of(*pairs("fnet", {1: 0.99, 4: 0.9, 16: 0.89, 64: 0.5}))
    assert (found.solved, found.run, found.seeds, found.reached) == (4, (1, 4, 16, 64), 3, "4")
    one_fails = [*pairs("fnet", {1: 1.0, 4: 1.0}), *pairs("fnet", {16: 1.0}, (0, 1)), *pairs("fnet", {16: 0.6}, (2,))]
    assert distance_of(*one_fails).reached == "4"
    diverged = [*pairs("fnet", {1: 1.0}), *pairs("fnet", {4: 1.0}, (0, 1))]
    diverged += [record("fnet", "ordered_pair_4", None, 2, "diverged", length=256, protocol="mini",
                        recipe=recipe("ordered_pair_4", "fnet", "mini"))]  # fmt: skip
    assert distance_of(*diverged).solved == 1


def test_distances_have_lengths_of_their_own_and_the_longest_counts():
    near, far = pairs("fnet", {1: 1.0, 4: 1.0}, length=64), pairs("fnet", {16: 1.0}, length=256)
    assert distance_of(*near, *far).reached == "≥ 16"
    longer = pairs("fnet", {1: 0.95, 4: 0.5}, length=128)
    found = distance_of(*near, *longer, *far)
    assert (found.solved, found.run) == (16, (1, 4, 16))
    found = distance_of(*near, *longer)
    assert (found.solved, found.run) == (1, (1, 4))


def test_fewer_seeds_and_nothing_solved_are_told():
    one = distance_of(*pairs("fnet", {1: 0.95, 4: 0.95}, (0,)))
    assert (one.text(3), one.text(1)) == ("≥ 4 (1 seed)", "≥ 4")
    assert distance_of(*pairs("fnet", {4: 0.6, 16: 0.5})).text(3) == "< 4"
    three = distance_of(*pairs("fnet", {4: 0.95, 16: 0.5}))
    assert distance.usual_seeds([one, None, three, three]) == 3 and distance.usual_seeds([one, None]) == 1
    assert distance.note([one, None])[0].count("of 1 seed, where no other number is given.") == 1
    assert distance.note([None]) == [] and distance.usual_seeds([]) == 0
    assert distance_of(record()) is None


def test_steps_are_those_of_the_first_validation_that_solves_it():
    cells = pairs("fnet", {4: 0.95})
    for cell, first in zip(cells, (100, 300, 500), strict=True):
        curve = [{"step": step, "validation_accuracy": 0.9 if step >= first else 0.89} for step in range(100, 600, 100)]
        cell["results"] = [result(0.95, cell["cell"]["seeds"][0]) | {"curve": curve}]
    found = distance_of(*cells)
    assert found.steps == 300 and found.told == "3 seeds, of distances 4, first after 300 steps"


def test_it_is_a_column_of_the_first_table_and_counts_in_no_average():
    tasks = {"listops_mini": 128, "image_mini": 256}
    records = [
        record(model, task, 0.4, length=length, protocol="mini", recipe=recipe(task, model, "mini"))
        for model in ("fnet", "local")
        for task, length in tasks.items()
    ]
    before = headline.choose(board(*records), [])
    both = board(*records, *pairs("fnet", {1: 0.95, 4: 0.5}), *pairs("local", {1: 0.4}))
    table = headline.choose(both, [])
    assert (
        table.columns == before.columns
        and table.average == before.average == "average (listops_mini@128, image_mini@256)"
    )
    header, lines = tables.headline_table(table)
    place = header.index("distance")
    assert {line[1].text: line[place].text for line in lines} == {"fnet": "1", "local": "< 1"}
    assert any(note.startswith("Distance: ") for note in tables.headline_notes(table))
    assert "distance" not in tables.headline_table(before)[0]
    assert all(name == table.average for group in both.groups for name in group.averages)
    first = html_page.page_data(both, [])["first"]
    assert {entry["distance"]["text"] for entry in first["rows"]} == {"1", "< 1"}


def test_pairs_alone_are_a_table_of_their_own():
    table = headline.choose(board(*pairs("fnet", {1: 0.95, 4: 0.5})), [])
    assert table.columns == ["ordered_pair_1@256", "ordered_pair_4@256"] and table.entries[
        0
    ].value.mean == pytest.approx(72.5)
