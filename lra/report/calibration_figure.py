"""The figure of a calibration: published scores against ours, the average large and each task small."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox, BboxBase

from lra.report.calibration import AVERAGE, COUNTED, FAMILY_NAMES, KINDS, Agreement, Calibration, Point

_LOOKS = dict(zip(FAMILY_NAMES, zip(
    ("#000000", "#E69F00", "#0072B2", "#D55E00", "#CC79A7", "#56B4E9", "#009E73"), "osD^vPX", strict=True,
), strict=True))  # fmt: skip
"""Colour and marker of each family; Okabe and Ito's palette without its yellow, which is too pale."""
_RC_PARAMS = {
    "font.size": 8.0, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "grid.linewidth": 0.5, "axes.titlesize": 9.0, "legend.frameon": False,
}  # fmt: skip
_OFFSETS = [
    (dx * distance, dy * distance)
    for distance in (6, 10, 15, 22, 30, 40)
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (0.8, 0.8), (0.8, -0.8), (-0.8, 0.8), (-0.8, -0.8))
]
"""Places of a label beside its point, in points, the best first."""
_FAR = 16
"""The first of these places that needs a line to the point."""
_LABEL_SIZE = 7.0
_GAP = 3
"""Pixels beside a label that stay empty."""


def draw(calibration: Calibration, protocol: str) -> Figure:
    """Draws the published median against our score of each model, coloured by family."""
    with mpl.rc_context(_RC_PARAMS):  # type: ignore[arg-type]
        figure = Figure(figsize=(11, 6.2))
        canvas = FigureCanvasAgg(figure)  # measures the labels
        grid = figure.add_gridspec(3, 4, left=0.06, right=0.99, top=0.87, bottom=0.08, hspace=0.62, wspace=0.3)
        large = figure.add_subplot(grid[:, :2])
        places = [large, *(figure.add_subplot(grid[i // 2, 2 + i % 2]) for i in range(len(COUNTED)))]
        of_task = {each.task: each for each in calibration.agreements if each.kind == KINDS[0]}
        for axes, task in zip(places, (AVERAGE, *COUNTED), strict=True):
            _panel(axes, calibration.of(task), of_task[task], calibration.columns.get(task, AVERAGE))
        _place_labels(large, calibration.of(AVERAGE), canvas)
        _legend(figure.add_subplot(grid[2, 3]), calibration.points)
        heading = f"Protocol {protocol}: published scores (median over publications) against ours, %"
        figure.suptitle(heading, fontsize=10, parse_math=False)
    return figure


def _panel(axes: Axes, points: Sequence[Point], agreement: Agreement, name: str) -> None:
    for point in points:
        colour, marker = _LOOKS[point.family]
        axes.scatter(point.ours, point.published.values[KINDS[0]], s=22, color=colour, marker=marker, linewidth=0)
    rho = "" if agreement.rho is None else f", ρ = {agreement.rho.value:.2f}"
    axes.set_title(f"{agreement.task}: {agreement.count} models{rho}", parse_math=False)
    axes.set_xlabel(f"ours: {name}", parse_math=False)
    axes.set_ylabel("published")
    axes.margins(0.1)


def _place_labels(axes: Axes, points: Sequence[Point], canvas: FigureCanvasAgg) -> None:
    """Writes each model's name where it hides no point and no other name, or hides least; a line leads to it."""
    canvas.draw()  # settles the axes' limits
    pixels = canvas.figure.dpi / 72
    places = axes.transData.transform([_place(point) for point in points]).tolist() if points else []
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    for point, (x, y) in sorted(zip(points, places, strict=True), key=lambda pair: (pair[1], pair[0].model)):
        size = canvas.get_renderer().get_text_width_height_descent(point.model, FontProperties(size=_LABEL_SIZE), False)
        boxes = [_box(x + dx * pixels, y + dy * pixels, dx, dy, *size[:2]) for dx, dy in _OFFSETS]
        costs = [_hidden(box, taken) + _outside(box, axes.bbox) for box in boxes]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        (dx, dy), far = _OFFSETS[best], best >= _FAR
        axes.annotate(
            point.model, _place(point), (dx, dy), textcoords="offset points", fontsize=_LABEL_SIZE, parse_math=False,
            ha=("center", "left", "right")[_sign(dx)], va=("center", "bottom", "top")[_sign(dy)],
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "#888888"} if far else None,
        )  # fmt: skip


def _place(point: Point) -> tuple[float, float]:
    return point.ours, point.published.values[KINDS[0]]


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _box(x: float, y: float, dx: float, dy: float, width: float, height: float) -> Bbox:
    """A label's box in pixels: it starts at (x, y) and goes on in the direction (dx, dy)."""
    left, bottom = x - width * (1 - _sign(dx)) / 2, y - height * (1 - _sign(dy)) / 2
    return Bbox.from_bounds(left - _GAP, bottom, width + 2 * _GAP, height)


def _hidden(box: Bbox, taken: Sequence[Bbox]) -> float:
    overlaps = (Bbox.intersection(box, other) for other in taken)
    return sum(overlap.width * overlap.height for overlap in overlaps if overlap is not None)


def _outside(box: Bbox, frame: BboxBase) -> float:
    inside = Bbox.intersection(box, frame)
    return box.width * box.height - (inside.width * inside.height if inside is not None else 0.0)


def _legend(axes: Axes, points: Sequence[Point]) -> None:
    axes.set_axis_off()
    shown = {point.family for point in points}
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=5, label=family.replace("_", " "))
        for family, (colour, marker) in _LOOKS.items()
        if family in shown
    ]
    axes.legend(handles=handles, loc="center", ncols=2, fontsize=8, handletextpad=0.2)
