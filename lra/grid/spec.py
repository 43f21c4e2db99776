"""Options of a run, and the specification of one cell for its worker process. No option here changes a result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where the tasks' data comes from and how it is prepared (see `tasks.io.cache.prepare`)."""

    source: str = "auto"
    source_dir: Path | None = None
    allow_unverified: bool = False
    workers: int = 1


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run executes its cells: folders, device, limits and logging."""

    results: Path
    data: Path
    """Folder of the data cache and of the compilation cache."""
    sources: DataOptions | None = None
    """Where the data comes from; None: cells are measured on random tokens."""
    limits: Mapping[str, Any] = field(default_factory=dict)
    """Limits of a measurement, as fields of its record: `memory_limit_bytes`, `max_batch`."""
    device: str = "auto"
    devices: int = 1
    """Devices per process that share each batch."""
    vmap_seeds: str = "auto"
    """Whether the seeds of a cell train as one program: 'on', 'off' or 'auto' (see `expand.group_seeds`)."""
    stream: str = "auto"
    checkpoint_minutes: float = 5.0
    max_minutes: float | None = None
    """Minutes of training after which a cell saves and ends as 'interrupted'."""
    deadline: float | None = None
    """When the whole run ends, in `time.monotonic` seconds: running cells save, and no more start."""
    turns: Path | None = None
    """Lock folder by which concurrent measurements take turns (`lra.train.turns`); None if one runs at a time."""
    timeout_minutes: float | None = None
    """Minutes after which a worker is killed and its cell recorded as 'timeout'."""
    stall_minutes: float | None = None
    """Minutes without progress after which a worker is killed and its cell recorded as 'timeout'."""
    profile: bool = False
    reach: bool = False
    """Measure how far each trained model looks (`lra.train.reach`)."""
    pairs: bool = False
    """Measure which pairs of tokens it joins, too (`lra.train.pairs`)."""
    fresh: bool = False
    """Train from the first step: checkpoints are deleted."""
    repeat: bool = False
    """Run cells even if they have a final record."""
    tensorboard: bool = False
    wandb: str | None = None
    """Weights & Biases project to log to."""
    busy: bool = False
    """Whether the machine does other work too, so that speeds say little."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """`provenance.current_origin()` of the process that the user started; empty: of this process."""

    @property
    def reruns_finished(self) -> bool:
        """Whether finished cells run again."""
        return self.fresh or self.repeat


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a worker trains its cell. Results can differ only by the rounding of sums over devices."""

    devices: int = 1
    """Devices per process that share each batch."""
    stream: str = "auto"
    """'on' streams batches from the host, 'off' keeps the data on the device, 'auto' streams data that does not fit."""
    checkpoints: str | None = None
    """Folder of the checkpoints; None: none are written."""
    checkpoint_key: str = ""
    checkpoint_minutes: float = 5.0
    max_minutes: float | None = None
    profile: str | None = None
    """Folder for a JAX trace of the second chunk of steps."""
    reach: bool = False
    """Measure how far the trained model looks."""
    pairs: bool = False
    """Measure which pairs of tokens it joins, too."""
    row: int = 0
    """Tokens of a picture's row; 0 for text."""
    test: bool = True
    """Score the test split at the end; else the last checkpoint stays, from which another call goes on to the test."""
    fresh: bool = False
    """Delete existing checkpoints first."""
    tensorboard: str | None = None
    """Folder for event files."""
    wandb: tuple[str, str, str] | None = None
    """Weights & Biases project, run name and folder."""


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """The processes that train one cell together, and a worker's place among them."""

    address: str
    """host:port on which process 0 listens."""
    processes: int
    process: int
    devices: int
    """Devices per process."""


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """One cell as its worker process reads it: one line of JSON on standard input."""

    started: float
    """When the worker was started, in seconds since the epoch."""
    record: dict[str, Any]
    """The record so far (`provenance.initial_record`)."""
    entry: str | None
    """Folder of the data in the cache; None: measure on random tokens."""
    path: str
    """File to write the record to."""
    compilation_cache: str
    """Folder of compiled programs, with a folder for each kind of CPU."""
    train: TrainOptions
    turns: str | None = None
    group: ProcessGroup | None = None

    def to_json(self) -> dict[str, Any]:
        """The spec as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> WorkerSpec:
        """The inverse of `to_json`."""
        train, group = dict(values["train"]), values["group"]
        train["wandb"] = train["wandb"] and tuple(train["wandb"])
        parts = {"train": TrainOptions(**train), "group": group and ProcessGroup(**group)}
        return cls(**{**values, **parts})
