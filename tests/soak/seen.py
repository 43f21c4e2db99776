"""Observes runs from outside: their processes, and the files of their results folder."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from lra.results import lease
from lra.results.lease import process_start
from tests.helpers.cli import children_of

PHASES = ("start of the run", "start of a cell", "training", "writing a checkpoint", "writing a record, and after it")
"""Phases a process can be killed in, as far as can be observed."""
_JUST_NOW = 300_000_000
"""Nanoseconds."""


@dataclass
class Run:
    """A run of the grid that the soak has started."""

    process: subprocess.Popen[str]
    suffers: set[str] = field(default_factory=set)
    """Faults injected into it."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def cells(self) -> list[int]:
        """The processes of its cells."""
        return [pid for pid in children_of(self.pid) if b"lra.train.worker" in _read(pid, "cmdline")]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def marked(mark: str) -> list[int]:
    """The living processes that have `mark` in their environment."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if mark.encode() in _read(pid, "environ") and process_start(pid)]


class Folder:
    """A results folder, as an observer sees it while runs write to it."""

    def __init__(self, path: Path):
        self.path = path

    def records(self) -> dict[str, int]:
        """The files in the folder of records, whole ones and those being written, with the times of their change."""
        times = {}
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.path / "records"):
                with contextlib.suppress(FileNotFoundError):
                    times[entry.name] = entry.stat().st_mtime_ns
        return times

    def checkpoints(self) -> dict[str, list[str]]:
        """Contents of each cell's folder of checkpoints."""
        contents = {}
        with contextlib.suppress(FileNotFoundError):
            for cell in os.scandir(self.path / "checkpoints"):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    contents[cell.name] = os.listdir(cell)
        return contents

    def saving(self) -> set[tuple[str, str]]:
        """Checkpoints that are being written, or were broken off: cells and names."""
        folders = self.checkpoints().items()
        return {(cell, name) for cell, names in folders for name in names if "orbax-checkpoint-tmp" in name}

    def saved(self, cell: str) -> int:
        """The step of a cell's newest checkpoint, 0 without one."""
        return max((int(name) for name in self.checkpoints().get(cell, []) if name.isdigit()), default=0)

    def steps(self, pid: int) -> dict[str, int]:
        """The step that each cell of a run is at, by its last heartbeat; 0 before the first chunk has ended."""
        leases = lease.all_leases(self.path / "leases")
        mine = {name: seen.contents for name, seen in leases.items() if seen.contents.get("pid") == pid}
        return {name: int(held["progress"].get("step", 0)) for name, held in mine.items()}

    def phase(self, run: Run, broken_off: set[tuple[str, str]]) -> str:
        """One of `PHASES`; `broken_off` are checkpoints that earlier kills have left."""
        now = time.time_ns()
        if any(name.startswith(".") or now - changed < _JUST_NOW for name, changed in self.records().items()):
            return PHASES[4]
        if not run.cells():
            return PHASES[0]
        if not any(self.steps(run.pid).values()):
            return PHASES[1]
        return PHASES[3] if self.saving() - broken_off else PHASES[2]


def until(deadline: float) -> None:
    """Sleeps until a time of the monotonic clock."""
    time.sleep(max(0.0, deadline - time.monotonic()))
