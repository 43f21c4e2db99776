"""Lays a chart out on a plane of pixels, y down: scales, ticks, and labels that don't cover each other.

The result is plain values, which the page draws as SVG and `canvas` as files; neither decides where anything stands.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lra.report.charts import Axis, Chart, Series, short
from lra.report.styles import Point

WIDE, NARROW = (1100, 520), (380, 540)
"""Width and height of a chart with labelled points, on a screen and on a phone."""
SMALL = (430, 320)
"""Width and least height of a chart with lines."""
TEXT = 11.0
"""Height of labels and ticks, pixels."""
_LETTER = 0.61 * TEXT
"""A letter's mean width."""
_LINE = TEXT + 1.5
_TOP, _BOTTOM, _LEFT = 26.0, 44.0, 56.0
_REACH = {WIDE: 30.0, NARROW: 17.0}
"""Radius of the largest disc."""
_MOST_LABELS = 120
"""With more labels than this, none is shown."""


@dataclass(frozen=True)
class Scale:
    """From [low, high] to [start, end], by logarithm where `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, values: Sequence[float]) -> list[float]:
        """The places of values, to a tenth of a pixel."""
        ends, known = np.array([self.low, self.high]), _clip(values)
        if self.log:
            ends, known = np.log10(ends), np.log10(known)
        places = self.start + (self.end - self.start) * (known - ends[0]) / (ends[1] - ends[0])
        rounded: list[float] = places.round(1).tolist()
        return rounded


def _clip(values: Sequence[float]) -> np.ndarray:
    """The values without the junk of a damaged record, on which arithmetic would overflow."""
    return np.clip(np.array(values, float), -1e100, 1e100)


def make_scale(values: Sequence[float], start: float, end: float, log: bool, room: float) -> Scale:
    """A scale on which the values stand at least `room` pixels inside `start` and `end`."""
    low, high = _clip([min(values), max(values)]).tolist()
    if log:
        low, high = math.log10(low), math.log10(high)
    if high - low < 1e-9 * max(1.0, abs(high)):
        half = 0.5 * max(1.0, abs(high) * 1e-6)
        low, high = low - half, high + half
    margin = (high - low) * room / (abs(end - start) - 2 * room)
    low, high = low - margin, high + margin
    return Scale(10**low, 10**high, start, end, True) if log else Scale(low, high, start, end, False)


def round_ticks(scale: Scale, most: int) -> list[float]:
    """At most about `most` round values within a scale."""
    if scale.log:
        powers = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
        for digits in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
            ticks = [digit * 10.0**power for power in powers for digit in digits]
            kept = [tick for tick in ticks if scale.low <= tick <= scale.high]
            if len(kept) <= most:
                break
        step = -(-len(kept) // most)
        if len(kept) > 1:
            return kept[::step]
    rough = (scale.high - scale.low) / most
    base = 10.0 ** math.floor(math.log10(rough))
    step_size = next(factor * base for factor in (1, 2, 2.5, 5, 10) if factor * base >= rough * 0.999)
    first, last = math.ceil(scale.low / step_size - 1e-9), math.floor(scale.high / step_size + 1e-9)
    return [float(f"{i * step_size:.12g}") for i in range(first, last + 1)]


def lay_out(chart: Chart, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """A chart's ticks and marks as plain values: all positions in pixels, texts as they are shown.

    Args:
        chart: with at least one point.
        size: `WIDE` (the default) or `NARROW` for discs; `SMALL` for lines, which grows with the number of labels.

    Returns:
        wide, high, box (left, top, right, bottom), title; x and y: name and ticks (position, text); marks, in the order
        they are drawn. A mark has name, colour, dash, shape and told, and what it needs of: disc (x, y, radius) with
        hollow; line and band (x, y, x, y, …); points (x, y of each marker); failure (from x, y to x, y, status);
        label (x, y, text), with lead, the line from its point, where it stands apart.
    """
    discs = any(series.area for series in chart.series)
    size = size or (WIDE if discs else SMALL)
    wide, high = size
    labels = sum(bool(series.label) for series in chart.series)
    labels = labels if labels <= _MOST_LABELS else 0
    ends = labels and not discs
    right = wide - 12.0
    if ends:
        longest = max(len(series.label) for series in chart.series)
        right = wide - min(_LETTER * longest + 26, wide * 0.5)
        high = max(high, math.ceil(_TOP + _BOTTOM + _LINE * labels))
    box = (_LEFT, _TOP, right, high - _BOTTOM)
    reach = _REACH.get(size, 8.0) if discs else 4.0
    sx, sy = _scales(chart, box, reach)
    ordered = sorted(chart.series, key=lambda series: -series.area)
    # All points at once: a chart may have hundreds of series.
    places = zip(sx([x for s in ordered for x in s.x]), sy([y for s in ordered for y in s.y]), strict=True)
    marks = [_mark(series, list(itertools.islice(places, len(series.x))), sx, sy, reach) for series in ordered]
    if ends:
        _label_ends(marks, ordered, box)
    elif labels:
        _label_points(marks, ordered, (box[0], box[1], wide - 2.0, box[3]))
    return {
        "wide": wide, "high": high, "box": box, "title": chart.title, "marks": marks,
        "x": _axis(chart.x, sx, max(2, int((right - _LEFT) // 62))), "y": _axis(chart.y, sy, max(3, int(high // 70))),
    }  # fmt: skip


def _scales(chart: Chart, box: tuple[float, float, float, float], reach: float) -> tuple[Scale, Scale]:
    xs = [x for series in chart.series for x in (*series.x, *([series.failure[0]] if series.failure else []))]
    ys = [y for series in chart.series for y in (*series.y, *itertools.chain(*series.band))]
    xs, ys = [*xs, *chart.x.span], [*ys, *chart.y.span]
    left, top, right, bottom = box
    return make_scale(xs, left, right, chart.x.log, reach + 4), make_scale(ys, bottom, top, chart.y.log, reach + 6)


def _axis(axis: Axis, scale: Scale, most: int) -> dict[str, Any]:
    """The axis's name and ticks; ticks whose texts would touch are left out."""
    values = axis.ticks or round_ticks(scale, most)
    ticks: list[tuple[float, str]] = []
    room = abs(scale.end - scale.start) / most * 0.62
    for value, place in zip(values, scale(values), strict=True):
        if not ticks or abs(place - ticks[-1][0]) >= room:
            ticks.append((place, short(value)))
    return {"name": axis.label, "ticks": ticks}


