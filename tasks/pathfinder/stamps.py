"""Everything about a Pathfinder drawing that does not depend on chance, as small tables.

A paddle (one dash) only ever points in one of a few directions: a whole degree for the first paddle of a
contour, and one of the pixels on a small circle round the last one for the others. So every line, mask,
step and turning weight is made once here, and drawing a picture is choosing and pasting.

The rules are those of drewlinsley/pathfinder (`snakes2`), which made the drawings of the Long Range Arena.
Coordinates are (y, x) in pixels; a direction's angle turns from +x to +y.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

DEGREES = 360
CROSSED = 459  # two paddles cross where the sum of their masks, 0 … 255 each, reaches 1.8 · 255


class Stamps(NamedTuple):
    """Tables for one margin. D directions: first the 360 degrees from -180 on, then C candidates for a turn.

    line, mask   uint8 [D, S, S]    a paddle, and the ground it claims, centred on its anchor
    hard         int64 [D, P, 3]    of the mask, only what can make two paddles cross: (y, x) from the anchor, value
    hards        int64 [D]          how many of the P are used
    core         int64 [360, P, 2]  pixels that the first paddle of a contour must find free, from its anchor
    cores        int64 [360]        how many of the P are used; 0: no paddle can start this way
    head, back   float64 [360, 2]   from a first paddle's anchor to its head, from its head to its pivot
    away         float64 [360, 2]   from the first seed to the second
    step         float64 [D, 2]     from one pivot to the next
    turn         int64 [C, 2]       from a pivot to the candidates for the next paddle's end
    weight       float64 [D, C]     how much a paddle that points in D likes to turn to C
    near         int64 [N, 2]       the pixels within the margin
    disc         uint8 [R, R, R, R] a marker by its centre's (y, x) in the window, so that borders come out right
    """

    line: np.ndarray
    mask: np.ndarray
    hard: np.ndarray
    hards: np.ndarray
    core: np.ndarray
    cores: np.ndarray
    head: np.ndarray
    back: np.ndarray
    away: np.ndarray
    step: np.ndarray
    turn: np.ndarray
    weight: np.ndarray
    near: np.ndarray
    disc: np.ndarray


def stamps(rules: Any, margin: int) -> Stamps:
    """The tables for `rules` at this margin (pixels)."""
    length, reach = rules.paddle_length, rules.paddle_length + margin
    turn = _circle(reach)
    seed = np.arange(-180, 180) * np.pi / 180
    bend = np.arctan2(turn[:, 0], turn[:, 1])
    course = np.concatenate([seed, bend])
    # a first paddle is drawn from its tail on, a later one from its head back
    pairs = [_paddle(rules, margin, angle) for angle in np.concatenate([seed, _flip(bend)])]
    line, mask = (np.stack(images) for images in zip(*pairs, strict=True))
    hard, hards = _ragged(_hard(one) for one in mask)
    core, cores = _ragged(_core(one, reach) for one in mask[:DEGREES])
    return Stamps(
        line=line, mask=mask, hard=hard, hards=hards, core=core, cores=cores,
        head=_shift(length, seed), back=_shift(reach, _flip(seed)), away=_shift(rules.seed_distance, seed),
        step=_shift(length + 2 * margin, course), turn=turn, weight=_weights(course, bend, rules.continuity),
        near=_ball(margin), disc=_discs(rules),
    )  # fmt: skip


def _flip(angle: np.ndarray) -> np.ndarray:
    """The opposite direction, in -π … π."""
    return np.where(angle < 0, angle + np.pi, angle - np.pi)


def _shift(distance: float, angle: np.ndarray | float) -> np.ndarray:
    """(y, x) of a point at a distance in a direction: float64 [..., 2].

    Sums with it are rounded up, so rounding errors show. Those of a sine of π are part of the drawings: they push a
    contour that runs along the top or the left border inwards. Those round other whole numbers, which differ from
    machine to machine and hardly ever show, are removed.
    """
    shift = distance * np.stack([np.sin(angle), np.cos(angle)], -1)
    whole = np.round(shift)
    return np.where((np.abs(shift - whole) < 1e-9) & (whole != 0), whole, shift)


def _circle(radius: float) -> np.ndarray:
    """Pixels on a circle sampled once a pixel of arc, without repeats, by row: int64 [C, 2]."""
    angle = np.arange(math.ceil(2 * math.pi * radius)) / radius
    y, x = radius * np.sin(angle), radius * np.cos(angle)
    return np.unique(np.floor(np.stack([y, x], 1)).astype(np.int64), axis=0)


def _ball(radius: int) -> np.ndarray:
    """Pixels no further than `radius` from the origin: int64 [N, 2]."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    inside = y**2 + x**2 <= radius**2
    return np.stack([y[inside], x[inside]], 1)


