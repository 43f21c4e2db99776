"""Retrieval of the mini arena: does one text quote the other? Both are given as bytes (reviews of Maas et al. 2011)

Data card
    What        Two texts of 128 bytes. The first is from a film review. The second is from another one, with a
                quotation of 64 bytes at a random place: in class 1 a passage of the first text, in class 0 one of a
                third review, which has much the same letters: of 64 passages, that with the most similar counts of
                bytes. Which of the two passages the first text has is a matter of chance.
    Shrunk      The benchmark asks whether one of two papers cites the other, each given by 4,000 bytes. Its papers are
                in one archive of 7.7 GB and not used here, so that all rows are of one data set.
    Demands     To put what a text says into one vector, before the other text is known, so finely that two vectors tell
                whether their texts share a passage, wherever it stands in either. One text alone tells nothing. By a
                threshold of the similarity of their counts, single bytes give 76 %, pairs of bytes 99 %; a linear
                classifier of the products of counts of single bytes has 83 %.
    Reached     50 % by always giving one answer. In protocol `mini`, 79 % by `ff_only`, which sees single bytes, 82 %
                by the Transformer, 88 % by `s4d`, 91 % by `mega`.
    From        IMDb's reviews, as Text. Reviews of at least 128 bytes, each distinct one once: of the training reviews
                1,000 for validation, of the test reviews 4,000 for test. 100,000 / 1,000 / 4,000 pairs, half of each
                class, drawn with replacement.
    Licence     None stated; IMDb's reviews, collected for research. Not distributed with this project.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tasks.io.splits import consecutive, hold_out
from tasks.task import SPLITS, BuildRequest, DataError, RawDataset
from tasks.text import TEXT, Reviews, read_reviews, to_dataset

CANDIDATES = 64
"""Passages of other reviews, of which the one most similar to the first text's is quoted in class 0."""


@dataclass(frozen=True)
class RetrievalMiniConfig:
    """Numbers of pairs; as many reviews are held out for validation, and chosen for test."""

    train: int = 100_000
    validation: int = 1_000
    test: int = 4_000
    quote: int = 64
    """Bytes that the second text quotes."""


def build(request: BuildRequest) -> RawDataset:
    """Builds the task from a folder, an archive or a TFDS copy of IMDb's reviews. Raises `DataError`."""
    reviews, rules = read_reviews(request), request.rules
    if not 0 < rules.quote < request.length:
        raise DataError(f"data.quote must be at least 1 and less than the length {request.length}")
    rng = np.random.default_rng([request.seed, 0x9A125])
    sizes = [getattr(rules, split) for split in SPLITS]
    labels = [(np.arange(size) % 2).astype(np.uint8) for size in sizes]
    documents = [
        text
        for texts, quoted in zip(_divide(reviews, request), labels, strict=True)
        for pair in _draw_pairs(rng, texts, quoted, request.length, rules.quote)
        for text in pair
    ]
    return to_dataset(reviews, documents, consecutive(np.concatenate(labels), sizes, documents=2), request)


def _divide(reviews: Reviews, request: BuildRequest) -> list[Sequence[bytes]]:
    """The distinct long reviews for train, validation and test; those in both splits of the copy are test's."""
    rules = request.rules
    test = [text for text in dict.fromkeys(reviews.texts["test"]) if len(text) >= request.length]
    known = set(test)
    train = [
        text for text in dict.fromkeys(reviews.texts["train"]) if len(text) >= request.length and text not in known
    ]
    kept, held = _choose(len(train), rules.validation, request.seed)
    _, chosen = _choose(len(test), rules.test, request.seed)
    return [[train[i] for i in kept], [train[i] for i in held], [test[i] for i in chosen]]


def _choose(reviews: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the reviews that are left and of `count` that are chosen."""
    least = 2 + CANDIDATES
    if not least <= count <= reviews - least:
        raise DataError(
            f"{count:,} of {reviews:,} long reviews cannot be held out: take at least {least} and leave {least}"
        )
    return hold_out(np.zeros(reviews, np.uint8), count / reviews, seed)


def _draw_pairs(
    rng: np.random.Generator, texts: Sequence[bytes], quoted: np.ndarray, length: int, quote: int
) -> Iterator[tuple[bytes, bytes]]:
    """Draws a pair for each label: in class 1 the second text quotes the first, in class 0 another.

    Which of two similar passages the first text has is a matter of chance in both classes. So neither text alone tells
    the class.
    """
    sizes = np.array([len(text) for text in texts])
    for label in quoted:
        second, *others = rng.choice(len(texts), 2 + CANDIDATES, replace=False)
        starts = rng.integers(sizes[others] - quote + 1)
        passages = [texts[i][start : start + quote] for i, start in zip(others, starts, strict=True)]
        similar = [0, 1 + most_similar(passages)]
        source, other = rng.permutation(similar)
        start = int(starts[source])
        first = _excerpt(rng, texts[others[source]], length, start + quote - length, start)
        quotation = passages[source if label else other]
        own, place = _excerpt(rng, texts[second], length - quote), int(rng.integers(length - quote + 1))
        yield first, own[:place] + quotation + own[place:]


def _excerpt(rng: np.random.Generator, text: bytes, size: int, least: int = 0, most: int | None = None) -> bytes:
    """`size` bytes of a text that begin anywhere, or at `least` to `most` where the text allows it."""
    last = len(text) - size
    start = int(rng.integers(max(0, least), (last if most is None else min(most, last)) + 1))
    return text[start : start + size]


def most_similar(passages: Sequence[bytes]) -> int:
    """The number, from 0, of that passage after the first whose counts of bytes are most similar to the first's."""
    values = np.frombuffer(b"".join(passages), np.uint8).reshape(len(passages), -1)
    places = values + 256 * np.arange(len(passages))[:, None]
    roots = np.sqrt(np.bincount(places.ravel(), minlength=256 * len(passages)).reshape(len(passages), 256))
    return int(np.argmax(roots[1:] @ roots[0]))


RETRIEVAL_MINI = replace(
    TEXT,
    name="retrieval_mini",
    version="2",
    length=128,
    build=build,
    rules=RetrievalMiniConfig(),
    counts=(100_000, 1_000, 4_000),
    pair=True,
    summary="the mini arena's: two texts of 128 bytes: does one quote the other",
    names=("another is quoted", "the first is quoted"),
    stands_for="retrieval",
)
