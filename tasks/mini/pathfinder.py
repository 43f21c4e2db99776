"""Pathfinder of the mini arena: 16×16 drawings: are two discs joined by one dashed path?

Data card
    What        Two dashed curves of equal length that turn at random, and a short one that distracts, as 256 grey
                levels, row by row. 1 where two discs mark the ends of one curve, 0 where they mark an end of each.
    Shrunk      The picture (32×32 in the benchmark) and the curves: 2, 3 or 4 dashes, a third of the pictures each;
                the benchmark's have 14.
    Demands     To follow a curve over its gaps. Curves are two empty pixels apart and gaps one wide, so every picture
                can be told; of the benchmark's some cannot. Discs are about as far apart in both classes: in class 0,
                the end of a third curve that is not drawn says where the second begins. Local cues do not tell: a
                linear classifier of the histogram of all patches of 3×3 pixels tests at 55 %, one of the distance
                and direction of the discs at 53 %, and one of both at 57 %.
    Reached     50 % by always answering the more frequent class. In protocol `mini`, 51 % by `ff_only`, which sees a
                bag of pixels, and 59 % by `short_conv`, which sees 33 positions: two rows (one seed each).
    Decided     The curves are not those of the benchmark's generator: at this size they touch and cross, and most
                models learnt nothing of them in minutes (docs/mini.md).
    From        This generator: 100,000 / 1,000 / 4,000 pictures.
    Licence     Generated data has none.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from tasks.pathfinder.task import PATHFINDER_SHORT, PathfinderConfig, check_sizes, generate
from tasks.task import BuildRequest, DataError, RawDataset

SIDE = 16
"""Pixels along an edge."""
LENGTHS = (7, 10, 13)
"""Pixels of the two curves, of which every third is a gap."""
DISTRACTOR = 5
"""Pixels of the curve that distracts; it is left out where it finds no way."""
BETWEEN = 2
"""Empty pixels between two curves, at least, with discs at the three ends that can have one."""
GREY, WHITE = 128, 255
"""Of curves and discs."""
_MOVES = np.array([(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)])
_TURNS, _CHANCES = np.array([0, 1, -1]), np.array([0.4, 0.3, 0.3])
"""Straight on, or an eighth of a turn to either side, and how often."""
_DISC = np.array([(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)])
_PER_LENGTH = 500
"""Pictures of each length in a block."""


def draw_block(seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws one block of the stream of a seed: pictures uint8 [n, 256] and labels uint8 [n], in random order."""
    rng = np.random.default_rng((seed, block))
    parts = [draw(rng, length, _PER_LENGTH) for length in LENGTHS]
    order = rng.permutation(len(LENGTHS) * _PER_LENGTH)
    return tuple(np.concatenate(part)[order] for part in zip(*parts, strict=True))  # type: ignore[return-value]


def draw(rng: np.random.Generator, length: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws pictures of curves of one length, and draws again where a curve finds no way.

    Args:
        rng: random numbers.
        length: pixels of a curve.
        count: N.

    Returns:
        Pictures uint8 [N, 256] and labels uint8 [N].
    """
    pictures, labels = np.zeros((0, SIDE * SIDE), np.uint8), np.zeros(0, np.uint8)
    while len(labels) < count:
        more = _try(rng, length, count)
        pictures, labels = np.concatenate([pictures, more[0]]), np.concatenate([labels, more[1]])
    return pictures[:count], labels[:count]


def _try(rng: np.random.Generator, length: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The pictures and labels of `count` attempts that succeeded."""
    nothing = np.zeros((count, 0, 2), int)
    start = rng.integers(1, SIDE - 1, (count, 2))
    first, found = walk(rng, start, length, nothing)
    unseen, also = walk(rng, start, length, nothing)
    second, too = walk(rng, unseen[:, -1], length, first)
    good = found & also & too
    first, second = first[good], second[good]
    rows, both = np.arange(len(first)), np.concatenate([first, second], 1)
    distractor, drawn = walk(rng, rng.integers(1, SIDE - 1, (len(rows), 2)), DISTRACTOR, both)
    labels = rng.integers(0, 2, len(rows), np.uint8)
    other_end = np.where(labels[:, None] == 1, first[:, -1], second[:, 0])
    pictures = np.zeros((len(rows), SIDE, SIDE), np.uint8)

    def paint(rows: np.ndarray, pixels: np.ndarray, level: int) -> None:
        pictures[rows[:, None], pixels[..., 0], pixels[..., 1]] = level

    for curve in (first, second):
        paint(rows, curve[:, _dashes(length)], GREY)
    paint(rows[drawn], distractor[drawn][:, _dashes(DISTRACTOR)], GREY)
    for end in (first[:, 0], other_end):
        paint(rows, end[:, None] + _DISC, WHITE)
    return pictures.reshape(len(rows), -1), labels


def _dashes(length: int) -> np.ndarray:
    """Pixels of a curve that are drawn: all but every third, so that dashes at the ends show beside a disc."""
    numbers = np.arange(length)
    return np.flatnonzero((numbers % 3 != 0) | (numbers == 0) | (numbers == length - 1))


def walk(rng: np.random.Generator, start: np.ndarray, length: int, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Random walks that stay in the picture, clear of its edge, of themselves and of other curves.

    Args:
        rng: random numbers.
        start: first pixels, row and column, [N, 2].
        length: pixels of a walk, n.
        others: pixels of other curves [N, M, 2].

    Returns:
        Pixels [N, n, 2], and whether each walk found its way, [N]. Those of a walk that did not mean nothing.
    """
    pixels = np.zeros((len(start), length, 2), int)
    pixels[:, 0] = start
    rows, heading = np.arange(len(start)), rng.integers(0, 8, len(start))
    found = _distance(start[:, None], others)[:, 0] > BETWEEN
    for i in range(1, length):
        headings = (heading[:, None] + _TURNS) % 8
        ahead = pixels[:, i - 1, None] + _MOVES[headings]
        inside = ((ahead >= 1) & (ahead < SIDE - 1)).all(2)
        free = inside & (_distance(ahead, others) > BETWEEN) & (_distance(ahead, pixels[:, : i - 1]) > 1)
        chances = np.cumsum(free * _CHANCES, 1)
        turn = (chances > rng.random((len(start), 1)) * chances[:, -1:]).argmax(1)
        pixels[:, i], heading = ahead[rows, turn], headings[rows, turn]
        found &= free.any(1)
    return pixels, found


def _distance(pixels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """From each pixel [N, K, 2] to the nearest of others [N, M, 2], diagonals counting as one: [N, K]."""
    apart = np.abs(pixels[:, :, None] - others[:, None]).max(3)
    nearest: np.ndarray = apart.min(2, initial=SIDE)
    return nearest


def build(request: BuildRequest) -> RawDataset:
    """Draws the pictures. Raises `DataError`."""
    if request.length != SIDE * SIDE:
        raise DataError(f"pathfinder_mini has {SIDE * SIDE} pixels: its length cannot be {request.length}")
    check_sizes(request.rules)
    return generate(partial(draw_block, request.seed), request)


PATHFINDER_MINI = replace(
    PATHFINDER_SHORT,
    name="pathfinder_mini",
    version="2",
    length=SIDE * SIDE,
    build=build,
    rules=PathfinderConfig(train=100_000, validation=1_000, test=4_000),
    summary="the mini arena's: 16×16 drawings: are two discs joined by a dashed path",
    shape=(SIDE, SIDE),
    stands_for="pathfinder",
)
