"""Writes figures as PNG, SVG and PDF. Matplotlib is only the canvas: `layout` has decided where everything stands."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Circle

from lra.errors import printable
from lra.report import figures, layout
from lra.report.charts import Figure
from lra.report.styles import COLOURS, DASHES, FAILURES, SHAPES
from tasks.io.files import write_whole

FORMATS = ("png", "svg", "pdf")
_POINT = 0.75
"""A pixel in points, at 96 pixels an inch."""
_INK, _SOFT, _LINE = "#1d1f23", "#5d636e", "#e2e3e6"
_HEAD, _NOTE = 19.0, 15.0
"""Heights of a line of the heading and of the notes, pixels."""


def save(drawn: Figure, folder: Path) -> str:
    """Writes a figure in every format, each file atomically; equal figures give equal files. Returns their name.

    Raises:
        OSError: `folder` cannot be written.
    """
    canvas = draw(drawn)
    undated: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with mpl.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "lra", "svg.fonttype": "none"}):
        for kind in FORMATS:
            buffer = io.BytesIO()
            canvas.savefig(buffer, format=kind, dpi=192, metadata=undated[kind])
            write_whole(folder / f"{drawn.name}.{kind}", buffer.getvalue())
    return drawn.name


def draw(drawn: Figure) -> Canvas:
    """The figure on one pair of axes whose units are pixels, y down: heading, charts in a grid, families, notes."""
    rows = _grid(drawn)
    wide = max(sum(plot["wide"] for plot in row) for row in rows)
    heading = textwrap.wrap(drawn.heading, int(wide / 8.6))
    families = _families(drawn, wide)
    notes = [line for note in drawn.notes for line in textwrap.wrap(note, int(wide / 5.8))]
    head, foot = _HEAD * len(heading) + 10, _NOTE * (families[-1][1] + 1 if families else 0)
    body = sum(max(plot["high"] for plot in row) for row in rows)
    high = head + body + foot + _NOTE * (len(notes) + 0.6)
    canvas = Canvas(figsize=(wide / 96, high / 96))
    ax = canvas.add_axes((0, 0, 1, 1), xlim=(0, wide), ylim=(high, 0))
    ax.set_axis_off()
    for number, line in enumerate(heading):
        _text(ax, 10, _HEAD * (number + 1), line, size=13, weight="bold")
    top = head
    for row in rows:
        left = 0.0
        for plot in row:
            _plot(ax, plot, left, top)
            left += plot["wide"]
        top += max(plot["high"] for plot in row)
    for x, line_number, place, name in families:
        y = top + _NOTE * (line_number + 0.9)
        ax.add_patch(Circle((x, y - 4), 5, color=COLOURS[place], linewidth=0))
        _text(ax, x + 9, y, name)
    for number, line in enumerate(notes):
        _text(ax, 10, top + foot + _NOTE * (number + 0.9), line, color=_SOFT)
    return canvas


def _families(drawn: Figure, wide: float) -> list[tuple[float, int, int, str]]:
    """The legend: x and line, the family's place in the palette, its name."""
    found: list[tuple[float, int, int, str]] = []
    x, line = 14.0, 0
    for place, name in figures.legend(drawn):
        width = 34 + 6.6 * len(name)
        if found and x + width > wide:
            x, line = 14.0, line + 1
        found.append((x, line, place, name))
        x += width
    return found


