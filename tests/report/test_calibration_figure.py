"""The figure of a calibration: a point for each model, names that hide nothing, and equal files for equal scores."""

import itertools

import pytest
from matplotlib.text import Text

from lra.report import calibration_figure, figures
from lra.report.calibration import (
    AVERAGE,
    COUNTED,
    FAMILY_NAMES,
    Agreement,
    Calibration,
    Point,
    PublishedScore,
    calibrate,
)
from lra.report.leaderboard import build
from models import FAMILIES
from tests.helpers.records import recipe, record


def made(number=28):
    """A calibration of so many models, which lie close together."""
    names = [(mixer, family) for family, (_, mixers) in FAMILIES.items() for mixer in mixers][:number]
    points = [
        Point(model, family, task, 50 + 0.4 * i + (i % 3), 1, PublishedScore({"median": 55 + i * i / 40}, ()))
        for i, (model, family) in enumerate(names)
        for task in (*COUNTED, AVERAGE)
    ]
    agreements = [Agreement(task, "median", number, None, None) for task in (AVERAGE, *COUNTED)]
    return Calibration("test_best", {task: f"{task}_small@9" for task in COUNTED}, points, agreements, {})


def test_each_panel_has_its_points_in_their_places():
    calibration = made(9)
    figure = calibration_figure.draw(calibration, "mini")
    for axes, task in zip(figure.axes, (AVERAGE, *COUNTED), strict=False):
        drawn = sorted(tuple(offset) for dots in axes.collections for offset in dots.get_offsets().tolist())
        assert drawn == sorted((p.ours, p.published.values["median"]) for p in calibration.of(task))
        assert axes.get_title() == f"{task}: 9 models"
    assert figure.axes[1].get_xlabel() == "ours: listops_small@9" and "mini" in figure._suptitle.get_text()


def test_every_model_of_the_average_is_named_and_no_name_hides_another():
    figure = calibration_figure.draw(made(), "mini")
    large = figure.axes[0]
    labels = {text.get_text(): text for text in large.texts}
    assert len(labels) == 28
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(label) for label in labels.values()]  # without the line to the point
    assert not any(a.shrunk(0.98, 0.8).overlaps(b.shrunk(0.98, 0.8)) for a, b in itertools.combinations(boxes, 2))
    places = large.transData.transform([dots.get_offsets()[0] for dots in large.collections])
    assert len(places) == 28 and not any(box.contains(*place) for box in boxes for place in places)


def test_families_differ_in_colour_and_in_marker():
    looks = calibration_figure._LOOKS
    assert list(looks) == list(FAMILY_NAMES)
    assert len({colour for colour, _ in looks.values()}) == len({marker for _, marker in looks.values()}) == len(looks)


@pytest.mark.parametrize("tasks", [("listops",), ("listops", "text", "retrieval", "image", "pathfinder")])
def test_the_same_scores_give_the_same_files(tmp_path, tasks):
    cells = []
    for number, model in enumerate(("fnet", "luna", "s5", "mega")):
        for task in tasks:
            own = recipe(task, model, "small")
            score = 0.3 + 0.1 * number
            cells.append(record(model, task, score, length=1, protocol="small", recipe=own, key=model + task))
    for place in ("a", "b"):
        figures.save_figure(calibration_figure.draw(calibrate(build(cells)), "small"), tmp_path / place, "c")
    for kind in figures.FORMATS:
        first, second = ((tmp_path / place / f"c.{kind}").read_bytes() for place in ("a", "b"))
        assert first == second and len(first) > 5_000
