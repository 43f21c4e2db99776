"""Image of the mini arena: grey CIFAR-10 pictures of 16×16 pixels (Krizhevsky 2009).

Data card
    What        The benchmark's Image (`tasks.image`) at half the resolution: 256 grey levels, row by row; ten classes.
    Shrunk      Each pixel is the mean of four, rounded half up.
    Demands     To find shapes in a line of pixels, where neighbours in a column are 16 positions apart.
    Reached     10 % by always giving one answer. In protocol `mini`, 32 % by `ff_only`, which sees single pixels, and
                40 % by `short_conv`, which sees 33 positions.
    From        CIFAR-10, as Image: of its 50,000 training pictures 1,000 are held out for validation, and of its 10,000
                test pictures 4,000 are taken, both stratified and seeded.
    Licence     None stated by its authors; made for research. Not distributed with this project.
"""

from dataclasses import dataclass, replace

import numpy as np

from tasks import image
from tasks.io.splits import hold_out
from tasks.task import BuildRequest, DataError, RawDataset

SIDE = 16
"""Pixels along an edge."""


@dataclass(frozen=True)
class ImageMiniConfig:
    """Sizes of the splits that are chosen; the other training pictures are trained on."""

    validation: int = 1_000
    """Of the 50,000 training pictures."""
    test: int = 4_000
    """Of the 10,000 test pictures."""


def shrink(pictures: np.ndarray) -> np.ndarray:
    """Halves the resolution of grey levels: uint8 [N, 1024] to uint8 [N, 256], each the mean of a square of four."""
    squares = pictures.reshape(-1, SIDE, 2, SIDE, 2).astype(np.uint16)
    return ((squares.sum((2, 4)) + 2) // 4).astype(np.uint8).reshape(-1, SIDE * SIDE)


def build(request: BuildRequest) -> RawDataset:
    """Builds the task from a folder, an archive or a TFDS copy of CIFAR-10. Raises `DataError`."""
    if request.length != SIDE * SIDE:
        raise DataError(f"image_mini has {SIDE * SIDE} pixels: its length cannot be {request.length}")
    pictures, rules = image.read_pictures(request), request.rules
    labels = pictures.labels
    train, validation = hold_out(labels["train"], rules.validation / len(labels["train"]), request.seed)
    _, test = hold_out(labels["test"], rules.test / len(labels["test"]), request.seed)
    small = replace(pictures, levels={split: shrink(levels) for split, levels in pictures.levels.items()})
    return image.to_dataset(small, [("train", train), ("train", validation), ("test", test)], request)


IMAGE_MINI = replace(
    image.IMAGE,
    name="image_mini",
    version="2",
    length=SIDE * SIDE,
    build=build,
    rules=ImageMiniConfig(),
    counts=(49_000, 1_000, 4_000),
    summary="the mini arena's: grey CIFAR-10 pictures of 16×16 pixels; ten classes",
    shape=(SIDE, SIDE),
    stands_for="image",
)