def _weights(course: np.ndarray, bend: np.ndarray, continuity: float) -> np.ndarray:
    """cos²(continuity · angle between the two), 0 from a right angle on: float64 [D, C]."""
    angle = np.abs(course[:, None] - bend)
    angle = np.minimum(angle, 2 * np.pi - angle)
    return np.round(np.cos(np.minimum(angle * continuity, np.pi / 2)) ** 2, 12)


def _paddle(rules: Any, margin: int, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """One paddle from the centre of its stamp on, at an angle: (line, mask), uint8 [S, S] each."""
    scale = rules.aa_scale
    half = rules.paddle_length + math.ceil(rules.thickness) + margin
    fine = np.zeros((2 * half * scale + 1,) * 2, np.uint8)
    y, x = np.ceil(half * scale + _shift(rules.paddle_length * scale, angle))
    image = Image.fromarray(fine)
    ImageDraw.Draw(image).line([(half * scale,) * 2, (int(x), int(y))], 255, round(rules.thickness * scale))
    fine = np.asarray(image)
    return _shrink(fine, 2 * half + 1), _shrink(_dilate(fine, margin * scale), 2 * half + 1)


def _dilate(image: np.ndarray, radius: int) -> np.ndarray:
    """The largest value within the radius of each pixel."""
    wide = np.pad(image, radius)
    height, width = image.shape
    return np.max([wide[radius + y :, radius + x :][:height, :width] for y, x in _ball(radius)], axis=0)


def _shrink(image: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


def _hard(mask: np.ndarray) -> np.ndarray:
    """(y, x) from the centre, and value, of the pixels that reach CROSSED on ground that is wholly taken: [P, 3]."""
    points = np.argwhere(mask >= CROSSED - 255)
    return np.concatenate([points - mask.shape[0] // 2, mask[*points.T, None]], axis=1)


def _core(mask: np.ndarray, reach: int) -> np.ndarray:
    """(y, x) of the pixels that a first paddle must find free, or none if it is never placed: [P, 2].

    They are those where its mask is full, within reach. Two quirks of the original shape the pictures, and are kept.
    It looks for room one pixel down and right of where it then draws. And it finds no room at all in a direction
    whose core would lie wholly outside the picture for an anchor in some corner (an empty maximum, taken for a broken
    mask): at 32 × 32 this rules most directions out.
    """
    points = np.argwhere(mask == 255) - mask.shape[0] // 2 + 1
    points = points[(np.abs(points) <= reach).all(1)]
    corners = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    return points if all((points * corner >= 0).all(1).any() for corner in corners) else points[:0]


def _ragged(rows: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Tables of different lengths as one with zeros at the ends, and their lengths."""
    rows = list(rows)
    counts = np.array([len(row) for row in rows])
    table = np.zeros((len(rows), counts.max(), rows[0].shape[1]), np.int64)
    for out, row in zip(table, rows, strict=True):
        out[: len(row)] = row
    return table, counts


def _discs(rules: Any) -> np.ndarray:
    """A marker's picture in a window of R × R, for every centre in it: uint8 [R, R, R, R]."""
    scale, margin = rules.aa_scale, math.ceil(rules.marker_radius + 3.5)  # Lanczos looks 3 pixels far
    side = 2 * margin + 1
    y, x = np.ogrid[: side * scale, : side * scale]
    discs = np.empty((side,) * 4, np.uint8)
    for cy, cx in np.ndindex(side, side):
        inside = (y - cy * scale) ** 2 + (x - cx * scale) ** 2 <= (rules.marker_radius * scale) ** 2
        discs[cy, cx] = _shrink(inside.astype(np.uint8) * 255, side)
    return discs
