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
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lra import max_batch, records
from lra.clock import Clock
from lra.grid import Cell, Model, apart
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
    record = _record(results, cell) or {"status": None}
    late = minutes is not None and record["status"] == "timeout" and record.get("timeout_minutes", 0) >= minutes
    return late or record["status"] in records.FINAL


def _record(results: Path, cell: Cell) -> records.Record | None:
    """The cell's record, None without a readable one."""
    try:
        record = records.read(path_of(results, cell))
    except ValueError:
        return None
    return record if record["key"] == cell.key else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
    """How cells are run: folders, the device, and what changes no result."""

    results: Path
    data: Path
    device: str = "auto"
    devices: int = 1
    stream: str = "auto"
    checkpoint_minutes: float = 5.0
    max_minutes: float | None = None
    """Minutes a cell may train in this run; then it saves and ends as 'interrupted'."""
    timeout_minutes: float | None = None
    """Minutes after which a cell's process is ended as 'timeout'."""
    profile: bool = False
    fresh: bool = False
    """Starts cells anew: their checkpoints are deleted."""
    tensorboard: bool = False
    wandb: str | None = None
    """The project that cells are logged to."""


def left(cells: Sequence[Cell], results: Path) -> list[Cell]:
    """The cells without a final record; seeds that did not fit together are cells of their own."""
    found: list[Cell] = []
    for cell in cells:
        record = _record(results, cell)
        if len(cell.plan.seeds) > 1 and record is not None and record["status"] == "oom":
            found += left(apart(cell), results)
        elif not finished(results, cell):
            found.append(cell)
    return found


def run_cells(cells: Sequence[Cell], how: How, console: Console) -> dict[str, int]:
    """Runs the cells; returns how many ended with each status.

    A KeyboardInterrupt lets the running cell save a checkpoint, and is passed on; finished cells have their records.

    Raises:
        UsageError: the results folder cannot be written, for want of space or of permission.
    """
    counts: dict[str, int] = {}
    for number, cell in enumerate(cells, start=1):
        record = _told_run(cell, f"{number}/{len(cells)}", how, console)
        counts[record["status"]] = counts.get(record["status"], 0) + 1
        if record["status"] == "oom" and len(cell.plan.seeds) > 1:
            console.print("the seeds do not fit together: one after the other", highlight=False)
            for status, count in run_cells(left(apart(cell), how.results), how, console).items():
                counts[status] = counts.get(status, 0) + count
    return counts


def _told_run(cell: Cell, number: str, how: How, console: Console) -> records.Record:
    p = cell.plan
    seeds = f"seed{'s' * (len(p.seeds) > 1)} {', '.join(map(str, p.seeds))}"
    label = f"[{number}] {p.task} × {p.model}, length {p.length:,}, {seeds}"
    try:
        run = _largest_batch if cell.bounds.get("max_batch") else _run
        record = run(cell, how, console, label.replace("[", r"\["))
    except OSError as error:
        what = error.strerror or error
        raise UsageError(f"cannot write {how.results}: {what}; finished cells are kept, run again to go on") from None
    console.print(f"{label}: {summary(record)}", highlight=False, markup=False, soft_wrap=True)
    return record


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


def _largest_batch(cell: Cell, how: How, console: Console, label: str) -> records.Record:
    def run(tried: Cell) -> records.Record:
        told = f"{label}, batch {tried.plan.recipe.train.batch:,}"
        return _run(tried, dataclasses.replace(how, results=how.results / "trials"), console, told)

    record = max_batch.search(cell, run)
    records.write(path_of(how.results, cell), record)
    return record


def _run(cell: Cell, how: How, console: Console, label: str) -> records.Record:
    path = path_of(how.results, cell)
    log = how.results / "logs" / f"{cell.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    start = _start(cell) | ({} if how.timeout_minutes is None else {"timeout_minutes": how.timeout_minutes})
    spec = {
        "started": time.time(),
        "cell": start["cell"],
        "record": start,
        "entry": str(cell.entry.resolve()) if cell.entry else None,
        "path": str(path.resolve()),
        "compilation_cache": str((how.data / "compiled").resolve()),
        "means": {
            "devices": how.devices,
            "stream": how.stream,
            "checkpoints": str((how.results / "checkpoints" / cell.name).resolve()),
            "checkpoint_minutes": how.checkpoint_minutes,
            "max_minutes": how.max_minutes,
            "profile": str((how.results / "profiles" / cell.name).resolve()) if how.profile else None,
            "fresh": how.fresh,
            "tensorboard": str((how.results / "tensorboard" / cell.name).resolve()) if how.tensorboard else None,
            "wandb": [how.wandb, cell.name, str(how.results.resolve())] if how.wandb else None,
        },
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
            env=environment(how.device), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            start_new_session=True,
        )  # fmt: skip
        clock = Clock(child, how.timeout_minutes)
        try:
            assert child.stdout is not None
            for line in child.stdout:
                progress.update(json.loads(line))
            code = child.wait()
        except KeyboardInterrupt:
            _let_save(child)
            raise
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
        record |= {"status": "timeout", "error": f"stopped after {how.timeout_minutes:g} minutes"}
    records.write(path, record)
    return record


_SECONDS_TO_SAVE = 60.0


def _let_save(child: subprocess.Popen[bytes]) -> None:
    """Asks a cell's process to save and end; it is given a minute. Being interrupted again ends the wait."""
    child.terminate()
    late = threading.Timer(_SECONDS_TO_SAVE, child.kill)
    late.start()
    try:
        # Its input stays open meanwhile: at its end the process would end at once.
        for _ in child.stdout or ():
            pass
        child.wait()
    finally:
        late.cancel()


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
            "seeds": list(p.seeds),
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
