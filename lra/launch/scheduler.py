"""Runs cells, as many at once as there are slots, and shares them with other runs on the same results folder.

Each slot has a thread of this process, which never imports JAX, and a cell has a process of its own.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from lra.errors import UsageError
from lra.grid.cell import Cell, split_seeds
from lra.grid.spec import RunOptions
from lra.launch.local import run_cell, summary
from lra.launch.process import LeaseLost, Stopped, WorkerContext, WorkerProcesses
from lra.launch.progress import Display
from lra.results import records
from lra.results.folder import cannot_write, is_finished, record_path, unfinished
from lra.results.lease import Lease, Leases


@dataclasses.dataclass(frozen=True)
class Slot:
    """What one cell at a time may use; by default the whole machine."""

    cores: tuple[int, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sharing: int = 1
    """Cells that may be on its devices at once: more than one spoil each other's speeds."""

    def enter(self) -> None:
        """Binds the calling thread to the slot's cores: the processes that it starts inherit them."""
        if self.cores:
            os.sched_setaffinity(0, self.cores)


def divide(device: dict[str, Any], used: int, jobs: int | None) -> tuple[list[Slot], dict[str, Any]]:
    """Slots for so many cells at once, each with `used` devices, and the device as one cell sees it.

    Without a number of `jobs` there are as many as devices allow: on a CPU, one. More cells on a CPU divide its cores.
    More cells than GPUs share them, and each takes memory as it needs it.

    Raises:
        UsageError: there are fewer devices or cores than the jobs need.
    """
    if device["platform"] == "gpu":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(i) for i in range(device["count"])]
        jobs = max(1, len(names) // used) if jobs is None else jobs
        if jobs == 1 and len(names) == used:
            return [Slot()], device
        groups = len(names) // used
        if not groups:
            raise UsageError(f"--devices={used}: there are {len(names)}")
        sharing = -(-jobs // groups)
        memory = {} if sharing == 1 else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        shares = [",".join(names[i * used : (i + 1) * used]) for i in range(groups)]
        return [
            Slot(env={"CUDA_VISIBLE_DEVICES": shares[job % groups]} | memory, sharing=sharing) for job in range(jobs)
        ], device
    if jobs is None or jobs == 1:
        return [Slot()], device
    if device["platform"] != "cpu" or not hasattr(os, "sched_setaffinity"):
        raise UsageError(f"--jobs={jobs}: a {device['platform']} of this system cannot be divided")
    cores = sorted(os.sched_getaffinity(0))
    share_size = len(cores) // jobs
    if not share_size:
        raise UsageError(f"--jobs={jobs}: there are {len(cores)} cores")
    bound = [Slot(tuple(cores[i * share_size : (i + 1) * share_size])) for i in range(jobs)]
    return bound, device | {"host_cores": share_size}


def in_turns(jobs: int) -> list[Slot]:
    """Slots of measurements on one device: they are made ready side by side and timed in turn (`lra.train.turns`)."""
    if jobs == 1:
        return [Slot()]
    return [Slot(env={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, sharing=jobs)] * jobs


_SECONDS_BETWEEN_LOOKS = 1.0
RunCell = Callable[[Cell, str, RunOptions, WorkerContext], records.Record]
"""Runs one cell, as `local.run_cell` does."""


def run_cells(
    cells: Sequence[Cell],
    options: RunOptions,
    console: Console,
    slots: Sequence[Slot] = (Slot(),),
    run_cell: RunCell = run_cell,
) -> dict[str, int]:
    """Runs the cells, each by `run_cell`; returns how many ended here with each status.

    A cell that another run has is waited for, and taken over where that run dies. A KeyboardInterrupt lets the running
    cells save a checkpoint, and is passed on; finished cells have their records.

    Raises:
        UsageError: the results folder cannot be written, for want of space or of permission.
    """
    with Display(console) as display:
        schedule = Schedule(cells, options, display, run_cell)
        # Not joined: in Python 3.11 a join that is interrupted takes its thread for ended.
        ends: list[threading.Event] = []
        try:
            for slot in slots:
                end = threading.Event()
                threading.Thread(target=schedule.work, args=(slot, end), daemon=True).start()
                ends.append(end)
            _wait(ends, options.deadline)
            if not all(end.is_set() for end in ends):
                display.line("the time of this run is over: running cells save and stop")
                schedule.children.stop()
                _wait(ends)
        except KeyboardInterrupt:
            schedule.children.stop()
            _wait(ends)
            raise
        finally:
            schedule.children.kill()
    if schedule.failure:
        raise schedule.failure
    return schedule.counts


def _wait(ends: Sequence[threading.Event], deadline: float | None = None) -> None:
    """Until all have ended, or until `deadline` (of `time.monotonic`)."""
    for end in ends:
        while not end.wait(1.0):  # Ray interrupts without a signal, which a longer wait would not notice
            if deadline is not None and time.monotonic() > deadline:
                return


class Schedule:
    """Cells to be run, and what has become of them."""

    def __init__(self, cells: Sequence[Cell], options: RunOptions, display: Display, run_cell: RunCell):
        self.options, self.display, self.run_cell = options, display, run_cell
        self.pending, self.total, self.begun = deque(cells), len(cells), 0
        self.before = {cell.name: records.stamp(record_path(options.results, cell)) for cell in cells}
        self.leases, self.children = Leases(options.results / "leases"), WorkerProcesses()
        self.lock = threading.RLock()
        self.told_waiting = False
        self.counts: dict[str, int] = {}
        self.failure: Exception | None = None

    def work(self, slot: Slot, end: threading.Event) -> None:
        """Runs cells in one slot until none is left. The first failure of any slot ends all."""
        try:
            slot.enter()
            while (taken := self._next()) is not None:
                cell, lease, number = taken
                with lease:
                    self._run(cell, number, WorkerContext(lease, self.children, self.display, slot.env, slot.sharing))
        except Stopped:
            pass
        except Exception as failure:
            self.failure = self.failure or failure
            self.children.stop()
        finally:
            end.set()

    def _run(self, cell: Cell, number: int, context: WorkerContext) -> None:
        try:
            record = self.run_cell(cell, f"{number}/{self.total}", self.options, context)
        except LeaseLost:
            self.display.line(f"{cell.name}: another run has taken this cell over")
            self._add([cell])
            return
        with self.lock:
            self.counts[record["status"]] = self.counts.get(record["status"], 0) + 1
        self._split(cell, record)

    def _split(self, cell: Cell, record: records.Record) -> None:
        """Seeds that do not fit into memory together become cells of their own."""
        if record["status"] == "oom" and len(cell.plan.seeds) > 1:
            self.display.line("the seeds do not fit together: one after the other")
            alone = unfinished(split_seeds(cell), self.options.results)
            self.before |= {one.name: records.stamp(record_path(self.options.results, one)) for one in alone}
            self.total += len(alone)
            self._add(alone)

    def _add(self, cells: list[Cell]) -> None:
        with self.lock:
            self.pending.extendleft(reversed(cells))

    def _next(self) -> tuple[Cell, Lease, int] | None:
        """The next cell that no other run has, with its lease and number; waits while others have all that are left."""
        while not self.children.stopping.is_set():
            with self.lock:
                taken = self._take()
                if taken is not None or not self.pending:
                    return taken
                self._tell_waiting()
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return None

    def _take(self) -> tuple[Cell, Lease, int] | None:
        others: list[Cell] = []
        try:
            while self.pending:
                cell = self.pending.popleft()
                try:
                    lease = self.leases.take(cell.single_process.name)
                except OSError as error:
                    raise cannot_write(self.options.results, error) from None
                if lease is None:
                    others.append(cell)
                    continue
                if self._done_elsewhere(cell):
                    lease.release()
                    continue
                self.begun += 1
                if lease.predecessor:
                    self.display.line(f"{cell.name}: taken over from {lease.predecessor.holder}, which is gone")
                return cell, lease, self.begun
            return None
        finally:
            self._add(others)

    def _done_elsewhere(self, cell: Cell) -> bool:
        """Whether another run has tried the cell since this one was asked for it; what it left unfinished goes on."""
        path = record_path(self.options.results, cell)
        if path.parent.is_dir():
            # A network file system may else answer from what it knew before the lease; a first entry makes it ask.
            with os.scandir(path.parent) as entries:
                next(entries, None)
        touched = records.stamp(path) != self.before[cell.name]
        if not touched and (
            self.options.reruns_finished or not is_finished(self.options.results, cell, self.options.timeout_minutes)
        ):
            return False
        try:
            record = records.read(path)
        except records.UnreadableRecord as problem:
            raise UsageError(str(problem)) from None
        except ValueError:
            return False
        if record["status"] == "interrupted":
            return False
        self.display.line(f"{cell.name}: done by another run: {summary(record)}")
        self._split(cell, record)
        return True

    def _tell_waiting(self) -> None:
        if not self.told_waiting:
            self.told_waiting = True
            self.display.line(f"waiting for cells that other runs are at: {len(self.pending)}")
