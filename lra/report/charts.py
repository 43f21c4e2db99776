"""What a figure shows, in the units of its data, apart from how it is laid out (`layout`) and drawn.

Each figure of the suite is defined once, by a function that makes a `Figure` (`figures.py`). The page draws it from
`layout.lay_out` with `html/figures.js`, and `canvas.save` writes the same layout as PNG, SVG and PDF. To add a figure,
write a function that returns a `Figure`, and hand it to `html_page.page_data` or `canvas.save`. For a scatter of
labelled points that is a `Series` with one point, a `label` and an `area` for each model (the same for all, as 0.15,
where it means nothing); a line among them is a `Series` of several points without a label.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lra.report.styles import FAMILY_NAMES, Style, family_of


@dataclass(frozen=True)
class Axis:
    """One axis of a chart."""

    label: str
    log: bool = False
    ticks: tuple[float, ...] = ()
    """Values to name; without any, round ones are chosen."""
    span: tuple[float, ...] = ()
    """Values that the axis reaches, whatever is drawn: so that charts side by side can be compared."""


@dataclass(frozen=True)
class Series:
    """One model's points in a chart: a disc, or a line."""

    name: str
    """The model."""
    style: Style
    x: tuple[float, ...]
    y: tuple[float, ...]
    label: str = ""
    """Written beside the point, or at the line's end."""
    told: tuple[str, ...] = ()
    """Exact numbers, one a line, for who points at it."""
    band: tuple[tuple[float, float], ...] = ()
    """Least and greatest y at each x."""
    area: float = 0.0
    """Of the disc around a single point, as a share of the largest; 0 for none."""
    hollow: bool = False
    """Whether the disc is empty and dotted."""
    markers: int = 0
    """Largest number of markers on the line."""
    failure: tuple[float, str] | None = None
    """The first x that failed, and its status: a key of `styles.FAILURES`."""


@dataclass(frozen=True)
class Chart:
    """One pair of axes."""

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    row: str = ""
    """In files, charts with the same one stand side by side; those without are spread over a grid."""


@dataclass(frozen=True)
class Figure:
    """One or several charts that are shown together."""

    name: str
    """Of its files, without suffix."""
    heading: str
    charts: tuple[Chart, ...]
    notes: tuple[str, ...] = field(default=())
    """Sentences under the charts."""


MAX_LINES = 12
"""Lines in one chart of `split_by_family`."""


def split_by_family(name: str, x: Axis, y: Axis, series: Sequence[Series]) -> list[Chart]:
    """One chart of lines, or one a family on the same axes where there are too many to tell apart.

    The axes' spans should cover all lines.
    """
    if len(series) <= MAX_LINES:
        return [Chart(name, x, y, tuple(series))]
    families = sorted({family_of(line.name) for line in series})
    parts = ((family, tuple(line for line in series if family_of(line.name) == family)) for family in families)
    return [Chart(f"{name}, {FAMILY_NAMES[family]}", x, y, part, name) for family, part in parts]


def to_file_name(words: Iterable[Any]) -> str:
    """Joins words to a file name, with only letters, digits and _ . = in each."""
    return "-".join(re.sub(r"[^A-Za-z0-9_.=]+", "_", str(word)) for word in words if str(word))


def short(value: float) -> str:
    """A number to three digits: '12,300', '0.123'."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def counted(number: int, noun: str) -> str:
    """'1 seed', '3 seeds'."""
    return f"{number} {noun}{'s' * (number != 1)}"


def bytes_text(value: float | None) -> str:
    """'1.5 GB' or '12 MB'; a dash for none."""
    if not value:
        return "–"
    return f"{short(value / 1e9)} GB" if value >= 1e9 else f"{short(value / 1e6)} MB"
