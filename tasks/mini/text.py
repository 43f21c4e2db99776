"""Text of the mini arena: the last 512 bytes of IMDb reviews, by sentiment (Maas et al. 2011).

Data card
    What        The benchmark's Text (`tasks.text`) with the last 512 bytes of each review; 0 is negative, 1 positive.
    Shrunk      The length (4,000 bytes in the benchmark). The end is taken, since there reviewers come to a verdict: a
                naive Bayes classifier of the words tests at 80 % on the last 512 bytes, at 78 % on the first, and at
                83 % on whole reviews; of single bytes, at 58 %.
    Demands     To make words of bytes, and to weigh words that are far from each other.
    Reached     50 % by always giving one answer. In protocol `mini`, 63 % by `ff_only`, which sees single bytes, and
                82 % by `short_conv`, which sees 33 positions: the words around each byte tell most.
    From        As Text: IMDb's 25,000 reviews to train, of which 1,000 are held out for validation, and 4,000 of its
                25,000 to test, both stratified and seeded.
    Licence     None stated; IMDb's reviews, collected for research. Not distributed with this project.
"""

from dataclasses import dataclass, replace

import numpy as np

from tasks.io.splits import consecutive, hold_out
from tasks.task import BuildRequest, RawDataset
from tasks.text import TEXT, read_reviews, to_dataset


@dataclass(frozen=True)
class TextMiniConfig:
    """Sizes of the splits that are chosen; the other training reviews are trained on."""

    validation: int = 1_000
    """Of the 25,000 training reviews."""
    test: int = 4_000
    """Of the 25,000 test reviews."""


def build(request: BuildRequest) -> RawDataset:
    """Builds the task from a folder, an archive or a TFDS copy of IMDb's reviews. Raises `DataError`."""
    reviews, rules = read_reviews(request), request.rules
    train, validation = hold_out(reviews.labels["train"], rules.validation / len(reviews.labels["train"]), request.seed)
    _, test = hold_out(reviews.labels["test"], rules.test / len(reviews.labels["test"]), request.seed)
    parts = [("train", train), ("train", validation), ("test", test)]
    texts = [reviews.texts[split][i][-request.length :] for split, rows in parts for i in rows]
    labels = np.concatenate([reviews.labels[split][rows] for split, rows in parts])
    return to_dataset(reviews, texts, consecutive(labels, [len(rows) for _, rows in parts]), request)


TEXT_MINI = replace(
    TEXT,
    name="text_mini",
    length=512,
    build=build,
    rules=TextMiniConfig(),
    counts=(24_000, 1_000, 4_000),
    summary="the mini arena's: the last 512 bytes of IMDb reviews: liked or not",
    stands_for="text",
)
