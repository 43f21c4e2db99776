"""Where a chart's parts stand: scales, round ticks, labels that cover neither each other nor a point."""

import itertools
import random

import pytest

from lra.report import layout
from lra.report.charts import Axis, Chart, Series
from lra.report.styles import Style

X, Y = Axis("steps/s", log=True), Axis("accuracy (%)")


def disc(name, x, y, area=0.2):
    return Series(name, Style(0), (x,), (y,), name, area=area)


def crowd(count):
    rng = random.Random(0)
    return Chart(
        "", X, Y, tuple(disc(f"transformer_{i:02}", 10 ** rng.gauss(1, 0.3), rng.gauss(50, 4)) for i in range(count))
    )


def boxes(plot, scale=1.0):
    """The rectangles of the labels' letters, a letter being half as wide as it is high."""
    found = []
    for mark in plot["marks"]:
        x, y, text = mark["label"]
        found.append((x, y - 8 * scale, x + 5.5 * scale * len(text), y))
    return found


def covers(one, other):
    return min(one[2], other[2]) > max(one[0], other[0]) and min(one[3], other[3]) > max(one[1], other[1])


def test_forty_labels_cover_neither_each_other_nor_another_s_point_on_a_wide_screen():
    plot = layout.lay_out(crowd(40))
    assert len(plot["marks"]) == 40 and plot["wide"] == layout.WIDE[0]
    labels = boxes(plot)
    assert not [pair for pair in itertools.combinations(labels, 2) if covers(*pair)]
    for mark, label in zip(plot["marks"], labels, strict=True):
        others = [other["points"] for other in plot["marks"] if other is not mark]
        assert not [(x, y) for x, y in others if covers(label, (x - 2, y - 2, x + 2, y + 2))]
        assert label[0] >= 0 and label[2] <= plot["wide"] and label[1] >= 0 and label[3] <= plot["high"]


def test_on_a_phone_every_model_keeps_its_label_and_few_touch():
    plot = layout.lay_out(crowd(40), layout.NARROW)
    labels = boxes(plot)
    assert plot["wide"] <= 390 and all(label[0] >= 0 and label[2] <= plot["wide"] for label in labels)
    assert sum(covers(*pair) for pair in itertools.combinations(labels, 2)) <= 4


def test_a_line_may_stand_among_discs():
    line = Series("equal", Style(7), (1.0, 100.0), (40.0, 60.0))
    plot = layout.lay_out(Chart("", X, Y, (disc("a", 10.0, 50.0), line, disc("b", 20.0, 50.0))))
    marks = {mark["name"]: mark for mark in plot["marks"]}
    assert plot["wide"] == layout.WIDE[0] and set(marks) == {"a", "b", "equal"}
    assert "label" in marks["a"] and "line" in marks["equal"] and "label" not in marks["equal"]
    assert marks["equal"]["line"][:2] < marks["a"]["points"] < marks["equal"]["line"][2:]


def test_a_label_apart_from_its_point_has_a_line_to_it():
    plot = layout.lay_out(Chart("", X, Y, tuple(disc(f"model_{i}", 10.0, 50.0) for i in range(8))))
    apart = [mark for mark in plot["marks"] if "lead" in mark]
    assert apart and all(mark["lead"][:2] == tuple(mark["points"]) for mark in apart)


def test_a_place_is_by_the_axis_s_scale():
    chart = Chart("", X, Y, (disc("a", 1.0, 10.0), disc("b", 10.0, 20.0), disc("c", 100.0, 40.0)))
    (ax, ay), (bx, by), (cx, cy) = (mark["points"] for mark in layout.lay_out(chart)["marks"])
    assert bx - ax == pytest.approx(cx - bx, abs=0.2)
    assert ay - by == pytest.approx((by - cy) / 2, abs=0.2) and ay > by > cy


def test_large_discs_are_drawn_first_and_stay_inside():
    marks = layout.lay_out(Chart("", X, Y, (disc("small", 1, 1, 0.01), disc("large", 9, 9, 1.0))))["marks"]
    assert [mark["name"] for mark in marks] == ["large", "small"]
    box = layout.lay_out(Chart("", X, Y, (disc("small", 1, 1, 0.01), disc("large", 9, 9, 1.0))))["box"]
    x, y, radius = marks[0]["disc"]
    assert box[0] <= x - radius and x + radius <= box[2] and box[1] <= y - radius and y + radius <= box[3]


@pytest.mark.parametrize("low, high, log, expected", [
    (0.0, 100.0, False, [0, 20, 40, 60, 80, 100]),
    (41.2, 48.9, False, [42, 44, 46, 48]),
    (0.9, 130.0, True, [1, 3, 10, 30, 100]),
    (2.1, 9.0, True, [3, 5]),
    (4.1, 4.6, True, [4.1, 4.2, 4.3, 4.4, 4.5, 4.6]),
])  # fmt: skip
def test_ticks_are_round(low, high, log, expected):
    assert layout.round_ticks(layout.Scale(low, high, 0, 400, log), 6) == pytest.approx(expected)


def test_labels_at_ends_are_spread_around_where_they_belong():
    assert layout.spread([10, 11, 12, 60], 0, 100, 5) == pytest.approx([6, 11, 16, 60])
    assert layout.spread([-3, 99, 99], 0, 100, 5) == pytest.approx([0, 95, 100])
    assert layout.spread([], 0, 100, 5) == []


def test_a_chart_of_lines_grows_with_its_labels():
    def line(i):
        return Series(f"m{i}", Style(0), (1.0, 2.0), (1.0, 1.0 + i / 100), f"m{i}")

    few, many = (Chart("", Axis("x"), Axis("y"), tuple(map(line, range(n)))) for n in (3, 40))
    assert layout.lay_out(few)["high"] == layout.SMALL[1] < layout.lay_out(many)["high"]
    places = sorted(mark["label"][1] for mark in layout.lay_out(many)["marks"])
    assert min(b - a for a, b in itertools.pairwise(places)) >= layout.TEXT


def test_with_more_labels_than_anyone_reads_there_are_none():
    assert not [mark for mark in layout.lay_out(crowd(130))["marks"] if "label" in mark]


def test_one_point_alone_and_equal_values_have_a_place():
    for chart in (
        Chart("", X, Y, (disc("a", 5.0, 50.0),)),
        Chart("", X, Y, (disc("a", 5.0, 0.0), disc("b", 5.0, 0.0))),
    ):
        plot = layout.lay_out(chart)
        assert plot["x"]["ticks"] and plot["y"]["ticks"] and all(m["points"] for m in plot["marks"])


@pytest.mark.parametrize("values", [[1e308, -1e308], [1e18], [1e308], [0.0, 1e200]])
def test_junk_has_a_place_all_the_same(values):
    scale = layout.make_scale(values, 0.0, 100.0, False, 5.0)
    assert all(0 <= place <= 100 for place in scale(values))
