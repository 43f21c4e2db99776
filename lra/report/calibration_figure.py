"""The figure of a calibration: published scores against ours, for the average and for each task."""

from __future__ import annotations

from lra.report.calibration import AVERAGE, COUNTED, KINDS, Agreement, Calibration, Point
from lra.report.charts import Axis, Chart, Figure, Series
from lra.report.styles import Style, assign_styles

_AREA = 0.15
"""Of all discs, as a share of the largest: it means nothing here."""


def make(calibration: Calibration, protocol: str) -> Figure:
    """The published median against our score of each model: charts for the average and the tasks that have any."""
    styles = assign_styles(point.model for point in calibration.points)
    of_task = {each.task: each for each in calibration.agreements if each.kind == KINDS[0]}
    shown = [task for task in (AVERAGE, *COUNTED) if calibration.of(task)]
    charts = [_chart(calibration, of_task[task], styles) for task in shown]
    heading = f"Protocol {protocol}: published scores (median over publications) against ours, %"
    return Figure("calibration", heading, tuple(charts))


def _chart(calibration: Calibration, agreement: Agreement, styles: dict[str, Style]) -> Chart:
    points = calibration.of(agreement.task)
    rho = "" if agreement.rho is None else f", ρ = {agreement.rho.value:.2f}"
    name = calibration.columns.get(agreement.task, AVERAGE)
    series = tuple(_series(point, styles[point.model]) for point in points)
    title = f"{agreement.task}: {agreement.count} models{rho}"
    return Chart(title, Axis(f"ours: {name} (%)"), Axis("published (%)"), series)


def _series(point: Point, style: Style) -> Series:
    theirs = point.published.values[KINDS[0]]
    told = (f"ours {point.ours:.2f} %", f"published {theirs:.2f} %")
    return Series(point.model, style, (point.ours,), (theirs,), label=point.model, told=told, area=_AREA)
