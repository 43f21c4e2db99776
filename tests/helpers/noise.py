"""A task of noise, which is prepared in a moment."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from tasks.io.cache import prepare
from tasks.io.npy_writer import Table
from tasks.io.splits import consecutive
from tasks.task import BuildRequest, RawDataset, Task


@dataclasses.dataclass(frozen=True)
class Rules:
    rows: int = 30
    mark: str = ""
    wait: float = 0.0


def build(request: BuildRequest) -> RawDataset:
    """A table of noise; leaves a mark each time it is made."""
    if request.rules.mark:
        with open(request.rules.mark, "a") as file:
            file.write("made\n")
    time.sleep(request.rules.wait)
    rng = np.random.default_rng(request.seed)
    with Table(request.scratch, request.length) as table:
        for _ in range(request.rules.rows):
            table.add(rng.integers(0, 9, (1, request.length), np.uint8))
    rows = request.rules.rows
    labels = (np.arange(rows) % 2).astype(np.uint8)
    splits = consecutive(labels, [rows - 2, 1, 1])
    return RawDataset(table.array(), np.full(rows, request.length, np.int32), splits, "noise", ("a note",))


def inputs(path: Path) -> list[Path]:
    return [path / "file"]


NOISE = Task("noise", "1", 10, 2, 16, 0.5, build, Rules(), ("generate", "folder"), inputs, names=("a", "b"))


def prepared(
    cache: Path, task: Task = NOISE, source: str = "generate", seed: int = 0, length: int = 16, **settings: Any
) -> Path:
    """The entry of the noise task."""
    return prepare(task, length, seed, source, cache=cache, **settings)
