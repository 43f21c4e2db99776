"""Flags of `run` and `bench`, and the frozen options that they become: flag values go no further."""

from __future__ import annotations

import dataclasses
import time
from importlib.util import find_spec
from typing import Any

from absl import flags

from lra.cli.arguments import BenchArguments, RunArguments
from lra.cli.parsing import path
from lra.cli.shared_flags import define_data, define_grid, define_output, grid_of, sources_of
from lra.errors import UsageError
from lra.grid import sweep
from lra.grid.spec import RunOptions

_STARTED = time.monotonic()
_TRACKERS = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""Flags, and the packages that they need."""


def define_run(values: flags.FlagValues) -> None:
    """Flags of `run`."""
    define_grid(values)
    define_data(values)
    define_output(values)
    flags.DEFINE_list("seeds", [], "Training seeds; empty: the protocol's.", flag_values=values)
    _define_sweep(values)
    _define_device(values)
    flags.DEFINE_bool("dry_run", False, "Print the cells and their cost in steps, and stop.", flag_values=values)
    flags.DEFINE_bool("rerun", False, "Run finished cells again, from the first step.", flag_values=values)
    flags.DEFINE_enum(
        "precision", None, ["auto", "float32", "bfloat16"], "Type of activations; short for --set train.precision.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum(
        "vmap_seeds", "auto", ["auto", "on", "off"],
        "Train the seeds of a cell as one program; auto: on accelerators, if steps are small.", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum(
        "stream", "auto", ["auto", "on", "off"],
        "Stream batches from the host; auto: if the data does not fit on the device.", flag_values=values,
    )  # fmt: skip
    _define_launchers(values)
    _define_limits(values)
    flags.DEFINE_bool("tensorboard", False, "Write TensorBoard event files.", flag_values=values)
    flags.DEFINE_string("wandb", None, "Weights & Biases project to log to.", flag_values=values)
    flags.DEFINE_bool("reach", True, "Measure how far each trained model looks, after its test.", flag_values=values)
    flags.DEFINE_bool("pairs", False, "Measure which pairs of tokens it joins, too.", flag_values=values)
    flags.DEFINE_bool("profile", False, "Write a JAX trace of one chunk of steps per cell.", flag_values=values)


def run_arguments(values: flags.FlagValues, repeat: bool = False) -> RunArguments:
    """The options of `run`; with `repeat`, finished cells run again."""
    for flag, package in _TRACKERS.items():
        if values[flag].value and not values.dry_run and find_spec(package) is None:
            raise UsageError(f"--{flag} needs the package {package}: pip install {package}")
    if values.pairs and not values.reach:
        raise UsageError("--pairs is measured together with --reach: leave out --noreach")
    options = RunOptions(
        results=path(values.results), data=path(values.data), sources=sources_of(values),
        device=values.device, devices=values.devices, stream=values.stream, vmap_seeds=values.vmap_seeds,
        checkpoint_minutes=values.checkpoint_minutes, max_minutes=values.max_minutes,
        stall_minutes=values.stall_minutes, deadline=_deadline(values), profile=values.profile, reach=values.reach,
        pairs=values.pairs,
        fresh=values.rerun, repeat=repeat, tensorboard=values.tensorboard, wandb=values.wandb, busy=values.busy,
    )  # fmt: skip
    precision = [f"train.precision={values.precision}"] if values.precision else []
    grid = grid_of(values, values.seeds, precision)
    grid = dataclasses.replace(grid, sweep=sweep.parse(values.sweep, values.trials, grid.settings))
    return RunArguments(
        grid, options, out=path(values.out), dry_run=values.dry_run,
        launcher=values.launcher, jobs=values.jobs, ray_address=values.ray_address, slurm=tuple(values.slurm),
        coordinator=values.coordinator, processes=values.processes, process=values.process,
        wait_minutes=values.wait_minutes, given=_given_flags(values),
    )  # fmt: skip


def _define_sweep(values: flags.FlagValues) -> None:
    flags.DEFINE_multi_string(
        "sweep", [], "Tune a field of the recipe on validation: --sweep optimizer.learning_rate=3e-4,1e-3, or a range, "
        "1e-4..1e-2 or 1e-4..1e-2:log, with --trials.", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "trials", None, "Trials of each model and task, drawn from --sweep; default: all its combinations.",
        flag_values=values,
    )  # fmt: skip


def define_bench(values: flags.FlagValues) -> None:
    """Flags of `bench`."""
    define_grid(values)
    define_output(values)
    flags.DEFINE_string("data", "data", "Folder of the compilation cache.", flag_values=values)
    _define_device(values, several=False)
    flags.DEFINE_bool("rerun", False, "Measure finished cells again.", flag_values=values)
    values.set_default("protocol", "efficiency_quick")
    flags.DEFINE_integer("batch", None, "Batch size; short for --set train.batch.", 1, flag_values=values)
    flags.DEFINE_bool("max_batch", False, "Find the largest batch that fits, and measure with it.", flag_values=values)
    flags.DEFINE_float(
        "memory_limit", None, "Memory limit in GiB: a program that needs more is `oom`.", flag_values=values
    )
    flags.DEFINE_float("timeout", 10.0, "Minutes after which a cell is stopped as `timeout`.", flag_values=values)
    flags.DEFINE_integer(
        "jobs", 1, "Cells to prepare and compile at once; they are timed one at a time.", 1, flag_values=values
    )
    _define_total_minutes(values)


def bench_arguments(values: flags.FlagValues, repeat: bool = False) -> BenchArguments:
    """The options of `bench`; with `repeat`, finished cells are measured again."""
    for name in ("timeout", "memory_limit"):
        if values[name].value is not None and not 0 < values[name].value < 1e8:
            raise UsageError(f"--{name}={values[name].value:g} is not above 0 and below 100,000,000")
    limits: dict[str, Any] = {"memory_limit_bytes": int(values.memory_limit * 2**30)} if values.memory_limit else {}
    limits |= {"max_batch": True} if values.max_batch else {}
    results = path(values.results)
    options = RunOptions(
        results=results, data=path(values.data), device=values.device, limits=limits,
        timeout_minutes=values.timeout, deadline=_deadline(values), fresh=values.rerun, repeat=repeat,
        turns=results / "turns" if values.jobs > 1 else None,
    )  # fmt: skip
    batch = [f"train.batch={values.batch}"] if values.batch else []
    return BenchArguments(grid_of(values, ["0"], batch), options, path(values.out), values.jobs, _given_flags(values))


def _define_device(values: flags.FlagValues, several: bool = True) -> None:
    flags.DEFINE_enum("device", "auto", ["auto", "cpu", "gpu", "tpu"], "Device that cells run on.", flag_values=values)
    if several:
        flags.DEFINE_integer("devices", 1, "Local devices that share each cell's batch.", 1, flag_values=values)


def _define_launchers(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0, to train each cell on several hosts.", flag_values=values
    )
    flags.DEFINE_integer("processes", None, "Total number of processes; default: from Slurm.", 1, flag_values=values)
    flags.DEFINE_integer("process", None, "Index of this process, from 0; default: from Slurm.", 0, flag_values=values)
    flags.DEFINE_float("wait_minutes", 10.0, "Minutes to wait for the other processes.", 0.0, flag_values=values)
    flags.DEFINE_enum("launcher", "local", ["local", "slurm", "ray"], "Where cells are started.", flag_values=values)
    flags.DEFINE_string(
        "ray_address", None, "Address of a Ray cluster; default: start one on this machine.", flag_values=values
    )
    flags.DEFINE_multi_string("slurm", [], "A submitit parameter: --slurm slurm_partition=gpu", flag_values=values)
    flags.DEFINE_integer(
        "jobs", None, "Cells to run at once; default: as many as GPUs (divided by --devices), or 1. More cells than "
        "GPUs, and cells on a CPU, share the hardware, which spoils only their speeds.", 1, flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool(
        "busy", False, "The machine does other work too: speeds are marked as of a shared device and shown nowhere.",
        flag_values=values,
    )  # fmt: skip


def _define_limits(values: flags.FlagValues) -> None:
    flags.DEFINE_float("checkpoint_minutes", 5.0, "Minutes between checkpoints.", 0.0, flag_values=values)
    flags.DEFINE_float(
        "max_minutes",
        None,
        "Minutes after which a cell saves and stops; the next run continues it.",
        0.0,
        flag_values=values,
    )
    _define_total_minutes(values)
    flags.DEFINE_float(
        "stall_minutes",
        None,
        "Minutes without progress after which a cell is stopped as `timeout`.",
        0.0,
        flag_values=values,
    )


def _define_total_minutes(values: flags.FlagValues) -> None:
    flags.DEFINE_float(
        "total_minutes",
        None,
        "Minutes after which the run saves its cells and ends; the next run continues.",
        0.0,
        flag_values=values,
    )


def _deadline(values: flags.FlagValues) -> float | None:
    """When the run ends, in `time.monotonic` seconds."""
    return None if values.total_minutes is None else _STARTED + 60 * values.total_minutes


def _given_flags(values: flags.FlagValues) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, argument)
        for name in values
        if values[name].present
        for argument in values[name].serialize().splitlines()
    )
