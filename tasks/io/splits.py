"""Orders and held-out splits that depend on the data and the seed alone, not on how a copy is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from tasks.task import SPLITS, DataError, Split


def digest(content: bytes) -> bytes:
    """16 bytes that stand for the content."""
    return hashlib.blake2b(content, digest_size=16).digest()


def canonical_order(digests: Sequence[bytes], labels: np.ndarray) -> np.ndarray:
    """An order int64 [N] of examples by content: the same whatever order they were read in."""
    order = sorted(range(len(digests)), key=lambda i: (digests[i], labels[i]))
    return np.array(order, np.int64)


def hold_out(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows kept and rows held out, both ascending: round(fraction · N) are held out, each class in its share.

    Raises:
        DataError: one of the two would be empty.
    """
    total = round(fraction * len(labels))
    if not 0 < total < len(labels):
        raise DataError(f"cannot hold {fraction} of {len(labels)} examples out for validation")
    classes, counts = np.unique(labels, return_counts=True)
    share = counts * total / len(labels)
    take = np.floor(share).astype(int)
    short = np.argsort(take - share, kind="stable")[: total - take.sum()]
    take[short] += 1
    rng = np.random.default_rng([seed, 0x5B117])  # a stream of its own: not the generators' of the same seed
    held = np.zeros(len(labels), bool)
    for label, count in zip(classes, take, strict=True):
        held[rng.permutation(np.flatnonzero(labels == label))[:count]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def check_counts(
    labels: Mapping[str, np.ndarray], counts: Mapping[str, int], allow_unverified: bool, name: str
) -> list[str]:
    """A note where a copy has other numbers of examples than were published, or unequal classes.

    Raises:
        DataError: it differs, and `allow_unverified` is not given.
    """
    found = {split: len(values) for split, values in labels.items()}
    if found != dict(counts):
        line = f"{name} has {_format_counts(counts)} examples and this copy {_format_counts(found)}"
    elif any(len(set(np.bincount(values))) > 1 for values in labels.values()):
        line = f"{name} has equally many examples of each class and this copy has not"
    else:
        return []
    if not allow_unverified:
        raise DataError(f"{line}: fetch it again, or take this copy with --allow_unverified")
    return [line]


def _format_counts(counts: Mapping[str, int]) -> str:
    return " and ".join(f"{count:,} {split}" for split, count in counts.items())


def consecutive(labels: np.ndarray, counts: Sequence[int]) -> dict[str, Split]:
    """Splits of a table whose rows are the examples: the first `counts[0]` are train, and so on."""
    index = np.arange(len(labels), dtype=np.int32)[:, None]
    cuts = np.cumsum([0, *counts])
    return {s: Split(index[a:b], labels[a:b]) for s, a, b in zip(SPLITS, cuts, cuts[1:], strict=False)}
