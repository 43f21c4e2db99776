"""Pathfinder of the mini arena: 16×16 drawings: are two discs joined by one dashed path?

Data card
    What        The benchmark's Pathfinder (`tasks.pathfinder`) in small pictures, as 256 grey levels, row by row: two
                curves of 4 dashes and up to 2 distractors of 2 dashes; 1 where the discs mark the ends of one curve.
    Shrunk      The picture (32×32 in the benchmark), the curves (14 dashes in its hard version) and the distractors.
    Demands     To follow a curve that turns and crosses others. Local cues do not tell: a linear classifier of the
                histogram of all patches of 3×3 pixels tests at 50 %, one of the bright pixels' autocorrelation, which
                knows how far apart the discs are, at 59 %, and one of both at 57 %. Curves that touch make some
                pictures ambiguous, so that nobody can reach 100 %.
    From        Our generator, by the original's rules for 32×32 pictures, with the curves 3 pixels apart at the start:
                100,000 / 1,000 / 4,000 pictures.
    Licence     Generated data has none.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from tasks.pathfinder.task import PATHFINDER_SHORT, PathfinderConfig, check_sizes, draw_pictures, generate
from tasks.task import BuildRequest, DataError, RawDataset

SIDE = 16
"""Pixels along an edge."""


def draw_block(seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws one block of the stream, as `tasks.pathfinder.task.draw_block`."""
    # Numba takes a second to import, and only drawing needs it.
    from tasks.pathfinder import draw

    small = replace(
        draw.rules(32, "short"), size=SIDE, contour_length=4, distractor_length=2, distractors=2, seed_distance=3,
        marker_radius=1.0,
    )  # fmt: skip
    return draw_pictures(small, seed, block)


def build(request: BuildRequest) -> RawDataset:
    """Draws the pictures. Raises `DataError`."""
    if request.length != SIDE * SIDE:
        raise DataError(f"pathfinder_mini has {SIDE * SIDE} pixels: its length cannot be {request.length}")
    check_sizes(request.rules)
    return generate(partial(draw_block, request.seed), request)


PATHFINDER_MINI = replace(
    PATHFINDER_SHORT,
    name="pathfinder_mini",
    length=SIDE * SIDE,
    build=build,
    rules=PathfinderConfig(train=100_000, validation=1_000, test=4_000),
    summary="the mini arena's: 16×16 drawings: are two discs joined by a dashed path",
    shape=(SIDE, SIDE),
    stands_for="pathfinder",
)
