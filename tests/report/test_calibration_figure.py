"""The figure of a calibration: a named point for each model, and equal files for equal scores."""

import pytest

from lra.report import calibration_figure, canvas
from lra.report.calibration import (
    AVERAGE,
    COUNTED,
    Agreement,
    Calibration,
    Point,
    PublishedScore,
    calibrate,
)
from lra.report.leaderboard import build
from lra.report.styles import assign_styles
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
    return Calibration("test_best", {task: f"{task}_small@9" for task in COUNTED}, points, agreements, {}, [], {})


def test_each_chart_has_its_points_in_their_places():
    calibration = made(9)
    figure = calibration_figure.make(calibration, "mini")
    assert "mini" in figure.heading and len(figure.charts) == 6
    for chart, task in zip(figure.charts, (AVERAGE, *COUNTED), strict=True):
        drawn = {(series.label, *series.x, *series.y) for series in chart.series}
        assert drawn == {(p.model, p.ours, p.published.values["median"]) for p in calibration.of(task)}
        assert chart.title == f"{task}: 9 models"
    assert figure.charts[1].x.label == "ours: listops_small@9 (%)"


def test_models_look_as_in_every_other_figure():
    figure = calibration_figure.make(made(), "mini")
    models = {series.name: series.style for series in figure.charts[0].series}
    assert len(models) == 28 and models == {model: assign_styles([])[model] for model in models}


@pytest.mark.parametrize("tasks", [("listops",), ("listops", "text", "retrieval", "image", "pathfinder")])
def test_the_same_scores_give_the_same_files(tmp_path, tasks):
    cells = []
    for number, model in enumerate(("fnet", "luna", "s5", "mega")):
        for task in tasks:
            own = recipe(task, model, "small")
            score = 0.3 + 0.1 * number
            cells.append(record(model, task, score, length=1, protocol="small", recipe=own, key=model + task))
    for place in ("a", "b"):
        canvas.save(calibration_figure.make(calibrate(build(cells)), "small"), tmp_path / place)
    for kind in ("png", "svg", "pdf"):
        first, second = ((tmp_path / place / f"calibration.{kind}").read_bytes() for place in ("a", "b"))
        assert first == second and len(first) > 5_000
