"""The command line's flags, and the frozen options that each verb gets instead of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from absl import flags

from lra.errors import UsageError
from lra.grid.spec import DataOptions, RunOptions

_STARTED = time.monotonic()
_TRACKERS = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""Flags and the packages they need."""


@dataclass(frozen=True)
class GridArguments:
    """The grid that the user names. Empty tuples stand for the protocol's own."""

    protocol: str
    tasks: tuple[str, ...]
    models: tuple[str, ...]
    lengths: tuple[int, ...]
    seeds: tuple[int, ...]
    settings: tuple[str, ...]


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
    """(flag, argument) of every flag on the command line."""


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
    """Options of `leaderboard`, `show` and `compare`: folders of records and which records count."""

    folders: tuple[Path, ...]
    tasks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    accelerator: str = ""
    metric: str = "test_best"
    sort: str = "average"
    out: Path = Path("leaderboard")
    plots: bool = True


def parse(define: Callable[[flags.FlagValues], None], program: str, arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """The flags that `define` defines with the values in `arguments`, and the arguments that are no flags."""
    f = flags.FlagValues()
    define(f)
    positional = f([program, *arguments])[1:]
    return f, positional


def help_text(define: Callable[[flags.FlagValues], None]) -> str:
    """The flags with their defaults, for `--help`."""
    f = flags.FlagValues()
    define(f)
    return str(f.get_help())


def define_run(f: flags.FlagValues) -> None:
    """Flags of `run`."""
    _define_grid(f)
    _define_data(f)
    _define_output(f)
    flags.DEFINE_list("seeds", [], "Training seeds; empty: the protocol's own.", flag_values=f)
    _define_device(f)
    flags.DEFINE_bool("dry_run", False, "Only print the cells and their cost in steps.", flag_values=f)
    flags.DEFINE_bool("rerun", False, "Run finished cells again, from their first step.", flag_values=f)
    flags.DEFINE_enum(
        "precision", None, ["auto", "float32", "bfloat16"], "Type of activations; same as --set train.precision=….",
        flag_values=f,
    )  # fmt: skip
    flags.DEFINE_enum(
        "vmap_seeds", "auto", ["auto", "on", "off"],
        "Train a cell's seeds as one program; auto: on accelerators, where steps are small.", flag_values=f,
    )  # fmt: skip
    flags.DEFINE_enum(
        "stream", "auto", ["auto", "on", "off"],
        "Stream batches from the host; auto: where the data do not fit on the device.", flag_values=f,
    )  # fmt: skip
    _define_launchers(f)
    _define_limits(f)
    flags.DEFINE_bool("tensorboard", False, "Write event files while training.", flag_values=f)
    flags.DEFINE_string("wandb", None, "Weights & Biases project to log to while training.", flag_values=f)
    flags.DEFINE_bool("profile", False, "Write a JAX trace of one chunk of steps per cell.", flag_values=f)


def run_arguments(f: flags.FlagValues, repeat: bool = False) -> RunArguments:
    """The options of `run`; with `repeat` finished cells run too."""
    for flag, package in _TRACKERS.items():
        if f[flag].value and not f.dry_run and find_spec(package) is None:
            raise UsageError(f"--{flag} needs the package {package}: pip install {package}")
    options = RunOptions(
        results=Path(f.results), data=Path(f.data), sources=_sources(f), device=f.device, devices=f.devices,
        stream=f.stream, vmap_seeds=f.vmap_seeds, checkpoint_minutes=f.checkpoint_minutes, max_minutes=f.max_minutes,
        stall_minutes=f.stall_minutes, deadline=_deadline(f), profile=f.profile, fresh=f.rerun, repeat=repeat,
        tensorboard=f.tensorboard, wandb=f.wandb,
    )  # fmt: skip
    precision = [f"train.precision={f.precision}"] if f.precision else []
    return RunArguments(
        _grid(f, f.seeds, precision), options, Path(f.out), f.dry_run, f.launcher, f.jobs, f.ray_address,
        tuple(f.slurm), f.coordinator, f.processes, f.process, f.wait_minutes, _given(f),
    )  # fmt: skip


def define_bench(f: flags.FlagValues) -> None:
    """Flags of `bench`."""
    _define_grid(f)
    _define_output(f)
    flags.DEFINE_string("data", "data", "Folder of the compilation cache.", flag_values=f)
    _define_device(f, several=False)
    flags.DEFINE_bool("rerun", False, "Measure finished cells again.", flag_values=f)
    f.set_default("protocol", "efficiency_quick")
    flags.DEFINE_integer("batch", None, "Batch: short for --set train.batch.", 1, flag_values=f)
    flags.DEFINE_bool("max_batch", False, "Find the largest batch that fits, and measure at it.", flag_values=f)
    flags.DEFINE_float("memory_limit", None, "Most GiB a program may plan: more is `oom`.", flag_values=f)
    flags.DEFINE_float("timeout", 10.0, "Minutes after which a cell is stopped: `timeout`.", flag_values=f)
    flags.DEFINE_integer(
        "jobs", 1, "Cells that are made ready and compiled at once; they are timed one by one, alone.", 1, flag_values=f
    )
    _define_total(f)


def bench_arguments(f: flags.FlagValues, repeat: bool = False) -> BenchArguments:
    """The options of `bench`; with `repeat` finished cells are measured too."""
    for name in ("timeout", "memory_limit"):
        if f[name].value is not None and not 0 < f[name].value < 1e8:
            raise UsageError(f"--{name}={f[name].value:g} is not above 0 and below 100,000,000")
    limits: dict[str, Any] = {"memory_limit_bytes": int(f.memory_limit * 2**30)} if f.memory_limit else {}
    limits |= {"max_batch": True} if f.max_batch else {}
    results = Path(f.results)
    options = RunOptions(
        results=results, data=Path(f.data), device=f.device, limits=limits,
        timeout_minutes=f.timeout, deadline=_deadline(f), fresh=f.rerun, repeat=repeat,
        turns=results / "turns" if f.jobs > 1 else None,
    )  # fmt: skip
    batch = [f"train.batch={f.batch}"] if f.batch else []
    return BenchArguments(_grid(f, ["0"], batch), options, Path(f.out), f.jobs, _given(f))


def define_prepare(f: flags.FlagValues) -> None:
    """Flags of `prepare`."""
    _define_grid(f)
    _define_data(f)
    flags.DEFINE_string("preview", None, "Folder for a page of samples of each task (PNG).", flag_values=f)


def prepare_arguments(f: flags.FlagValues) -> PrepareArguments:
    """The options of `prepare`."""
    return PrepareArguments(_grid(f, ["0"]), Path(f.data), _sources(f), Path(f.preview) if f.preview else None)


def define_list(f: flags.FlagValues) -> None:
    """Flags of `list`."""
    flags.DEFINE_bool("details", False, "tasks: what is prepared. models: papers, costs, options.", flag_values=f)
    flags.DEFINE_string("data", "data", "Folder of the data cache.", flag_values=f)


def list_arguments(f: flags.FlagValues) -> ListArguments:
    """The options of `list`."""
    return ListArguments(Path(f.data), f.details)


def define_status(f: flags.FlagValues) -> None:
    """Flags of `status`."""
    flags.DEFINE_string("results", "results", "Folder of the records.", flag_values=f)


def status_arguments(f: flags.FlagValues) -> Path:
    """The results folder."""
    return Path(f.results)


_RETRY = {
    "failed": "Cells that failed.",
    "timeout": "Cells that were stopped for taking too long.",
    "oom": "Cells that ran out of memory.",
    "diverged": "Cells whose loss was no number.",
    "interrupted": "Cells that were stopped and have saved.",
}


def define_retry(f: flags.FlagValues) -> None:
    """Flags of `retry`."""
    define_status(f)
    for name, text in _RETRY.items():
        flags.DEFINE_bool(name, False, text, flag_values=f)


def retry_arguments(f: flags.FlagValues) -> RetryArguments:
    """The options of `retry`."""
    statuses = tuple(name for name in _RETRY if f[name].value)
    if not statuses:
        raise UsageError(f"retry takes one or more of {', '.join(f'--{name}' for name in _RETRY)}")
    return RetryArguments(Path(f.results), statuses)


def define_show(f: flags.FlagValues) -> None:
    """Flags of `show`."""
    flags.DEFINE_list("results", ["results"], "Folders of records; several are merged.", flag_values=f)


def define_compare(f: flags.FlagValues) -> None:
    """Flags of `compare`."""
    from lra.report.selection import METRICS

    define_show(f)
    flags.DEFINE_list("tasks", [], "Only these tasks.", flag_values=f)
    flags.DEFINE_list("protocol", [], "Only these protocols.", flag_values=f)
    flags.DEFINE_string("accelerator", "", "Only accelerators whose name contains this.", flag_values=f)
    flags.DEFINE_enum("metric", "test_best", list(METRICS), "Which accuracy.", flag_values=f)


def define_leaderboard(f: flags.FlagValues) -> None:
    """Flags of `leaderboard`."""
    define_compare(f)
    flags.DEFINE_list("models", [], "Only these models; without options: with any.", flag_values=f)
    flags.DEFINE_string("sort", "average", "Order: average, model, parameters, a task or task@length.", flag_values=f)
    flags.DEFINE_string("out", "leaderboard", "Folder of the tables, the page and the figures.", flag_values=f)
    flags.DEFINE_bool("plots", True, "Draw the figures too (PNG, SVG and PDF).", flag_values=f)


def show_arguments(f: flags.FlagValues) -> ReportArguments:
    """The options of `show`."""
    return ReportArguments(_folders(f))


def compare_arguments(f: flags.FlagValues) -> ReportArguments:
    """The options of `compare`."""
    return ReportArguments(
        _folders(f), tasks=tuple(f.tasks), protocols=tuple(f.protocol), accelerator=f.accelerator, metric=f.metric
    )


def leaderboard_arguments(f: flags.FlagValues) -> ReportArguments:
    """The options of `leaderboard`."""
    return ReportArguments(
        _folders(f), tuple(f.tasks), tuple(f.models), tuple(f.protocol), f.accelerator, f.metric, f.sort,
        Path(f.out), f.plots,
    )  # fmt: skip


def _folders(f: flags.FlagValues) -> tuple[Path, ...]:
    return tuple(Path(name) for name in f.results)


def _define_grid(f: flags.FlagValues) -> None:
    flags.DEFINE_list("tasks", [], "Tasks, or all; empty: the protocol's own.", flag_values=f)
    flags.DEFINE_list("models", [], "Models, or all; empty: the protocol's own.", flag_values=f)
    flags.DEFINE_list("lengths", [], "Sequence lengths in tokens; empty: each task's own.", flag_values=f)
    flags.DEFINE_string("protocol", "quick", "How cells are run: see `list protocols`.", flag_values=f)
    flags.DEFINE_multi_string("set", [], "A recipe's field: --set optimizer.learning_rate=0.01", flag_values=f)


def _grid(f: flags.FlagValues, seeds: Iterable[str], settings: Sequence[str] = ()) -> GridArguments:
    return GridArguments(
        f.protocol, tuple(f.tasks), tuple(f.models), _integers("lengths", f.lengths), _integers("seeds", seeds),
        (*f["set"].value, *settings),
    )  # fmt: skip


def _integers(name: str, words: Iterable[str]) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in words)
    except ValueError:
        raise UsageError(f"--{name} takes whole numbers, not '{','.join(words)}'") from None


