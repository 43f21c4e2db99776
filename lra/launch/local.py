"""Runs one cell as a worker process on this machine and ensures that it leaves a record."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import signal
import subprocess
import time
from pathlib import Path

from lra.grid.cell import Cell
from lra.grid.spec import RunOptions, TrainOptions, WorkerSpec
from lra.launch import max_batch
from lra.launch.multihost_leader import Leader, kill_soon
from lra.launch.process import (
    LeaseLost,
    Stopped,
    Watchdog,
    WorkerContext,
    environment,
    exit_reason,
    kill_tree,
    message_of,
)
from lra.launch.progress import CellProgress
from lra.results import records
from lra.results.folder import cannot_write, record_path
from lra.results.provenance import current_origin, initial_record
from lra.signals import STOP

_LEASE_PROGRESS = ("step", "steps_per_second", "seconds_left")
"""Metrics that are written into a running cell's lease, for other runs and `status`."""


_SECONDS_TO_STOP = 3.0


def run_cell(
    cell: Cell, number: str, options: RunOptions, context: WorkerContext, leader: Leader | None = None
) -> records.Record:
    """Runs one cell, prints its outcome, and returns its record.

    Args:
        number: position of the cell in the run, such as '3/12'.
        context: the lease, run and device that the cell's process belongs to.
        leader: leads the processes on other hosts that train the cell too; None: there are no others.

    Raises:
        UsageError: the results folder cannot be written: it is full or write-protected.
        Stopped: the run is stopping, and the cell had nothing to save.
        LeaseLost: another run has taken the cell over.
    """
    name = label(cell, number)
    try:
        if cell.limits.get("max_batch"):
            record = _search_max_batch(cell, options, context, name)
        else:
            record = _run_worker(cell, options, context, name, leader)
    except OSError as error:
        raise cannot_write(options.results, error) from None
    context.display.print_line(f"{name}: {summary(record)}")
    return record


def _search_max_batch(cell: Cell, options: RunOptions, context: WorkerContext, label: str) -> records.Record:
    def run(trial: Cell) -> records.Record:
        name = f"{label}, batch {trial.plan.recipe.train.batch:,}"
        return _run_worker(trial, dataclasses.replace(options, results=options.results / "trials"), context, name)

    record = max_batch.search(cell, run)
    records.write(record_path(options.results, cell), record)
    return record


def _run_worker(
    cell: Cell, options: RunOptions, context: WorkerContext, label: str, leader: Leader | None = None
) -> records.Record:
    """Runs a cell's worker to its end; returns the record that it wrote, or one that says why there is none."""
    spec, log = worker_spec(cell, options, context.sharing), options.results / "logs" / f"{cell.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    path, kills = Path(spec.path), _memory_kills()
    before, early_failure = records.stamp(path), ""
    with (
        CellProgress(context.display, label, cell.plan.recipe.train.steps) as progress,
        leader.start_cell(spec, context.workers.stopping) if leader else contextlib.nullcontext(spec) as own_spec,
        context.workers.start(
            json.dumps(own_spec.to_json()), environment(options.device) | dict(context.env), log
        ) as worker,
    ):
        watchdog = Watchdog(lambda: kill_tree(worker), options.timeout_minutes, options.stall_minutes)
        context.lease.on_lost = lambda: kill_tree(worker)
        if context.lease.lost.is_set():  # before the callback was set
            kill_tree(worker)
        if leader:
            leader.watch(lambda: kill_soon(worker))
        try:
            _relay_progress(worker, watchdog, progress, context)
            code = worker.wait()
            early_failure = leader.failure if leader else ""
        finally:
            watchdog.stop()
    if context.lease.lost.is_set():
        raise LeaseLost
    written = records.stamp(path) != before
    if leader and written:  # the worker can still be killed while it disconnects from the others
        return _with_remote_failure(path, leader)
    if code == 0 and written:
        return records.read(path)
    if -code in STOP:  # sent to every process of a job before the worker could handle it: it reaches this one too
        context.workers.stopping.wait(_SECONDS_TO_STOP)
    if context.workers.stopping.is_set():
        raise Stopped
    status = "oom" if code == -signal.SIGKILL and _memory_kills() > kills else "failed"
    record = _failure_record(spec, status, code, log)
    if leader and early_failure:
        record |= {"status": leader.failure_status, "error": early_failure}
    elif leader and leader.failure:  # noticed later, so perhaps because our worker had ended
        record["error"] += f"; {leader.failure}"
    if watchdog.reason:
        record |= {"status": "timeout", "error": watchdog.reason}
    records.write(path, record)
    return record