def _grid(drawn: Figure) -> list[list[dict[str, Any]]]:
    """The charts' layouts, by the row they stand in."""
    plots = [layout.lay_out(chart) for chart in drawn.charts]
    across = 2 if len(plots) in (2, 4) or plots[0]["wide"] == layout.WIDE[0] else 3
    rows: dict[Any, list[dict[str, Any]]] = {}
    for number, (chart, plot) in enumerate(zip(drawn.charts, plots, strict=True)):
        rows.setdefault(chart.row or number // across, []).append(plot)
    return list(rows.values())


def _text(ax: Axes, x: float, y: float, text: str, size: float = layout.TEXT, **looks: Any) -> None:
    text = printable(" ".join(text.split("\n")))  # XML has no control characters
    ax.text(x, y, text, fontsize=size * _POINT, parse_math=False, **{"color": _INK} | looks)


def _plot(ax: Axes, plot: dict[str, Any], left: float, top: float) -> None:
    """One chart, with its upper left corner at (left, top)."""
    x0, y0, x1, y1 = (value + shift for value, shift in zip(plot["box"], (left, top, left, top), strict=True))
    grid = []
    for place, text in plot["y"]["ticks"]:
        grid.append([(x0, top + place), (x1, top + place)])
        _text(ax, x0 - 6, top + place + 4, text, color=_SOFT, ha="right")
    for place, text in plot["x"]["ticks"]:
        grid.append([(left + place, y1), (left + place, y1 + 4)])
        _text(ax, left + place, y1 + 16, text, color=_SOFT, ha="center")
    ax.add_collection(LineCollection(grid, colors=_LINE, linewidths=_POINT, zorder=1), autolim=False)
    _text(ax, (x0 + x1) / 2, y1 + 34, plot["x"]["name"], ha="center")
    _text(ax, left + 13, (y0 + y1) / 2, plot["y"]["name"], ha="center", va="center", rotation=90)
    _text(ax, x0, y0 - 10, plot["title"], weight="bold")
    for mark in plot["marks"]:
        _mark(ax, mark, left, top)
    for mark in plot["marks"]:
        _label(ax, mark, left, top)


def _pairs(values: Iterable[float], left: float, top: float) -> list[tuple[float, float]]:
    numbers = list(values)
    return [(left + x, top + y) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]


def _mark(ax: Axes, mark: dict[str, Any], left: float, top: float) -> None:
    colour = COLOURS[mark["colour"]]
    dash: Any = (0, DASHES[mark["dash"]]) if DASHES[mark["dash"]] else "-"
    if "band" in mark:
        band = PolyCollection([_pairs(mark["band"], left, top)], facecolors=colour, alpha=0.12, linewidths=0)
        ax.add_collection(band, autolim=False)
    if "disc" in mark:
        x, y, radius = mark["disc"]
        look: Any = {"facecolor": "none", "linestyle": ":"} if mark["hollow"] else {"facecolor": (colour, 0.28)}
        ax.add_patch(Circle((left + x, top + y), radius, edgecolor=colour, linewidth=1.1 * _POINT, **look))
    if "line" in mark:
        line = _pairs(mark["line"], left, top)
        ax.add_collection(LineCollection([line], colors=colour, linewidths=1.2, linestyles=dash), autolim=False)
    if "failure" in mark:
        *ends, status = mark["failure"]
        (start, (x, y)) = _pairs(ends, left, top)
        strokes = [[(x + 5 * a, y + 5 * b) for a, b in stroke] for stroke in FAILURES[status]]
        ax.add_collection(
            LineCollection([[start, (x, y)]], colors=colour, linewidths=0.8, linestyles=":"), autolim=False
        )
        ax.add_collection(LineCollection(strokes, colors=colour, linewidths=1.4), autolim=False)
    if "points" in mark:
        shape = SHAPES[mark["shape"]]
        markers = [[(x + 4.5 * a, y + 4.5 * b) for a, b in shape] for x, y in _pairs(mark["points"], left, top)]
        looks: Any = {"facecolors": colour, "edgecolors": "white", "linewidths": 0.5, "zorder": 3}
        ax.add_collection(PolyCollection(markers, **looks), autolim=False)


def _label(ax: Axes, mark: dict[str, Any], left: float, top: float) -> None:
    if "lead" in mark:
        lead = LineCollection(
            [_pairs(mark["lead"], left, top)], colors=COLOURS[mark["colour"]], linewidths=0.5, zorder=3
        )
        ax.add_collection(lead, autolim=False)
    if "label" in mark:
        x, y, text = mark["label"]
        _text(ax, left + x, top + y, text, zorder=4)