def _define_data(f: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "source",
        "auto",
        "Where data comes from: auto, generate, tfds, download, or a folder or archive.",
        flag_values=f,
    )
    flags.DEFINE_string("source_dir", None, "Folder of data of yours that auto and tfds look into.", flag_values=f)
    flags.DEFINE_bool("allow_unverified", False, "Take copies whose checksum is not the published one.", flag_values=f)
    flags.DEFINE_string("data", "data", "Folder of the data cache.", flag_values=f)
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Processes that prepare data.", 1, flag_values=f)


def _sources(f: flags.FlagValues) -> DataOptions:
    return DataOptions(
        source=f.source,
        source_dir=Path(f.source_dir).resolve() if f.source_dir else None,
        allow_unverified=f.allow_unverified,
        workers=f.workers,
    )


def _define_output(f: flags.FlagValues) -> None:
    flags.DEFINE_string("results", "results", "Folder of the records.", flag_values=f)
    flags.DEFINE_string("out", "leaderboard", "Folder of the tables.", flag_values=f)


def _define_device(f: flags.FlagValues, several: bool = True) -> None:
    flags.DEFINE_enum("device", "auto", ["auto", "cpu", "gpu", "tpu"], "What cells run on.", flag_values=f)
    if several:
        flags.DEFINE_integer("devices", 1, "Local devices that share each cell's batch.", 1, flag_values=f)


