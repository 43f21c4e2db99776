"""The parts of a Pathfinder drawing that are not random, as small tables.

A paddle (one dash) points in one of a few directions only: a whole degree for the first paddle of a contour, and
towards one of the pixels on a small circle for each later one. So every line, mask, step and turning weight is
computed once here, and drawing a picture is choosing and pasting.

The rules are those of drewlinsley/pathfinder (`snakes2`), which drew the pictures of the Long Range Arena.
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
    """Tables for one margin. D directions: first the 360 degrees from -180 on, then the C candidates for a turn.

    line, mask   uint8 [D, S, S]    a paddle, and the ground it claims, centred on its anchor
    hard         int64 [D, P, 3]    the pixels of the mask where paddles can cross: (y, x) from the anchor, value
    hards        int64 [D]          how many of the P are used
    core         int64 [360, P, 2]  pixels that must be free for the first paddle of a contour, from its anchor
    cores        int64 [360]        how many of the P are used; 0: no paddle can start this way
    head, back   float64 [360, 2]   from a first paddle's anchor to its head, from its head to its pivot
    away         float64 [360, 2]   from the first seed to the second
    step         float64 [D, 2]     from one pivot to the next
    turn         int64 [C, 2]       from a pivot to the candidates for the next paddle's end
    weight       float64 [D, C]     weight of a turn from direction D to candidate C
    near         int64 [N, 2]       the pixels within the margin
    disc         uint8 [R, R, R, R] a marker by its centre's (y, x) in the window, for markers near a border
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


def build_stamps(rules: Any, margin: int) -> Stamps:
    """Computes the tables for `rules` and a margin in pixels."""
    length, reach = rules.paddle_length, rules.paddle_length + margin
    turn = _pixels_on_circle(reach)
    seed = np.arange(-180, 180) * np.pi / 180
    bend = np.arctan2(turn[:, 0], turn[:, 1])
    course = np.concatenate([seed, bend])
    # a first paddle is drawn from its tail on, a later one from its head back
    pairs = [_draw_paddle(rules, margin, angle) for angle in np.concatenate([seed, _opposite(bend)])]
    line, mask = (np.stack(images) for images in zip(*pairs, strict=True))
    hard, hards = _stack_padded(_crossing_pixels(image) for image in mask)
    core, cores = _stack_padded(_core_pixels(image, reach) for image in mask[:DEGREES])
    return Stamps(
        line=line, mask=mask, hard=hard, hards=hards, core=core, cores=cores,
        head=_offset(length, seed), back=_offset(reach, _opposite(seed)), away=_offset(rules.seed_distance, seed),
        step=_offset(length + 2 * margin, course), turn=turn, weight=_weights(course, bend, rules.continuity),
        near=_pixels_within(margin), disc=_draw_markers(rules),
    )  # fmt: skip


def _opposite(angle: np.ndarray) -> np.ndarray:
    """The opposite direction, in -π … π."""
    return np.where(angle < 0, angle + np.pi, angle - np.pi)


def _offset(distance: float, angle: np.ndarray | float) -> np.ndarray:
    """(y, x) of a point at a distance in a direction: float64 [..., 2].

    Sums with it are rounded up, so rounding errors show. Those of a sine of π are part of the drawings: they push a
    contour that runs along the top or the left border inwards. Those near other integers, which differ between
    machines and hardly ever show, are removed.
    """
    shift = distance * np.stack([np.sin(angle), np.cos(angle)], -1)
    whole = np.round(shift)
    return np.where((np.abs(shift - whole) < 1e-9) & (whole != 0), whole, shift)


def _pixels_on_circle(radius: float) -> np.ndarray:
    """Pixels on a circle, sampled once per pixel of arc, without repeats, by row: int64 [C, 2]."""
    angle = np.arange(math.ceil(2 * math.pi * radius)) / radius
    y, x = radius * np.sin(angle), radius * np.cos(angle)
    return np.unique(np.floor(np.stack([y, x], 1)).astype(np.int64), axis=0)


