"""The contract of a task: its description, and the arrays it builds.

A task knows nothing of models, training or records. A source that needs TensorFlow imports it only when it is read.

Notation: M documents in the table, N examples in a split, L the length, P = 1 or 2 documents per example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

SPLITS = ("train", "validation", "test")


class DataError(Exception):
    """Data is missing, damaged or not what it claims to be. The message is one line and says what to do."""


class SourceNotFound(DataError):
    """A folder holds none of the task's data; another source may."""


@dataclass(frozen=True)
class Split:
    """One split: for each example, its rows in the table and its class."""

    index: np.ndarray
    """Rows of the table, int32 [N, P]."""
    labels: np.ndarray
    """Classes, uint8 [N]."""


@dataclass
class Remarks:
    """What a reader has found out about a copy of real data."""

    allow_unverified: bool
    """Whether the user accepts a copy that differs from the published data."""
    notes: list[str] = field(default_factory=list)
    """For the user, as `RawDataset.notes`."""
    unverified: bool = False
    """Whether something was accepted only because the user allowed it."""

    def accept(self, problem: str) -> None:
        """Notes a difference from the published data. Raises `DataError` unless the user accepts such a copy."""
        if not self.allow_unverified:
            raise DataError(f"{problem}: fetch it again, or take this copy with --allow_unverified")
        self.unverified = True
        self.notes.append(problem)


@dataclass(frozen=True)
class RawDataset:
    """A task's data as its `build` returns them: the table of documents and the splits that point into it.

    Every document is stored once, as raw values 0 … vocab − 2 in the smallest integer type. The token id
    is value + 1 within the document's length and 0 (padding) after it, so that padding can never be
    mistaken for a black pixel or a zero byte, and bytes and pixels still fit in uint8.
    """

    values: np.ndarray
    """uint8 [M, L]; values beyond a document's length are 0 and carry no meaning.

    May be memory-mapped from a file (`tasks.io.npy_writer`): Path-X is 3.3 GB.
    """
    lengths: np.ndarray
    """int32 [M], at most L."""
    splits: dict[str, Split]
    source: str
    """Where the bytes came from, for display: 'generated (seed 0)', 'tfds imdb_reviews 1.0.0'."""
    notes: tuple[str, ...] = ()
    """Remarks on this copy for the user: examples cut, skipped or dropped."""
    unverified: bool = field(default=False, kw_only=True)
    """Whether the copy differs from the published data and was accepted with --allow_unverified."""

    def majority(self, split: str = "test") -> float:
        """Accuracy of always answering the split's most frequent class."""
        labels = self.splits[split].labels
        return float(np.bincount(labels).max() / len(labels))


@dataclass(frozen=True)
class Dataset(RawDataset):
    """A task's data as loaded from the cache, with their fingerprint and sizes."""

    fingerprint: str = ""
    """sha-256 over the contents and the settings that produced them (hexadecimal)."""
    vocab: int = 0
    """Token ids are 0 … vocab − 1; only 0 is padding."""
    classes: int = 0

    def tokens(self, rows: np.ndarray) -> np.ndarray:
        """Token ids int32 [..., L] of the table's `rows`; 0 beyond each document's length."""
        inside = np.arange(self.values.shape[1]) < self.lengths[rows][..., None]
        return np.where(inside, self.values[rows].astype(np.int32) + 1, 0)


@dataclass(frozen=True)
class BuildRequest:
    """The arguments of a task's `build`."""

    length: int
    """Documents are cut or padded to this many tokens."""
    seed: int
    """Seeds generators and held-out splits; independent of the training seeds."""
    source: str
    """'generate', or the path of a folder or archive ('auto' and 'tfds' have been resolved by then)."""
    rules: Any
    """The task's frozen dataclass of settings."""
    workers: int
    """Maximum number of processes. Never changes a result."""
    report: Callable[[str], None]
    """Receives one-line progress messages."""
    scratch: Path | None = None
    """Folder for growing arrays and unpacked archives; None means the system's temporary folder."""
    allow_unverified: bool = False
    """Accept data that differs from the published data (in checksum, counts or encoding), and note it."""


@dataclass(frozen=True)
class Archive:
    """A file to download, and how to verify it."""

    url: str
    size: int = 0
    """Bytes; 0 if not published."""
    sha256: str = ""
    """Empty if not published."""
    unpacked: str = ""
    """The folder it unpacks to, for messages."""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[-1]


SourceKind = Literal["generate", "tfds", "folder"]


@dataclass(frozen=True)
class Task:
    """A task of the benchmark.

    `build(request)` builds the arrays. `inputs(path)` lists the files that a folder source is read from (their sizes
    and times are part of the cache key); it raises `SourceNotFound` if `path` holds none of the task's data, and
    another `DataError` if it holds only part. `tasks.io.sources` says which source `auto` takes.
    """

    name: str
    version: str
    """Raised whenever the same settings would give other arrays. Records of different versions are never averaged."""
    vocab: int
    classes: int
    length: int
    """The benchmark's sequence length."""
    chance: float
    """Accuracy of guessing, as usually quoted; the accuracy of the majority class is measured from the data."""
    build: Callable[[BuildRequest], RawDataset]
    rules: Any
    sources: tuple[SourceKind, ...]
    inputs: Callable[[Path], list[Path]] | None = None
    archive: Archive | None = None
    """The download that contains the task."""
    counts: tuple[int, ...] = ()
    """Published numbers of examples: train, validation, test; empty if the task is ours alone. Where we hold
    validation data out of train, it is with the default settings."""
    tfds: str = ""
    """Name (and configuration) in TensorFlow Datasets, as in its folder's path: 'imdb_reviews/plain_text'."""
    pair: bool = False
    summary: str = ""
    shape: tuple[int, ...] = field(default=())
    """Height and width of a picture; empty for text."""
    names: tuple[str, ...] = ()
    """Names of the classes, for display."""
    alphabet: tuple[str, ...] = ()
    """Symbols of the values, for display; empty for bytes and pixels."""
    stands_for: str = ""
    """The task of the paper that this one is a small version of, whose published scores it is calibrated with."""
    distance: int = 0
    """Tokens that a model has to look across, at least; 0 where that is not known. Such a task measures range, and
    counts in no average (`lra.report.distance`)."""

    def compare_counts(self, counts: Mapping[str, int]) -> str:
        """A note on numbers of examples that are not the published ones; '' if they are, or none are published."""
        actual = tuple(counts.get(split, 0) for split in SPLITS)
        if not self.counts or actual == self.counts:
            return ""
        shown, published = (" / ".join(f"{count:,}" for count in each) for each in (actual, self.counts))
        return f"{shown} examples where the release has {published}"
