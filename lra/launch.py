"""Runs a cell in a process of its own, and sees to it that it leaves a record.

The parent never imports JAX: a cell that dies takes nothing with it, and each starts with the whole device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lra import max_batch, records
from lra.child import LeaseLost, Place, Stopped, cause, end
from lra.clock import Clock
from lra.grid import Cell, Model, apart
from lra.leader import Leader, end_soon
from lra.progress import CellProgress
from lra.recipe import UsageError

ROOT = Path(__file__).resolve().parent.parent
PLATFORMS = {"auto": "", "cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
_REPEATABLE = "xla_gpu_exclude_nondeterministic_ops"
"""XLA's switch for GPU programs that give the same bits each time: no sums by atomic additions in any order.

Which of several kernels is the fastest is still measured when compiling; the choice is kept in the compilation cache,
so a run that goes on makes the same one.
"""


def environment(device: str) -> dict[str, str]:
    """The environment of a process that is to use `device`."""
    env = dict(os.environ)
    if device != "auto":
        env["JAX_PLATFORMS"] = PLATFORMS[device]
    if device != "cpu" and _REPEATABLE not in env.get("XLA_FLAGS", ""):
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} --{_REPEATABLE}=true".strip()
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
    crowded = record["status"] == "oom" and record.get("sharing", 1) > 1  # alone it may fit
    return late or (record["status"] in records.FINAL and not crowded)


def _record(results: Path, cell: Cell) -> records.Record | None:
    """The cell's record, None without a whole one.

    Raises:
        UsageError: there is one that cannot be read: it may be finished, and must not be replaced.
    """
    try:
        record = records.read(path_of(results, cell))
    except records.Unreadable as problem:
        raise UsageError(str(problem)) from None
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
    deadline: float | None = None
    """When the whole run is to end, by `time.monotonic`: running cells save, and no more are started."""
    turns: Path | None = None
    """Where cells that are measured agree on whose turn it is (`lra.turns`); None where there is one at a time."""
    timeout_minutes: float | None = None
    """Minutes after which a cell's process is ended as 'timeout'."""
    stall_minutes: float | None = None
    """Minutes without progress after which a cell's process is ended as 'timeout'."""
    profile: bool = False
    fresh: bool = False
    """Starts cells anew: their checkpoints are deleted."""
    repeat: bool = False
    """Runs cells that have a final record too."""
    tensorboard: bool = False
    wandb: str | None = None
    """The project that cells are logged to."""
    leader: Leader | None = None
    """The other processes that take part in each cell."""
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What records say of where they were asked for, as `origin()`; empty: this process."""

    @property
    def anew(self) -> bool:
        """Whether finished cells are run too."""
        return self.fresh or self.repeat


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


def run_told(cell: Cell, number: str, how: How, place: Place) -> records.Record:
    """Runs one cell, prints how it ended, and returns its record.

    Raises:
        UsageError: the results folder cannot be written, for want of space or of permission.
        Stopped: the run is being stopped, and the cell had nothing to save.
        LeaseLost: another run has taken the cell over.
    """
    named = label(cell, number)
    try:
        run = _largest_batch if cell.bounds.get("max_batch") else _run
        record = run(cell, how, place, named)
    except OSError as error:
        raise cannot_write(how.results, error) from None
    place.display.line(f"{named}: {summary(record)}")
    return record


def label(cell: Cell, number: str) -> str:
    """A cell's name on a line of its own; `number` tells it from the others of a run."""
    p = cell.plan
    seeds = f"seed{'s' * (len(p.seeds) > 1)} {', '.join(map(str, p.seeds))}"
    return f"[{number}] {p.task} × {p.model}, length {p.length:,}, {seeds}"


def cannot_write(results: Path, error: OSError) -> UsageError:
    """What the user is told when the results folder takes no more."""
    return UsageError(f"cannot write {results}: {error.strerror or error}; finished cells are kept, run again to go on")


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


def _largest_batch(cell: Cell, how: How, place: Place, label: str) -> records.Record:
    def run(tried: Cell) -> records.Record:
        told = f"{label}, batch {tried.plan.recipe.train.batch:,}"
        return _run(tried, dataclasses.replace(how, results=how.results / "trials"), place, told)

    record = max_batch.search(cell, run)
    records.write(path_of(how.results, cell), record)
    return record


