"""Orders and held-out splits that depend on the data and the seed only, not on how a copy is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from tasks.task import SPLITS, DataError, Remarks, Split

_FEW = 0.01
"""Share of the test split that may be in train as well; of Text's, 0.5 % are."""


def content_digest(content: bytes) -> bytes:
    """BLAKE2b digest (16 bytes) that identifies a document by its content."""
    return hashlib.blake2b(content, digest_size=16).digest()


def canonical_order(digests: Sequence[bytes], labels: np.ndarray) -> np.ndarray:
    """The order int64 [N] that sorts examples by content, whatever order they were read in."""
    order = sorted(range(len(digests)), key=lambda i: (digests[i], labels[i]))
    return np.array(order, np.int64)


def hold_out(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows into kept and held out, stratified by class: round(fraction · N) are held out.

    Args:
        labels: classes [N].
        fraction: share of the examples to hold out.
        seed: seeds the choice.

    Returns:
        Rows kept and rows held out, both ascending.

    Raises:
        DataError: one of the two would be empty.
    """
    total = round(fraction * len(labels))
    if not 0 < total < len(labels):
        raise DataError(f"cannot hold {fraction} of {len(labels)} examples out for validation")
    classes, counts = np.unique(labels, return_counts=True)
    share = counts * total / len(labels)
    quota = np.floor(share).astype(int)
    rounded_up = np.argsort(quota - share, kind="stable")[: total - quota.sum()]
    quota[rounded_up] += 1
    rng = np.random.default_rng([seed, 0x5B117])  # not the stream of a generator with the same seed
    held = np.zeros(len(labels), bool)
    for label, count in zip(classes, quota, strict=True):
        held[rng.permutation(np.flatnonzero(labels == label))[:count]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def check_counts(labels: Mapping[str, np.ndarray], counts: Mapping[str, int], remarks: Remarks, name: str) -> None:
    """Checks that a copy has the published numbers of examples, and classes of equal size.

    Args:
        labels: classes of each split.
        counts: published number of examples of each split.
        remarks: accepts a copy that differs, or not.
        name: the data's name in messages.

    Raises:
        DataError: the copy differs, and the user does not accept that.
    """
    actual = {split: len(values) for split, values in labels.items()}
    if actual != dict(counts):
        remarks.accept(f"{name} has {_format_counts(counts)} examples and this copy {_format_counts(actual)}")
    elif any(len(set(np.bincount(values))) > 1 for values in labels.values()):
        remarks.accept(f"{name} has equally many examples of each class and this copy does not")


def _format_counts(counts: Mapping[str, int]) -> str:
    return " and ".join(f"{count:,} {split}" for split, count in counts.items())


def note_repeats(digests: Mapping[str, Sequence[bytes]], noun: str) -> list[str]:
    """A note on documents that occur more than once, and in several splits; none if all are distinct.

    Args:
        digests: `content_digest` of each document, by split.
        noun: the documents' name, in the plural.
    """
    total = sum(map(len, digests.values()))
    repeats = total - len({digest for part in digests.values() for digest in part})
    if not repeats:
        return []
    shared = _count_shared(digests)
    return [f"{repeats:,} of {total:,} {noun} are copies of another; {shared:,} of the test split are in another split"]


def check_repeats(digests: Mapping[str, Sequence[bytes]], remarks: Remarks, noun: str) -> None:
    """Notes repeats like `note_repeats`. Raises `DataError` if more of the test split are in train than are published.

    That is up to 1 %: more means that a part of the copy stands in the place of another.
    """
    remarks.notes += note_repeats(digests, noun)
    shared, total = _count_shared(digests), len(digests["test"])
    if shared > _FEW * total:
        remarks.accept(f"{shared:,} of the {total:,} {noun} of test are in train, too")


def _count_shared(digests: Mapping[str, Sequence[bytes]]) -> int:
    others = {digest for split, part in digests.items() if split != "test" for digest in part}
    return sum(digest in others for digest in digests["test"])


def consecutive(labels: np.ndarray, counts: Sequence[int], documents: int = 1) -> dict[str, Split]:
    """Splits a table of each example's documents in turn: the first `counts[0]` examples are train, and so on."""
    index = np.arange(documents * len(labels), dtype=np.int32).reshape(-1, documents)
    cuts = np.cumsum([0, *counts])
    return {s: Split(index[a:b], labels[a:b]) for s, a, b in zip(SPLITS, cuts, cuts[1:], strict=False)}
