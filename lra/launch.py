"""Runs cells one after the other, each in a process of its own, and sees to it that each leaves a record.

The parent never imports JAX: a cell that dies takes nothing with it, and each starts with the whole device.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lra import max_batch, records
from lra.clock import Clock
from lra.grid import Cell, Model
from lra.progress import CellProgress
from lra.recipe import UsageError

ROOT = Path(__file__).resolve().parent.parent
PLATFORMS = {"auto": "", "cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


def environment(device: str) -> dict[str, str]:
    """The environment of a process that is to use `device`."""
    env = dict(os.environ)
    if device != "auto":
        env["JAX_PLATFORMS"] = PLATFORMS[device]
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
    env.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return env


def probe(device: str, models: Sequence[Model]) -> tuple[dict[str, Any], dict[Model, dict[str, Any]]]:
    """What the device is and the models' options with their types, asked of a process of its own.

    Raises:
        UsageError: there is no such device, a mixer cannot be imported, or an option is wrong.
    """
    models = list(dict.fromkeys(models))
    asked = json.dumps([[model.name, dict(model.options)] for model in models])
    answer = _ask(asked, device)
    return answer["device"], dict(zip(models, answer["options"], strict=True))


def mixer_details() -> list[dict[str, Any]]:
    """Every mixer's docstring and options."""
    found: list[dict[str, Any]] = _ask("details", "cpu")["models"]
    return found


def _ask(what: str, device: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "lra.probe", what]
    done = subprocess.run(command, env=environment(device), capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UsageError(f"JAX finds no device for --device={device}: {last}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise UsageError(answer["error"])
    return answer


def path_of(results: Path, cell: Cell) -> Path:
    """Where the cell's record lies: measurements on random tokens are kept apart from results."""
    return results / (records.RESULTS if cell.entry else records.BENCH) / f"{cell.name}.json"


def finished(results: Path, cell: Cell, minutes: float | None = None) -> bool:
    """Whether the cell has a record that another run, of at most so many `minutes` a cell, would only repeat."""
    try:
        record = records.read(path_of(results, cell))
    except ValueError:
        return False
    late = minutes is not None and record["status"] == "timeout" and record.get("timeout_minutes", 0) >= minutes
    return record["key"] == cell.key and (late or record["status"] in records.FINAL)


def run_cells(
    cells: Sequence[Cell], results: Path, data: Path, device: str, console: Console, minutes: float | None = None
) -> dict[str, int]:
    """Runs the cells, each for at most so many `minutes`; returns how many ended with each status.

    A KeyboardInterrupt ends the running cell's process and is passed on; finished cells have their records.

    Raises:
        UsageError: the results folder cannot be written, for want of space or of permission.
    """
    counts: dict[str, int] = {}
    for number, cell in enumerate(cells, start=1):
        p = cell.plan
        label = f"[{number}/{len(cells)}] {p.task} × {p.model}, length {p.length:,}, seed {p.seed}"
        try:
            if cell.bounds.get("max_batch"):
                record = _largest_batch(cell, results, data, device, console, label.replace("[", r"\["), minutes)
            else:
                record = _run(cell, results, data, device, console, label.replace("[", r"\["), minutes)
        except OSError as error:
            what = error.strerror or error
            raise UsageError(f"cannot write {results}: {what}; finished cells are kept, run again to go on") from None
        counts[record["status"]] = counts.get(record["status"], 0) + 1
        console.print(f"{label}: {summary(record)}", highlight=False, markup=False, soft_wrap=True)
    return counts


def summary(record: records.Record) -> str:
    """A finished cell in a few words."""
    if record["status"] != "ok":
        return f"{record['status']}: {record['error']}"
    speed = record["train_speed"]
    if not record["results"]:
        infers = record["inference_speed"]["steps_per_second"]
        largest = f"batch {record['recipe']['train']['batch']:,} is the largest: " if record.get("max_batch") else ""
        return f"{largest}{speed['steps_per_second']:.3g} training steps/s, {infers:.3g} inference steps/s"
    result = record["results"][0]
    return (
        f"test {100 * result['test_best']:.2f} % at step {result['best_step']:,}, "
        f"{speed['steps_per_second']:.3g} steps/s, {record['wall_seconds']:.0f} s"
    )


def _largest_batch(
    cell: Cell, results: Path, data: Path, device: str, console: Console, label: str, minutes: float | None
) -> records.Record:
    def run(tried: Cell) -> records.Record:
        told = f"{label}, batch {tried.plan.recipe.train.batch:,}"
        return _run(tried, results / "trials", data, device, console, told, minutes)

    record = max_batch.search(cell, run)
    records.write(path_of(results, cell), record)
    return record


def _run(
    cell: Cell, results: Path, data: Path, device: str, console: Console, label: str, minutes: float | None
) -> records.Record:
    path = path_of(results, cell)
    log = results / "logs" / f"{cell.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    start = _start(cell) | ({} if minutes is None else {"timeout_minutes": minutes})
    spec = {
        "cell": start["cell"],
        "record": start,
        "entry": str(cell.entry.resolve()) if cell.entry else None,
        "path": str(path.resolve()),
        "compilation_cache": str((data / "compiled").resolve()),
    }
    kills = _memory_kills()
    with (
        tempfile.NamedTemporaryFile("w", suffix=".json") as file,
        open(log, "wb") as errors,
        CellProgress(console, label, cell.plan.recipe.train.steps) as progress,
    ):
        json.dump(spec, file)
        file.flush()
        # A session of its own: Ctrl-C reaches the parent alone, which ends the cell.
        child = subprocess.Popen(
            [sys.executable, "-m", "lra.cell", file.name],
            env=environment(device), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            start_new_session=True,
        )  # fmt: skip
        clock = Clock(child, minutes)
        try:
            assert child.stdout is not None
            for line in child.stdout:
                progress.update(json.loads(line))
            code = child.wait()
        finally:
            clock.stop()
            if child.poll() is None:
                child.kill()
                child.wait()
    if code == 0:
        return records.read(path)
    record = start | {
        "status": "oom" if code == -signal.SIGKILL and _memory_kills() > kills else "failed",
        "error": _cause(code),
        "log": _tail(log),
    }
    if clock.struck:
        record |= {"status": "timeout", "error": f"stopped after {minutes:g} minutes"}
    records.write(path, record)
    return record


def _start(cell: Cell) -> records.Record:
    """What is known of a record before the cell runs."""
    p = cell.plan
    return {
        "schema": records.SCHEMA,
        "status": "failed",
        "error": "",
        "key": cell.key,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cell": {
            "task": p.task,
            "model": str(p.model),
            "mixer": p.model.name,
            "length": p.length,
            "protocol": p.protocol,
            "seed": p.seed,
            "accelerator": cell.accelerator,
        },
        "recipe": dataclasses.asdict(p.recipe),
        "overrides": list(p.overrides),
        "data": {
            name: cell.data[name] for name in ("source", "fingerprint", "task_version", "counts", "majority", "notes")
        },
        "commit": _commit(),
        "command": shlex.join(["python", *sys.argv]),
        "results": [],
        **cell.bounds,
    }


def _commit() -> str | None:
    """The suite's commit, with '+changes' where the working tree differs from it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return None
    changes = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True)
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def _cause(code: int) -> str:
    if code < 0:
        return f"the cell's process was ended by {signal.Signals(-code).name}"
    return f"the cell's process ended with exit code {code}"


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
