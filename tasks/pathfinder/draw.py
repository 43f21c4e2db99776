"""Pathfinder drawings: are the two discs joined by a dashed path?

The pictures of Linsley et al., "Learning long-range spatial dependencies with horizontal gated recurrent units"
(2018, arXiv:1805.08315), by the rules of their generator (drewlinsley/pathfinder, `snakes2`) and with the
parameters of the Long Range Arena (arXiv:2011.04006). Quirks of that generator that show in the pictures are kept,
and noted in the code. The code is new, and hundreds of times faster: everything that is not random comes from tables
(`stamps`), random numbers choose among them (`layout`), and the pixels are pasted here.

A picture depends on (rules, seed, index) only. No global random state is used, so pictures can be drawn in any order,
in chunks of any size, by any number of processes.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tasks.pathfinder.compiled import compiled
from tasks.pathfinder.layout import choose_options, plan
from tasks.pathfinder.stamps import Stamps, build_stamps

BLOCK = 1000  # pictures laid out at a time, to bound memory
CONTOUR_LENGTH = {"short": 3, "easy": 6, "intermediate": 9, "hard": 14}


@dataclass(frozen=True)
class Rules:
    """Parameters of a drawing. Lengths are in pixels unless stated otherwise."""

    size: int  # of the square picture
    contour_length: int  # paddles of each of the two target contours
    distractor_length: int  # paddles of each distractor
    distractors: int  # how many are attempted
    seed_distance: int  # between the starts of the two target contours
    marker_radius: float
    paddle_length: int
    thickness: float  # of a paddle; times aa_scale it must be an integer
    margins: tuple[int, ...]  # half the gap between paddles; one is chosen per picture
    padding: int  # border without paddles
    continuity: float  # larger is straighter
    snake_contrast: float  # brightness of distractors, where a disc has 1
    paddle_contrast: float  # brightness of target contours relative to distractors
    aa_scale: int = 2  # lines are drawn larger by this factor, then shrunk
    contour_retries: int = 4  # of a distractor
    paddle_retries: int = 2


SIZES: dict[int, tuple[int, dict[str, Any]]] = {  # by size: paddles of all distractors together, then Rules' fields
    32: (20, dict(seed_distance=7, marker_radius=1.5, paddle_length=2, thickness=0.5, margins=(1,), padding=1,
                  continuity=1.0, snake_contrast=2.0, paddle_contrast=0.75)),
    64: (22, dict(seed_distance=12, marker_radius=2.5, paddle_length=5, thickness=1.0, margins=(1,), padding=1,
                  continuity=1.8, snake_contrast=0.8, paddle_contrast=1.0)),
    128: (35, dict(seed_distance=20, marker_radius=3.0, paddle_length=5, thickness=1.5, margins=(2, 3), padding=1,
                   continuity=1.8, snake_contrast=0.9, paddle_contrast=1.0)),
    256: (30, dict(seed_distance=27, marker_radius=5.0, paddle_length=5, thickness=2.0, margins=(3,), padding=22,
                   continuity=1.8, snake_contrast=1.0, paddle_contrast=1.0)),
}  # fmt: skip


def rules(size: int, difficulty: str) -> Rules:
    """The Long Range Arena's rules for a size (32, 64, 128, 256) and a difficulty (easy, intermediate, hard).

    The difficulty "short" is not the benchmark's: the same rules with half as many paddles as easy contours.

    Raises:
        ValueError: any other size or difficulty.
    """
    if size not in SIZES or difficulty not in CONTOUR_LENGTH:
        raise ValueError(f"no Pathfinder of size {size!r} and difficulty {difficulty!r}: "
                         f"choose from {list(SIZES)} and {list(CONTOUR_LENGTH)}")  # fmt: skip
    length = CONTOUR_LENGTH[difficulty]
    paddles, fields = SIZES[size]
    short = length // 3
    return Rules(size=size, contour_length=length, distractor_length=short, distractors=paddles // short, **fields)


def draw(rules: Rules, seed: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws pictures start … start + count - 1 of a seed.

    Args:
        rules: parameters of the drawings.
        seed: at least 0.
        start: index of the first picture, at least 0.
        count: how many to draw.

    Returns:
        Pictures uint8 [count, size, size], and labels uint8 [count]: 1 if the discs mark the two ends of one contour.
    """
    images = np.empty((count, rules.size, rules.size), np.uint8)
    labels = np.empty(count, np.uint8)
    options = choose_options(seed, start, count, len(rules.margins))
    for option, margin in enumerate(rules.margins):
        tables, chosen = _cached_stamps(rules, margin), np.flatnonzero(options == option)
        for rows in np.array_split(chosen, len(chosen) // BLOCK + 1):
            paddles, marks, labels[rows] = plan(tables, _plan_rules(rules), seed, start + rows)
            _paint(tables, _brightness(rules), paddles, marks, rows, images)
    return images, labels


def contours(rules: Rules, seed: int, index: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """The layout of one picture.

    Args:
        rules: parameters of the drawing.
        seed: at least 0.
        index: the picture's index, at least 0.

    Returns:
        (paddles, marks, label, margin): the first three as in `plan`, without B.
    """
    margin = rules.margins[choose_options(seed, index, 1, len(rules.margins))[0]]
    paddles, marks, labels = plan(_cached_stamps(rules, margin), _plan_rules(rules), seed, np.array([index]))
    return paddles[0].astype(int), marks[0].astype(int), int(labels[0]), margin


@lru_cache(maxsize=16)
def _cached_stamps(rules: Rules, margin: int) -> Stamps:
    return build_stamps(rules, margin)


def _plan_rules(rules: Rules) -> tuple[int, ...]:
    """The rules that `plan` reads, as a tuple of integers, which Numba accepts."""
    return (rules.size, rules.contour_length, rules.distractor_length, rules.distractors, rules.seed_distance,
            rules.padding, rules.contour_retries, rules.paddle_retries)  # fmt: skip


def _brightness(rules: Rules) -> np.ndarray:
    """The brightness of a stamp's value 0 … 255 on a target, a distractor and a disc: float64 [3, 256].

    Rounded as float32 after each step: many pixels are just between two grey levels, and this decides which one.
    """
    disc = (np.arange(256) / 255).astype(np.float32)
    target = disc * np.float32(rules.paddle_contrast * rules.snake_contrast)
    return np.stack([target, disc * np.float32(rules.snake_contrast), disc], dtype=np.float64)


@compiled
def _paste(image: np.ndarray, stamp: np.ndarray, level: np.ndarray, top: int, left: int) -> None:
    """Pastes a stamp with its corner at (top, left), in the brightness given by `level`; the larger value stays."""
    size = image.shape[0]
    for i in range(max(0, top), min(size, top + stamp.shape[0])):
        for j in range(max(0, left), min(size, left + stamp.shape[1])):
            image[i, j] = max(image[i, j], level[stamp[i - top, j - left]])


@compiled
def _window_position(at: int, size: int, side: int) -> int:
    """The position of a disc's centre at coordinate `at` in its window of `side` pixels: off centre near a border."""
    half = side // 2
    return min(at, half) if at < size - half else side - (size - at)


@compiled
def _paint(
    tables: Stamps, levels: np.ndarray, paddles: np.ndarray, marks: np.ndarray, rows: np.ndarray, images: np.ndarray
) -> None:
    """Paints the pictures that `plan` has laid out into images[rows]."""
    size = images.shape[1]
    half, side = tables.line.shape[1] // 2, tables.disc.shape[0]
    image = np.empty((size, size))
    for b in range(len(rows)):
        image[:] = 0.0
        for n in range(paddles.shape[1]):
            for k in range(paddles.shape[2]):
                y, x, direction = paddles[b, n, k]
                if direction >= 0:
                    _paste(image, tables.line[direction], levels[0 if n < 2 else 1], y - half, x - half)
        for n in range(2):
            y, x = marks[b, n]
            wy, wx = _window_position(y, size, side), _window_position(x, size, side)
            _paste(image, tables.disc[wy, wx], levels[2], y - wy, x - wx)
        scale = 255.0 / image.max()
        for i in range(size):
            for j in range(size):
                images[rows[b], i, j] = int(image[i, j] * scale + 0.5)
