"""Options of a run, and the description of one cell that a worker process is given. Nothing here changes a result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where the tasks' data come from and how they are prepared (see `tasks.io.cache.prepare`)."""

    source: str = "auto"
    source_dir: Path | None = None
    allow_unverified: bool = False
    workers: int = 1


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How the cells of a run are run: folders, device, limits and logging."""

    results: Path
    data: Path
    """Folder of the data cache; compiled programs are cached there too."""
    sources: DataOptions | None = None
    """Where the data come from; None: cells are measured on random tokens."""
    limits: Mapping[str, Any] = field(default_factory=dict)
    """Limits of a measurement, as records hold them: `memory_limit_bytes`, `max_batch`."""
    device: str = "auto"
    devices: int = 1
    """Devices that share each batch, in each process."""
    vmap_seeds: str = "auto"
    """Whether seeds of one cell train as one program: 'on', 'off', or 'auto' by `expand.group_seeds`."""
    stream: str = "auto"
    checkpoint_minutes: float = 5.0
    max_minutes: float | None = None
    """Minutes of training after which a cell saves and ends as 'interrupted'."""
    deadline: float | None = None
    """When the whole run ends, by `time.monotonic`: running cells save, and no more are started."""
    turns: Path | None = None
    """Folder through which concurrent measurements take turns (`lra.train.turns`); None if one runs at a time."""
    timeout_minutes: float | None = None
    """Minutes after which a worker is killed and its cell recorded as 'timeout'."""
    stall_minutes: float | None = None
    """Minutes without progress after which a worker is killed and its cell recorded as 'timeout'."""
    profile: bool = False
    fresh: bool = False
    """Cells start anew: their checkpoints are deleted."""
    repeat: bool = False
    """Cells run even if they have a final record."""
    tensorboard: bool = False
    wandb: str | None = None
    """Weights & Biases project to log to."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """The `provenance.current_origin()` of the process the user started; empty: of this process."""

    @property
    def reruns_finished(self) -> bool:
        """Whether finished cells run too."""
        return self.fresh or self.repeat


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a worker trains its cell. Only rounding can differ: that of sums over devices."""

    devices: int = 1
    """Devices of each process that share each batch."""
    stream: str = "auto"
    """'on' streams batches from the host, 'off' keeps the data on the device, 'auto' where they fit."""
    checkpoints: str | None = None
    """Folder of the checkpoints; None: none are written."""
    checkpoint_key: str = ""
    checkpoint_minutes: float = 5.0
    max_minutes: float | None = None
    profile: str | None = None
    """Folder for a trace of the second chunk of steps."""
    fresh: bool = False
    """Delete the checkpoints first."""
    tensorboard: str | None = None
    """Folder for event files."""
    wandb: tuple[str, str, str] | None = None
    """Weights & Biases project, run name and folder."""


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """The processes that train one cell together, and which of them a worker is."""

    address: str
    """host:port where process 0 listens."""
    processes: int
    process: int
    devices: int
    """Devices of each process."""


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """One cell as its worker process reads it, as one line of JSON on standard input."""

    started: float
    """When the worker was started, in seconds since the epoch."""
    record: dict[str, Any]
    """The record so far (`provenance.initial_record`)."""
    entry: str | None
    """The data's folder in the cache; None: measure on random tokens."""
    path: str
    """Where the record is written."""
    compilation_cache: str
    train: TrainOptions
    turns: str | None = None
    group: ProcessGroup | None = None

    def to_json(self) -> dict[str, Any]:
        """The spec as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> WorkerSpec:
        """The spec that `to_json` was made of."""
        train, group = dict(values["train"]), values["group"]
        train["wandb"] = train["wandb"] and tuple(train["wandb"])
        parts = {"train": TrainOptions(**train), "group": group and ProcessGroup(**group)}
        return cls(**{**values, **parts})
