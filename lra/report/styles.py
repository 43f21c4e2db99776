"""How models look: one colour a family, and within a family a marker and dashes a model, in every figure and table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import cos, pi, sin

from models import FAMILIES

OWN = "your own"
"""The family of mixers that are not in the zoo."""
FAMILY_NAMES = (*(name.replace("_", " ") for name in FAMILIES), OWN)
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#666666")
"""By family: Okabe and Ito's palette, distinguishable with every kind of colour vision (Wong 2011, Nature Methods
8:441), with a grey in place of its yellow, which is too pale on white."""
DARK_COLOURS = ("#F2F2F2", *COLOURS[1:5], "#2F86C8", COLOURS[6], "#BBBBBB")
"""The same on a dark ground: white in place of black, a lighter blue and a lighter grey."""
DASHES: tuple[tuple[float, ...], ...] = ((), (7, 2.5), (2, 1.8), (8, 2, 2, 2))
"""Lengths of strokes and gaps, pixels; none for a solid line."""
Point = tuple[float, float]


def _polygon(corners: int, turn: float = 0.0, radius: float = 1.0) -> tuple[Point, ...]:
    angles = [2 * pi * (i + turn) / corners for i in range(corners)]
    return tuple((round(radius * sin(a), 3), round(-radius * cos(a), 3)) for a in angles)


_PLUS = ((-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35), (1, 0.35), (0.35, 0.35), (0.35, 1), (-0.35, 1),
         (-0.35, 0.35), (-1, 0.35), (-1, -0.35), (-0.35, -0.35))  # fmt: skip
SHAPES: tuple[tuple[Point, ...], ...] = (
    _polygon(20, radius=0.85), _polygon(4, 0.5), _polygon(3), _polygon(4), _polygon(3, 0.5), _PLUS,
    tuple((round(0.71 * (x - y), 3), round(0.71 * (x + y), 3)) for x, y in _PLUS), _polygon(3, 0.25), _polygon(3, 0.75),
)  # fmt: skip
"""Markers as polygons in a circle of radius 1, y down."""
FAILURES: dict[str, tuple[tuple[Point, Point], ...]] = {
    "oom": (((-1, -1), (1, 1)), ((-1, 1), (1, -1))),
    "timeout": (((-1, 0), (1, 0)), ((0, -1), (0, 1))),
    "failed": (((0, 0), (0, 1)), ((0, 0), (-0.9, -0.7)), ((0, 0), (0.9, -0.7))),
}
"""Marks at the end of a model's line, by the status of the first cell that failed: strokes, from and to."""
_FAMILY_OF = {mixer: number for number, (_, mixers) in enumerate(FAMILIES.values()) for mixer in mixers}


@dataclass(frozen=True)
class Style:
    """How a model is drawn."""

    colour: int
    """Place in `COLOURS` and `FAMILY_NAMES`."""
    shape: int = 0
    """Place in `SHAPES`."""
    dash: int = 0
    """Place in `DASHES`."""


Styles = dict[str, Style]
"""By model."""


def family_of(model: str) -> int:
    """Place of a model's family in `FAMILY_NAMES`, by its name with or without options."""
    return _FAMILY_OF.get(model.partition(":")[0], len(FAMILIES))


def assign_styles(models: Iterable[str]) -> Styles:
    """A style for each model. Those of the zoo always have the same; others follow in the order of their names.

    Up to 36 models of a family differ in marker or dashes, so that they can be told apart in grey.
    """
    members: list[list[str]] = [list(mixers) for _, mixers in FAMILIES.values()] + [[]]
    for model in sorted(set(models) - set(_FAMILY_OF)):
        members[family_of(model)].append(model)
    return {
        model: Style(family, place % len(SHAPES), place % len(DASHES))
        for family, names in enumerate(members)
        for place, model in enumerate(names)
    }