def _define_launchers(f: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0, where several hosts train each cell together.", flag_values=f
    )
    flags.DEFINE_integer("processes", None, "How many processes do; empty: as Slurm says.", 1, flag_values=f)
    flags.DEFINE_integer("process", None, "Which of them this is, from 0; empty: as Slurm says.", 0, flag_values=f)
    flags.DEFINE_float("wait_minutes", 10.0, "Minutes to wait for the other processes.", 0.0, flag_values=f)
    flags.DEFINE_enum("launcher", "local", ["local", "slurm", "ray"], "What starts cells.", flag_values=f)
    flags.DEFINE_string("ray_address", None, "A Ray cluster; empty: one on this machine alone.", flag_values=f)
    flags.DEFINE_multi_string("slurm", [], "submitit's parameter: --slurm slurm_partition=gpu", flag_values=f)
    flags.DEFINE_integer(
        "jobs", None, "Cells at once; empty: one for each (--devices) GPUs. On a CPU they share its cores; more cells "
        "than GPUs share these, which spoils their speeds and nothing else.", 1,
        flag_values=f,
    )  # fmt: skip


def _define_limits(f: flags.FlagValues) -> None:
    flags.DEFINE_float("checkpoint_minutes", 5.0, "Minutes between checkpoints.", 0.0, flag_values=f)
    flags.DEFINE_float(
        "max_minutes", None, "Minutes after which a cell saves and stops; the next run goes on.", 0.0, flag_values=f
    )
    _define_total(f)
    flags.DEFINE_float(
        "stall_minutes", None, "Minutes without progress after which a cell is stopped: `timeout`.", 0.0, flag_values=f
    )


def _define_total(f: flags.FlagValues) -> None:
    flags.DEFINE_float(
        "total_minutes", None, "Minutes after which the run ends: cells save, the next run goes on.", 0.0, flag_values=f
    )


def _deadline(f: flags.FlagValues) -> float | None:
    """When the run ends, by `time.monotonic`."""
    return None if f.total_minutes is None else _STARTED + 60 * f.total_minutes


def _given(f: flags.FlagValues) -> tuple[tuple[str, str], ...]:
    return tuple((name, argument) for name in f if f[name].present for argument in f[name].serialize().splitlines())
