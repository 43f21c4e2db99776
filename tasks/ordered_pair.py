"""Ordered pairs: which of two marked symbols comes first? A task whose answer about range is known.

Data card
    What        Two marked symbols a and b of a ring of 3, where b follows a or precedes it, and one filler everywhere
                else. The class says whether b = a + 1 or b = a − 1 (mod 3), counted from the one that comes first. They
                are D apart, and D is uniform from d to 2d − 1; `ordered_pair_16` has d = 16. In training half of the
                pairs are neighbours, and the others 1, 2 to 3, 4 to 7, …, or d to 2d − 1 apart, each as often: models
                learn what to look for from the near pairs. In validation and test all pairs are far.
    Demands     To bring together two tokens at least d apart, and their order. Both classes have the same symbols, and
                the same windows of any size up to d: whoever sees no further guesses right half of the time in the
                test, whatever the training had. Who sees 2d tokens at once can always tell. Solving it proves the
                range; failing does not disprove it, as a model may need more steps to begin.
    Beware      A model with absolute positions need not look from one token to the other: it can note the place of
                each, and a head with a hidden layer compares them. A linear head of the mean of the states adds up
                what single tokens say, and whatever they say, that is wrong on at least one in six: of any two places
                and the six pairs of the ring, the sum over those of one class is also the sum over the other's.
                It asks what a model can tell apart, not how it generalises: of the 6 (L − 2d) d far examples many
                are in the training split too.
    Tried       With far pairs only, a ring of 8, and fillers of 8 kinds, MEGA, S5 and the Transformer guess at d = 16
                after 3,000 steps, and MEGA after 6,000, though all can do it: they had not begun. With near pairs MEGA
                begins, with the small ring as well S4D and one S5 of two. With two kinds of fillers, also where one in
                eight is of the second, one Transformer of two stays below 90 %; with one kind two of two pass.
    From        Our generator, after the adding problem (Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735),
                which asks for two marked numbers far apart. 50,000 / 1,000 / 2,000 examples.
    Licence     Generated data has none.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from tasks.io.room import require_room
from tasks.io.splits import consecutive
from tasks.task import BuildRequest, DataError, RawDataset, Task

RING = 3
"""Value 0 is the filler, and 1, 2 and 3 are the marked symbols."""
DISTANCES = (1, 4, 16, 64, 256)
_BLOCK = 4096
"""Examples drawn at once: a constant of the stream, so changing it changes the data (and the version)."""


@dataclass(frozen=True)
class OrderedPairConfig:
    """How far apart the two symbols are, and how many examples there are."""

    distance: int
    """Power of two d: in validation and test they are d to 2d − 1 apart. The length must be a multiple of it, and at
    least 4d."""
    train: int = 50_000
    validation: int = 1_000
    test: int = 2_000


def draw_examples(
    rng: np.random.Generator, count: int, length: int, distance: int, *, near: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Draws examples: values uint8 [count, length] and classes uint8 [count].

    The first symbol stands at any of the places 0 … length − 2 · distance − 1 with the same probability. With `near`
    half of the pairs are neighbours, and the others are 1, 2 to 3, 4 to 7, …, or `distance` to 2 · `distance` − 1
    apart, each as often.
    """
    values = np.zeros((count, length), np.uint8)
    first = rng.integers(0, length - 2 * distance, count)
    least = np.full(count, distance)
    if near:
        least = np.where(rng.integers(0, 2, count), 1, 2 ** rng.integers(0, distance.bit_length(), count))
    second = first + rng.integers(least, 2 * least)
    symbol = rng.integers(0, RING, count)
    labels = rng.integers(0, 2, count)
    rows = np.arange(count)
    values[rows, first] = 1 + symbol
    values[rows, second] = 1 + (symbol + 2 * labels - 1) % RING
    return values, labels.astype(np.uint8)


def build(request: BuildRequest) -> RawDataset:
    """Draws all splits. Raises `DataError` for settings without the property that windows give nothing away."""
    rules: OrderedPairConfig = request.rules
    distance, length = rules.distance, request.length
    if distance < 1 or distance & (distance - 1):
        raise DataError(f"data.distance must be a power of two, not {distance}")
    if length < 4 * distance or length % distance:
        raise DataError(
            f"pairs {distance} apart need a length of at least {4 * distance} tokens that is a multiple of {distance}, "
            f"not {length}: choose other --lengths or data.distance"
        )
    counts = [rules.train, rules.validation, rules.test]
    if min(counts) < 1:
        raise DataError("every split of ordered pairs needs at least one example")
    total = sum(counts)
    require_room(request, total)
    values, labels = np.empty((total, length), np.uint8), np.empty(total, np.uint8)
    for split, (count, end) in enumerate(zip(counts, itertools.accumulate(counts), strict=True)):
        for block, start in enumerate(range(end - count, end, _BLOCK)):
            rng = np.random.default_rng([request.seed, split, block])
            drawn = draw_examples(rng, _BLOCK, length, distance, near=split == 0)
            part = slice(start, min(start + _BLOCK, end))
            values[part], labels[part] = (array[: part.stop - start] for array in drawn)
    lengths = np.full(total, length, np.int32)
    return RawDataset(values, lengths, consecutive(labels, counts), f"generated (seed {request.seed})")


def _apart(distance: int) -> str:
    return f"{distance} to {2 * distance - 1} tokens apart" if distance > 1 else "neighbours"


ORDERED_PAIRS = tuple(
    Task(
        name=f"ordered_pair_{distance}",
        version="2",
        vocab=1 + RING + 1,
        classes=2,
        length=1024,
        chance=0.5,
        build=build,
        rules=OrderedPairConfig(distance),
        sources=("generate",),
        summary=f"the order of two symbols that are {_apart(distance)}",
        names=("falls", "rises"),
        alphabet=(".", *"012"),
        distance=distance,
    )
    for distance in DISTANCES
)
"""One task for each distance."""
