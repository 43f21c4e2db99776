"""Retrieval of the mini arena: are two excerpts, given as bytes, of one film review? (reviews of Maas et al. 2011)

Data card
    What        Two excerpts of 256 bytes. In a pair of class 1 they are the beginning and the end of one stretch of 448
                bytes of a review, so that 64 bytes are in both; in a pair of class 0 they are of two reviews.
    Shrunk      The benchmark asks whether one of two papers cites the other, each given by 4,000 bytes. Its papers are
                in one archive of 7.7 GB and not used here, so that all rows are of one data set.
    Demands     To put what a text says into one vector, before the other text is known, so finely that two vectors tell
                whether their texts share something. The distance of two excerpts' histograms of bytes gives 77 %.
                Without the common 64 bytes it gives 62 %, and S4D learned nothing in 400 steps of 16.
    Reached     50 % by always giving one answer. In protocol `mini`, 70 % by `ff_only`, which sees single bytes, and
                75 % by `short_conv`, which sees 33 positions. `linformer`, whose projections are fixed to positions,
                has 84 %: the bytes that are in both always end one text and begin the other.
    From        IMDb's reviews, as Text. Reviews of at least 448 bytes, each distinct one once, a stretch drawn in each:
                of the training reviews 1,000 for validation, of the test reviews 4,000 for test. 40,000 / 1,000 / 4,000
                pairs, half of each class, drawn with replacement.
    Licence     None stated; IMDb's reviews, collected for research. Not distributed with this project.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tasks.io.splits import hold_out
from tasks.task import SPLITS, BuildRequest, DataError, RawDataset, Split
from tasks.text import TEXT, Reviews, read_reviews, to_dataset


@dataclass(frozen=True)
class RetrievalMiniConfig:
    """Numbers of pairs; as many reviews are held out for validation, and chosen for test."""

    train: int = 40_000
    validation: int = 1_000
    test: int = 4_000
    shared: int = 64
    """Bytes that the two excerpts of a review have in common."""


def build(request: BuildRequest) -> RawDataset:
    """Builds the task from a folder, an archive or a TFDS copy of IMDb's reviews. Raises `DataError`."""
    reviews, rules = read_reviews(request), request.rules
    if not 0 <= rules.shared < request.length:
        raise DataError(f"data.shared must be at least 0 and less than the length {request.length}")
    span, rng = 2 * request.length - rules.shared, np.random.default_rng([request.seed, 0x9A125])
    documents: list[bytes] = []
    splits: dict[str, Split] = {}
    for split, texts in zip(SPLITS, _divide(reviews, request, span), strict=True):
        first = len(documents)
        for text in texts:
            start = int(rng.integers(len(text) - span + 1))
            stretch = text[start : start + span]
            documents += [stretch[: request.length], stretch[-request.length :]]
        splits[split] = _draw_pairs(rng, first, len(texts), getattr(rules, split))
    return to_dataset(reviews, documents, splits, request)


def _divide(reviews: Reviews, request: BuildRequest, span: int) -> list[Sequence[bytes]]:
    """The distinct reviews of at least `span` bytes for train, validation and test; those in both splits are test's."""
    rules = request.rules
    test = [text for text in dict.fromkeys(reviews.texts["test"]) if len(text) >= span]
    known = set(test)
    train = [text for text in dict.fromkeys(reviews.texts["train"]) if len(text) >= span and text not in known]
    kept, held = _choose(len(train), rules.validation, request.seed)
    _, chosen = _choose(len(test), rules.test, request.seed)
    return [[train[i] for i in kept], [train[i] for i in held], [test[i] for i in chosen]]


def _choose(reviews: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the reviews that are left and of `count` that are chosen."""
    if not 1 < count < reviews - 1:
        raise DataError(f"{count:,} of {reviews:,} long reviews cannot be held out: take at least 2 and leave 2")
    return hold_out(np.zeros(reviews, np.uint8), count / reviews, seed)


def _draw_pairs(rng: np.random.Generator, first: int, reviews: int, pairs: int) -> Split:
    """Draws pairs of which every second is of one review; review i has the rows first + 2 i and first + 2 i + 1."""
    labels = (np.arange(pairs) % 2).astype(np.uint8)
    one = rng.integers(reviews, size=pairs)
    other = (one + rng.integers(1, reviews, size=pairs)) % reviews
    second = np.where(labels == 1, one, other)
    return Split((first + np.stack([2 * one, 2 * second + 1], axis=1)).astype(np.int32), labels)


RETRIEVAL_MINI = replace(
    TEXT,
    name="retrieval_mini",
    length=256,
    build=build,
    rules=RetrievalMiniConfig(),
    counts=(40_000, 1_000, 4_000),
    pair=True,
    summary="the mini arena's: two excerpts of 256 bytes: are they of one film review",
    names=("two reviews", "one review"),
    stands_for="retrieval",
)