def _run(cell: Cell, how: How, place: Place, label: str) -> records.Record:
    path = path_of(how.results, cell)
    log = how.results / "logs" / f"{cell.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    steps = cell.plan.recipe.train.steps
    begun = start(cell, how) | ({} if how.timeout_minutes is None else {"timeout_minutes": how.timeout_minutes})
    if place.sharing > 1 and cell.entry:
        begun["sharing"] = place.sharing
    spec = {
        "started": time.time(),
        "cell": begun["cell"],
        "record": begun,
        "entry": str(cell.entry.resolve()) if cell.entry else None,
        "path": str(path.resolve()),
        "hosts": None,
        "turns": str(how.turns.resolve()) if how.turns else None,
        "compilation_cache": str((how.data / "compiled").resolve()),
        "means": {
            "devices": how.devices,
            "stream": how.stream,
            "checkpoints": str((how.results / "checkpoints" / cell.alone.name).resolve()),
            "checkpoint_key": cell.alone.key,
            "checkpoint_minutes": how.checkpoint_minutes,
            "max_minutes": how.max_minutes,
            "profile": str((how.results / "profiles" / cell.name).resolve()) if how.profile else None,
            "fresh": how.fresh,
            "tensorboard": str((how.results / "tensorboard" / cell.name).resolve()) if how.tensorboard else None,
            "wandb": [how.wandb, cell.name, str(how.results.resolve())] if how.wandb else None,
        },
    }
    kills, before, leader = _memory_kills(), records.stamp(path), how.leader
    with (
        CellProgress(place.display, label, steps) as progress,
        leader.cell(spec, place.children.stopping) if leader else contextlib.nullcontext(spec) as mine,
    ):
        env = environment(how.device) | dict(place.env)
        with place.children.started(json.dumps(mine), env, log) as child:
            clock = Clock(lambda: end(child), how.timeout_minutes, how.stall_minutes)
            place.lease.on_lost = lambda: end(child)
            if place.lease.lost.is_set():  # before it could be told
                end(child)
            if leader:
                leader.watch(lambda: end_soon(child))
            try:
                for line in child.stdout or ():
                    clock.sign()
                    told = json.loads(line)
                    progress.update(told)
                    place.lease.progress = {"steps": steps} | {name: told[name] for name in _SHOWN if name in told}
                code = child.wait()
                lost = leader.lost if leader else ""
            finally:
                clock.stop()
    if place.lease.lost.is_set():
        raise LeaseLost
    wrote = records.stamp(path) != before
    if leader and wrote:  # its process can still be ended while it takes leave of the others
        return _explained(path, leader)
    if code == 0 and wrote:
        return records.read(path)
    if place.children.stopping.is_set():
        raise Stopped
    record = begun | {
        "status": "oom" if code == -signal.SIGKILL and _memory_kills() > kills else "failed",
        "error": cause(code) + (" and without a record" if code >= 0 else ""),
        "log": _tail(log),
    }
    if leader and lost:
        record |= {"status": leader.lost_status, "error": lost}
    elif leader and leader.lost:  # later, so perhaps since ours had ended
        record["error"] += f"; {leader.lost}"
    if clock.struck:
        record |= {"status": "timeout", "error": clock.struck}
    records.write(path, record)
    return record


def _explained(path: Path, leader: Leader) -> records.Record:
    """A cell's record; where it failed, with what other processes say of it too."""
    record = records.read(path)
    if leader.lost and record["status"] == "failed":
        record |= {"status": leader.lost_status, "error": f"{leader.lost}; here: {record['error']}"}
        records.write(path, record)
    return record


_SHOWN = ("step", "steps_per_second")
"""What others see of a running cell."""


def start(cell: Cell, how: How) -> records.Record:
    """What is known of a record before the cell runs; its status is 'failed' until it is known better."""
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
        **(how.origin or origin()),
        "results": [],
        **cell.bounds,
    }


def origin() -> dict[str, Any]:
    """The suite's commit and this process's command line, as records have them."""
    return {"commit": commit(), "command": shlex.join(["python", *sys.argv])}


def commit() -> str | None:
    """The suite's commit, with '+changes' where the working tree differs from it; None where nothing says.

    A copy without its repository, as in a container, can be told by $LRA_COMMIT.
    """
    if told := os.environ.get("LRA_COMMIT"):
        return told
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    except OSError:  # no git
        return None
    if head.returncode:
        return None
    changes = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True)
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


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