def _mark(series: Series, places: list[Point], sx: Scale, sy: Scale, reach: float) -> dict[str, Any]:
    style = series.style
    mark: dict[str, Any] = {"name": series.name, "colour": style.colour, "dash": style.dash, "shape": style.shape}
    if series.told:
        mark["told"] = series.told
    if series.area:
        mark["disc"] = (*places[0], round(max(5.0, reach * math.sqrt(series.area)), 1))
        mark["hollow"] = series.hollow
    elif len(places) > 1:
        mark["line"] = [v for place in places for v in place]
    if series.band:
        across = [x for x, _ in places]
        lows, highs = (list(zip(across, sy(ends), strict=True)) for ends in zip(*series.band, strict=True))
        mark["band"] = [v for place in (*lows, *reversed(highs)) for v in place]
    markers = series.markers or (len(places) == 1)
    if markers:
        step = -(-len(places) // markers)
        mark["points"] = [v for place in places[::step] for v in place]
    if series.failure:
        x, y = places[-1]
        # Short of the x that failed: there the mark would look like a value.
        mark["failure"] = (x, y, round(x + 0.4 * (sx(series.failure[:1])[0] - x), 1), y, series.failure[1])
    return mark


def _label_ends(marks: list[dict[str, Any]], ordered: Sequence[Series], box: tuple[float, float, float, float]) -> None:
    """Labels to the right of the box, in the order of the lines' ends and a line apart."""
    _, top, right, bottom = box
    ends = []
    for mark, series in zip(marks, ordered, strict=True):
        if series.label:
            x, y = mark["failure"][2:4] if series.failure else (mark.get("line") or mark["points"])[-2:]
            ends.append((y, x, mark, series.label))
    ends.sort(key=lambda end: (end[0], end[3]))
    heights = spread([end[0] for end in ends], top, bottom, _LINE)
    for (y, x, mark, text), height in zip(ends, heights, strict=True):
        mark["label"] = (round(right + 20, 1), round(height + 0.35 * TEXT, 1), text)
        mark["lead"] = (x + 5, y, round(right + 17, 1), round(height, 1))


def spread(wanted: Sequence[float], low: float, high: float, gap: float) -> list[float]:
    """The places nearest to the wanted ones, which ascend: `gap` apart, and within [low, high] as far as there is room.

    Those that would touch are pooled around their mean, as in isotonic regression (pool adjacent violators).
    """
    pools: list[tuple[float, int]] = []
    for number, value in enumerate(wanted):
        start, count = value - number * gap, 1
        while pools and pools[-1][0] > start:
            before, many = pools.pop()
            start, count = (before * many + start * count) / (many + count), many + count
        pools.append((start, count))
    starts = [start for start, count in pools for _ in range(count)]
    last = high - gap * (len(starts) - 1)
    return [max(low, min(start, last)) + number * gap for number, start in enumerate(starts)]


_DIRECTIONS = [(math.cos(a), math.sin(a)) for a in (2 * math.pi * np.arange(24) / 24)]
_DISTANCES = (0.0, 12.0, 24.0, 38.0, 54.0, 72.0, 94.0, 120.0, 150.0)


def _label_points(
    marks: list[dict[str, Any]], ordered: Sequence[Series], box: tuple[float, float, float, float]
) -> None:
    """Labels beside their points: at the nearest of many places that cover no other label or point, if there is one.

    A greedy search, the most crowded points first, since they have the fewest free places.
    """
    pointed = [(mark, series.label) for mark, series in zip(marks, ordered, strict=True) if "points" in mark]
    centres = np.array([mark["points"][:2] for mark, _ in pointed])
    taken = np.concatenate([centres - 5.5, centres + 5.5], 1)
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    crowd = -np.exp(-distance / 40).sum(1)
    for i in np.argsort(crowd, kind="stable"):
        mark, text = pointed[i]
        if not text:
            continue
        places = _candidates(centres[i], _LETTER * len(text) + 3)
        cost = _overlap(places, taken[np.arange(len(taken)) != i]) + 4 * _outside(places, box)
        best = int(np.argmin(np.round(cost, 3)))
        left, top, right, bottom = places[best]
        taken = np.concatenate([taken, places[best : best + 1]])
        mark["label"] = (round(float(left), 1), round(float(bottom) - 2.5, 1), text)
        x, y = map(float, centres[i])
        near = (round(min(max(x, left), right), 1), round(min(max(y, top), bottom), 1))
        if math.hypot(near[0] - x, near[1] - y) > 12:
            mark["lead"] = (x, y, *map(float, near))


def _candidates(centre: np.ndarray, width: float) -> np.ndarray:
    """Rectangles [N, 4] (left, top, right, bottom) for a text around a point, the nearest first."""
    places = []
    for distance in _DISTANCES:
        for dx, dy in _DIRECTIONS:
            x = centre[0] + (distance + 6) * dx + (dx - 1) / 2 * width
            y = centre[1] + (distance + 6) * dy + (dy - 1) / 2 * _LINE
            places.append((x, y, x + width, y + _LINE))
    return np.array(places)


def _overlap(places: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Area [N] that rectangles share with those taken."""
    sides = np.minimum(places[:, None, 2:], taken[None, :, 2:]) - np.maximum(places[:, None, :2], taken[None, :, :2])
    return np.asarray(sides.clip(0).prod(-1).sum(1))


def _outside(places: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Length [N] by which rectangles stand out of a box, times their height."""
    low, high = np.array(box[:2]), np.array(box[2:])
    return np.asarray(((low - places[:, :2]).clip(0) + (places[:, 2:] - high).clip(0)).sum(1) * _LINE)
