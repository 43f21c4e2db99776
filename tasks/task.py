"""The contract every task keeps: what a task says of itself, and the arrays it gives.

A task is arrays. It knows nothing of models, training or records, and imports neither JAX nor
TensorFlow (a source that needs TensorFlow imports it when it is read).

Notation: M documents in the table, N examples in a split, L the length, P = 1 or 2 documents an example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

SPLITS = ("train", "validation", "test")


class DataError(Exception):
    """Data that is missing, damaged or not what it claims to be. One line that says what to do."""


class SourceNotFound(DataError):
    """A place that holds nothing of the task: the next source may have it."""


@dataclass(frozen=True)
class Split:
    """One split: which rows of the table make each example, and its class."""

    index: np.ndarray
    """Rows of the table, int32 [N, P]."""
    labels: np.ndarray
    """Classes, uint8 [N]."""


@dataclass(frozen=True)
class RawDataset:
    """What a task's `build` returns: the table of documents and the splits that point into it.

    Every document is stored once, as raw values 0 … vocab − 2 in the smallest integer type. The token id
    is value + 1 within the document's length and 0 (padding) after it, so that padding can never be
    mistaken for a black pixel or a zero byte, and bytes and pixels still fit in uint8.
    """

    values: np.ndarray
    """uint8 [M, L]; what lies beyond a document's length is 0 and carries no meaning.

    May be mapped from a file (`tasks.io.npy_writer`): Path-X is 3.3 GB.
    """
    lengths: np.ndarray
    """int32 [M], at most L."""
    splits: dict[str, Split]
    source: str
    """Where the bytes came from, for people: 'generated (seed 0)', 'tfds imdb_reviews 1.0.0'."""
    notes: tuple[str, ...] = ()
    """What a user should know of this copy: examples cut, skipped or dropped."""

    def majority(self, split: str = "test") -> float:
        """Accuracy of always answering the split's most frequent class."""
        labels = self.splits[split].labels
        return float(np.bincount(labels).max() / len(labels))


@dataclass(frozen=True)
class Dataset(RawDataset):
    """A task's arrays as loaded from the cache, with what identifies them."""

    fingerprint: str = ""
    """sha-256 over the contents and the settings that made them (hexadecimal)."""
    vocab: int = 0
    """Token ids are 0 … vocab − 1; 0 is padding and nothing else is."""
    classes: int = 0

    def tokens(self, rows: np.ndarray) -> np.ndarray:
        """Token ids int32 [..., L] of the table's `rows`; 0 beyond each document's length."""
        inside = np.arange(self.values.shape[1]) < self.lengths[rows][..., None]
        return np.where(inside, self.values[rows].astype(np.int32) + 1, 0)


@dataclass(frozen=True)
class BuildRequest:
    """One call for data, handed to a task's `build`."""

    length: int
    """Documents are cut or padded to this many tokens."""
    seed: int
    """Seeds generators and held-out splits; training seeds have no part in it."""
    source: str
    """'generate', or the path of a folder or archive ('auto' and 'tfds' have been resolved by then)."""
    rules: Any
    """The task's frozen dataclass of settings."""
    workers: int
    """Processes that may be used. Never changes a result."""
    report: Callable[[str], None]
    """Takes a line on how far the work is."""
    scratch: Path | None = None
    """Where large arrays are written as they grow and archives are unpacked; None is the system's place."""
    allow_unverified: bool = False
    """Take data that is not what was published (a checksum, a count, an encoding differs), and note it."""


@dataclass(frozen=True)
class Archive:
    """A file that can be downloaded: where it lives and what it has to be."""

    url: str
    size: int = 0
    """Bytes; 0 where nobody has published it."""
    sha256: str = ""
    """Empty where nobody has published one."""
    unpacked: str = ""
    """What it unpacks to, for people."""

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


SourceKind = Literal["generate", "tfds", "folder"]


@dataclass(frozen=True)
class Task:
    """A task of the benchmark.

    `build(request)` makes the arrays; `inputs(path)` names the files a folder source would be read from
    (their sizes and times are part of the cache's key), and raises `Absent` where the place holds nothing of
    this task, another `DataError` where it holds a part of it. Which source `auto` takes: `tasks.io.sources`.
    """

    name: str
    version: str
    """Raised whenever the same settings would give other arrays. Two versions' records are never averaged."""
    vocab: int
    classes: int
    length: int
    """The benchmark's own length."""
    chance: float
    """Accuracy of guessing, as the field quotes it; the majority class of a test split is measured apart."""
    build: Callable[[BuildRequest], RawDataset]
    rules: Any
    sources: tuple[SourceKind, ...]
    inputs: Callable[[Path], list[Path]] | None = None
    archive: Archive | None = None
    """The download that holds the task."""
    tfds: str = ""
    """Name (and configuration) in TensorFlow Datasets, as its folder has it: 'imdb_reviews/plain_text'."""
    pair: bool = False
    summary: str = ""
    shape: tuple[int, ...] = field(default=())
    """How a picture's pixels are laid out; empty for text."""
    names: tuple[str, ...] = ()
    """What the classes mean, for people."""
    alphabet: tuple[str, ...] = ()
    """What the values mean, for people; empty for bytes and pixels."""