def worker_spec(cell: Cell, options: RunOptions, sharing: int = 1) -> WorkerSpec:
    """Builds the description of a cell that its worker reads.

    Args:
        sharing: cells that may use its device at once.
    """
    record = initial_record(cell, options.origin or current_origin())
    if options.timeout_minutes is not None:
        record["timeout_minutes"] = options.timeout_minutes
    if (sharing > 1 or options.busy) and cell.entry:
        record["sharing"] = max(sharing, 2)
    results, trial = options.results.resolve(), bool(cell.plan.trial)
    trained = (cell.continues or cell).single_process
    return WorkerSpec(
        started=time.time(),
        record=record,
        entry=str(cell.entry.resolve()) if cell.entry else None,
        path=str(record_path(options.results, cell).resolve()),
        compilation_cache=str((options.data / "compiled").resolve()),
        turns=str(options.turns.resolve()) if options.turns else None,
        train=TrainOptions(
            devices=options.devices,
            stream=options.stream,
            checkpoints=str(results / "checkpoints" / trained.name),
            checkpoint_key=trained.key,
            checkpoint_minutes=options.checkpoint_minutes,
            max_minutes=options.max_minutes,
            profile=str(results / "profiles" / cell.name) if options.profile else None,
            test=not trial,
            reach=options.reach and not trial,
            pairs=options.pairs and not trial,
            fresh=options.fresh and not cell.continues,
            tensorboard=str(results / "tensorboard" / cell.name) if options.tensorboard else None,
            wandb=(options.wandb, cell.name, str(results)) if options.wandb else None,
        ),
    )


def _relay_progress(
    worker: subprocess.Popen[bytes], watchdog: Watchdog, progress: CellProgress, context: WorkerContext
) -> None:
    """Passes a worker's messages to watchdog, display and lease until its output ends."""
    for line in worker.stdout or ():
        watchdog.heartbeat()
        if (message := message_of(line)) is None:
            continue
        progress.update(message)
        metrics = {name: message[name] for name in _LEASE_PROGRESS if name in message}
        context.lease.progress = {"steps": progress.steps} | metrics


def _failure_record(spec: WorkerSpec, status: str, code: int, log: Path) -> records.Record:
    """The record of a cell whose worker ended with exit code `code` and wrote none."""
    error = exit_reason(code) + (" and without a record" if code >= 0 else "")
    return spec.record | {"status": status, "error": error, "log": _tail(log)}


def _with_remote_failure(path: Path, leader: Leader) -> records.Record:
    """A cell's record; if the cell failed, with the error that another host's process reported."""
    record = records.read(path)
    if leader.failure and record["status"] == "failed":
        record |= {"status": leader.failure_status, "error": f"{leader.failure}; here: {record['error']}"}
        records.write(path, record)
    return record


def _tail(log: Path, lines: int = 20, max_bytes: int = 8192) -> list[str]:
    """The last lines of a log."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - max_bytes))
        return file.read().decode(errors="replace").splitlines()[-lines:]


def _memory_kills() -> int:
    """Processes that Linux has killed since it started because memory ran out; 0 where it keeps no count."""
    try:
        match = re.search(r"^oom_kill (\d+)", Path("/proc/vmstat").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(match[1]) if match else 0


def label(cell: Cell, number: str) -> str:
    """A cell's title on the terminal; `number`, such as '3/12', is its position in the run."""
    plan = cell.plan
    seeds = f"seed{'s' * (len(plan.seeds) > 1)} {', '.join(map(str, plan.seeds))}"
    trial = f", trial {', '.join(plan.trial)}" if plan.trial else ""
    return f"[{number}] {plan.task} × {plan.model}, length {plan.length:,}, {seeds}{trial}"


def summary(record: records.Record) -> str:
    """A finished cell's outcome in a few words."""
    if record["status"] != "ok":
        return f"{record['status']}: {record['error']}"
    speed = record["train_speed"]
    if not record["results"]:
        inference = record["inference_speed"]["steps_per_second"]
        largest = f"batch {record['recipe']['train']['batch']:,} is the largest: " if record.get("max_batch") else ""
        return f"{largest}{speed['steps_per_second']:.3g} training steps/s, {inference:.3g} inference steps/s"
    # A trial is not tested.
    split = "test" if any(result["test_best"] is not None for result in record["results"]) else "validation"
    scores = [
        f"{100 * result[f'{split}_best']:.2f} % at step {result['best_step']:,}"
        if result["status"] == "ok"
        else result["status"]
        for result in record["results"]
    ]
    return f"{split} {', '.join(scores)}, {speed['steps_per_second']:.3g} steps/s, {record['wall_seconds']:.0f} s"
