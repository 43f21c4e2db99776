"""Runs cells, as many at once as there are slots, and shares them with other runs on the same results folder.

Each slot has a thread of this process, which never imports JAX, and a cell has a process of its own.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from rich.console import Console

from lra import records
from lra.child import Children, LeaseLost, Place, Stopped
from lra.grid import Cell, apart
from lra.launch import How, cannot_write, finished, left, path_of, run_told, summary
from lra.lease import Lease, Leases
from lra.progress import Display
from lra.recipe import UsageError
from lra.slots import Slot

_SECONDS_BETWEEN_LOOKS = 1.0

Run = Callable[[Cell, str, How, Place], records.Record]
"""Runs one cell, as `launch.run_told` does."""


def run_cells(
    cells: Sequence[Cell], how: How, console: Console, slots: Sequence[Slot] = (Slot(),), run: Run = run_told
) -> dict[str, int]:
    """Runs the cells, each by `run`; returns how many ended here with each status.

    A cell that another run has is waited for, and taken over where that run dies. A KeyboardInterrupt lets the running
    cells save a checkpoint, and is passed on; finished cells have their records.

    Raises:
        UsageError: the results folder cannot be written, for want of space or of permission.
    """
    with Display(console) as display:
        schedule = Schedule(cells, how, display, run)
        # Not joined: in Python 3.11 a join that is interrupted takes its thread for ended.
        ends: list[threading.Event] = []
        try:
            for slot in slots:
                end = threading.Event()
                threading.Thread(target=schedule.work, args=(slot, end), daemon=True).start()
                ends.append(end)
            _wait(ends, how.deadline)
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

    def __init__(self, cells: Sequence[Cell], how: How, display: Display, run: Run):
        self.how, self.display, self.run = how, display, run
        self.pending, self.total, self.begun = deque(cells), len(cells), 0
        self.before = {cell.name: records.stamp(path_of(how.results, cell)) for cell in cells}
        self.leases, self.children = Leases(how.results / "leases"), Children()
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
                    self._run(cell, number, Place(lease, self.children, self.display, slot.env, slot.sharing))
        except Stopped:
            pass
        except Exception as failure:
            self.failure = self.failure or failure
            self.children.stop()
        finally:
            end.set()

    def _run(self, cell: Cell, number: int, place: Place) -> None:
        try:
            record = self.run(cell, f"{number}/{self.total}", self.how, place)
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
            alone = left(apart(cell), self.how.results)
            self.before |= {one.name: records.stamp(path_of(self.how.results, one)) for one in alone}
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
                    lease = self.leases.take(cell.alone.name)
                except OSError as error:
                    raise cannot_write(self.how.results, error) from None
                if lease is None:
                    others.append(cell)
                    continue
                if self._done_elsewhere(cell):
                    lease.release()
                    continue
                self.begun += 1
                if lease.before:
                    self.display.line(f"{cell.name}: taken over from {lease.before.holder}, which is gone")
                return cell, lease, self.begun
            return None
        finally:
            self._add(others)

    def _done_elsewhere(self, cell: Cell) -> bool:
        """Whether another run has tried the cell since this one was asked for it; what it left unfinished goes on."""
        path = path_of(self.how.results, cell)
        if path.parent.is_dir():
            # A network file system may else answer from what it knew before the lease; a first entry makes it ask.
            with os.scandir(path.parent) as entries:
                next(entries, None)
        touched = records.stamp(path) != self.before[cell.name]
        if not touched and (self.how.anew or not finished(self.how.results, cell, self.how.timeout_minutes)):
            return False
        try:
            record = records.read(path)
        except records.Unreadable as problem:
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