def _pixels_within(radius: int) -> np.ndarray:
    """Pixels no further than `radius` from the origin: int64 [N, 2]."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    inside = y**2 + x**2 <= radius**2
    return np.stack([y[inside], x[inside]], 1)


def _weights(course: np.ndarray, bend: np.ndarray, continuity: float) -> np.ndarray:
    """cos²(continuity · angle between the two directions), 0 from a right angle on: float64 [D, C]."""
    angle = np.abs(course[:, None] - bend)
    angle = np.minimum(angle, 2 * np.pi - angle)
    return np.round(np.cos(np.minimum(angle * continuity, np.pi / 2)) ** 2, 12)


def _draw_paddle(rules: Any, margin: int, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Draws one paddle from the centre of its stamp, at an angle: (line, mask), uint8 [S, S] each."""
    scale = rules.aa_scale
    half = rules.paddle_length + math.ceil(rules.thickness) + margin
    fine = np.zeros((2 * half * scale + 1,) * 2, np.uint8)
    y, x = np.ceil(half * scale + _offset(rules.paddle_length * scale, angle))
    image = Image.fromarray(fine)
    ImageDraw.Draw(image).line([(half * scale,) * 2, (int(x), int(y))], 255, round(rules.thickness * scale))
    fine = np.asarray(image)
    return _shrink(fine, 2 * half + 1), _shrink(_dilate(fine, margin * scale), 2 * half + 1)


def _dilate(image: np.ndarray, radius: int) -> np.ndarray:
    """The largest value within the radius of each pixel."""
    wide = np.pad(image, radius)
    height, width = image.shape
    return np.max([wide[radius + y :, radius + x :][:height, :width] for y, x in _pixels_within(radius)], axis=0)


def _shrink(image: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


def _crossing_pixels(mask: np.ndarray) -> np.ndarray:
    """(y, x) from the centre, and value, of the pixels that reach CROSSED on ground that is fully taken: [P, 3]."""
    points = np.argwhere(mask >= CROSSED - 255)
    return np.concatenate([points - mask.shape[0] // 2, mask[*points.T, None]], axis=1)


def _core_pixels(mask: np.ndarray, reach: int) -> np.ndarray:
    """(y, x) of the pixels that must be free for a first paddle, or none if it is never placed: [P, 2].

    They are those where its mask is full, within reach. Two quirks of the original shape the pictures, and are kept.
    It looks for room one pixel below and right of where it then draws. And it finds no room at all in a direction
    whose core would be entirely outside the picture for an anchor in some corner (an empty maximum, mistaken for a
    broken mask): at 32 × 32 this excludes most directions.
    """
    points = np.argwhere(mask == 255) - mask.shape[0] // 2 + 1
    points = points[(np.abs(points) <= reach).all(1)]
    corners = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    return points if all((points * corner >= 0).all(1).any() for corner in corners) else points[:0]


def _stack_padded(rows: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stacks tables of different lengths, padded with zeros; returns the stack and the lengths."""
    rows = list(rows)
    counts = np.array([len(row) for row in rows])
    table = np.zeros((len(rows), counts.max(), rows[0].shape[1]), np.int64)
    for out, row in zip(table, rows, strict=True):
        out[: len(row)] = row
    return table, counts


def _draw_markers(rules: Any) -> np.ndarray:
    """Draws a marker in a window of R × R, for every centre in it: uint8 [R, R, R, R]."""
    scale, margin = rules.aa_scale, math.ceil(rules.marker_radius + 3.5)  # Lanczos looks 3 pixels far
    side = 2 * margin + 1
    y, x = np.ogrid[: side * scale, : side * scale]
    discs = np.empty((side,) * 4, np.uint8)
    for cy, cx in np.ndindex(side, side):
        inside = (y - cy * scale) ** 2 + (x - cx * scale) ** 2 <= (rules.marker_radius * scale) ** 2
        discs[cy, cx] = _shrink(inside.astype(np.uint8) * 255, side)
    return discs
