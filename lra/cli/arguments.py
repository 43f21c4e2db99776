"""The options of each verb, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lra.grid.spec import DataOptions, RunOptions
from lra.grid.sweep import Sweep
from lra.report.selection import ALL, Selection
from lra.results.external import Report
from tasks.io.export import Format


@dataclass(frozen=True)
class GridArguments:
    """The requested grid. Empty tuples mean the protocol's defaults."""

    protocol: str
    tasks: tuple[str, ...]
    models: tuple[str, ...]
    lengths: tuple[int, ...]
    seeds: tuple[int, ...]
    settings: tuple[str, ...]
    sweep: Sweep | None = None


@dataclass(frozen=True)
class RunArguments:
    """Options of `run`."""

    grid: GridArguments
    options: RunOptions
    out: Path
    dry_run: bool
    launcher: str
    jobs: int | None
    ray_address: str | None
    slurm: tuple[str, ...]
    coordinator: str | None
    processes: int | None
    process: int | None
    wait_minutes: float
    given: tuple[tuple[str, str], ...]
    """(name, argument) of each flag on the command line."""


@dataclass(frozen=True)
class BenchArguments:
    """Options of `bench`."""

    grid: GridArguments
    options: RunOptions
    out: Path
    jobs: int
    given: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PrepareArguments:
    """Options of `prepare`."""

    grid: GridArguments
    data: Path
    sources: DataOptions
    preview: Path | None
    export: Path | None = None
    export_format: Format = "npy"


@dataclass(frozen=True)
class SubmitArguments:
    """Options of `submit`."""

    task: str
    length: int | None
    settings: tuple[str, ...]
    data: Path
    sources: DataOptions
    results: Path
    predictions: Path
    fingerprint: str
    report: Report | None
    """None: a template is asked for, and there are no predictions."""
    replace: bool
    out: Path


@dataclass(frozen=True)
class RetryArguments:
    """Options of `retry`."""

    results: Path
    statuses: tuple[str, ...]


@dataclass(frozen=True)
class ListArguments:
    """Options of `list`."""

    data: Path
    details: bool


@dataclass(frozen=True)
class ReportArguments:
    """Options of `leaderboard`, `show` and `compare`: folders and archives of records, and which records count."""

    folders: tuple[Path, ...]
    selection: Selection = ALL
    out: Path = Path("leaderboard")
    plots: bool = True


@dataclass(frozen=True)
class CalibrateArguments:
    """Options of `calibrate`."""

    folders: tuple[Path, ...]
    protocol: str
    out: Path


@dataclass(frozen=True)
class PackArguments:
    """Options of `pack`."""

    folders: tuple[Path, ...]
    selection: Selection
    out: Path
