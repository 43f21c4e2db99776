"""Runs a cell as a worker process of this machine, and sees to it that it leaves a record."""

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
from lra.launch.multihost_leader import Leader, end_soon
from lra.launch.process import LeaseLost, Stopped, Watchdog, WorkerContext, end, environment, exit_reason
from lra.launch.progress import CellProgress
from lra.results import records
from lra.results.folder import cannot_write, record_path
from lra.results.provenance import current_origin, initial_record


def run_cell(
    cell: Cell, number: str, options: RunOptions, context: WorkerContext, leader: Leader | None = None
) -> records.Record:
    """Runs one cell, prints how it ended, and returns its record.

    Args:
        number: of the cell in the run, such as '3/12'.
        leader: of the other processes that train the cell too.

    Raises:
        UsageError: the results folder cannot be written: it is full or write-protected.
        Stopped: the run is stopping, and the cell had nothing to save.
        LeaseLost: another run has taken the cell over.
    """
    name = label(cell, number)
    try:
        if cell.limits.get("max_batch"):
            record = _largest_batch(cell, options, context, name)
        else:
            record = _run_worker(cell, options, context, name, leader)
    except OSError as error:
        raise cannot_write(options.results, error) from None
    context.display.line(f"{name}: {summary(record)}")
    return record


def label(cell: Cell, number: str) -> str:
    """A cell's name on a line of its own; `number` tells it from the others of a run."""
    p = cell.plan
    seeds = f"seed{'s' * (len(p.seeds) > 1)} {', '.join(map(str, p.seeds))}"
    return f"[{number}] {p.task} × {p.model}, length {p.length:,}, {seeds}"


def summary(record: records.Record) -> str:
    """A finished cell in a few words."""
    if record["status"] != "ok":
        return f"{record['status']}: {record['error']}"
    speed = record["train_speed"]
    if not record["results"]:
        infers = record["inference_speed"]["steps_per_second"]
        largest = f"batch {record['recipe']['train']['batch']:,} is the largest: " if record.get("max_batch") else ""
        return f"{largest}{speed['steps_per_second']:.3g} training steps/s, {infers:.3g} inference steps/s"
    tests = [
        f"{100 * result['test_best']:.2f} % at step {result['best_step']:,}"
        if result["status"] == "ok"
        else result["status"]
        for result in record["results"]
    ]
    return f"test {', '.join(tests)}, {speed['steps_per_second']:.3g} steps/s, {record['wall_seconds']:.0f} s"


def _largest_batch(cell: Cell, options: RunOptions, context: WorkerContext, label: str) -> records.Record:
    def run(trial: Cell) -> records.Record:
        name = f"{label}, batch {trial.plan.recipe.train.batch:,}"
        return _run_worker(trial, dataclasses.replace(options, results=options.results / "trials"), context, name)

    record = max_batch.search(cell, run)
    records.write(record_path(options.results, cell), record)
    return record


def _run_worker(
    cell: Cell, options: RunOptions, context: WorkerContext, label: str, leader: Leader | None = None
) -> records.Record:
    spec, log = worker_spec(cell, options, context.sharing), options.results / "logs" / f"{cell.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    path, kills = Path(spec.path), _memory_kills()
    before, lost = records.stamp(path), ""
    with (
        CellProgress(context.display, label, cell.plan.recipe.train.steps) as progress,
        leader.cell(spec, context.children.stopping) if leader else contextlib.nullcontext(spec) as own_spec,
        context.children.started(
            json.dumps(own_spec.to_json()), environment(options.device) | dict(context.env), log
        ) as worker,
    ):
        watchdog = Watchdog(lambda: end(worker), options.timeout_minutes, options.stall_minutes)
        context.lease.on_lost = lambda: end(worker)
        if context.lease.lost.is_set():  # before the callback was set
            end(worker)
        if leader:
            leader.watch(lambda: end_soon(worker))
        try:
            _follow(worker, watchdog, progress, context)
            code = worker.wait()
            lost = leader.lost if leader else ""
        finally:
            watchdog.stop()
    if context.lease.lost.is_set():
        raise LeaseLost
    written = records.stamp(path) != before
    if leader and written:  # the worker can still be killed while it disconnects from the others
        return _explained(path, leader)
    if code == 0 and written:
        return records.read(path)
    if context.children.stopping.is_set():
        raise Stopped
    record = spec.record | {
        "status": "oom" if code == -signal.SIGKILL and _memory_kills() > kills else "failed",
        "error": exit_reason(code) + (" and without a record" if code >= 0 else ""),
        "log": _tail(log),
    }
    if leader and lost:
        record |= {"status": leader.lost_status, "error": lost}
    elif leader and leader.lost:  # noticed later, so perhaps because our worker had ended
        record["error"] += f"; {leader.lost}"
    if watchdog.struck:
        record |= {"status": "timeout", "error": watchdog.struck}
    records.write(path, record)
    return record


def worker_spec(cell: Cell, options: RunOptions, sharing: int = 1) -> WorkerSpec:
    """The cell and the options as its worker gets them; `sharing` cells may use its device at once."""
    record = initial_record(cell, options.origin or current_origin())
    if options.timeout_minutes is not None:
        record["timeout_minutes"] = options.timeout_minutes
    if sharing > 1 and cell.entry:
        record["sharing"] = sharing
    results = options.results.resolve()
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
            checkpoints=str(results / "checkpoints" / cell.single_process.name),
            checkpoint_key=cell.single_process.key,
            checkpoint_minutes=options.checkpoint_minutes,
            max_minutes=options.max_minutes,
            profile=str(results / "profiles" / cell.name) if options.profile else None,
            fresh=options.fresh,
            tensorboard=str(results / "tensorboard" / cell.name) if options.tensorboard else None,
            wandb=(options.wandb, cell.name, str(results)) if options.wandb else None,
        ),
    )


def _follow(
    worker: subprocess.Popen[bytes], watchdog: Watchdog, progress: CellProgress, context: WorkerContext
) -> None:
    """Passes a worker's progress on until its output ends."""
    for line in worker.stdout or ():
        watchdog.sign()
        message = json.loads(line)
        progress.update(message)
        shown = {name: message[name] for name in _SHOWN if name in message}
        context.lease.progress = {"steps": progress.steps} | shown


def _explained(path: Path, leader: Leader) -> records.Record:
    """A cell's record; if it failed, with the error that another process reports."""
    record = records.read(path)
    if leader.lost and record["status"] == "failed":
        record |= {"status": leader.lost_status, "error": f"{leader.lost}; here: {record['error']}"}
        records.write(path, record)
    return record


_SHOWN = ("step", "steps_per_second")
"""Progress that other runs and `status` see in a running cell's lease."""


def _tail(log: Path, lines: int = 20, most: int = 8192) -> list[str]:
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - most))
        return file.read().decode(errors="replace").splitlines()[-lines:]


def _memory_kills() -> int:
    """How often the kernel has killed a process for memory since it started; 0 where it does not say."""
    try:
        found = re.search(r"^oom_kill (\d+)", Path("/proc/vmstat").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
