"""Runs cells concurrently, one per slot, and shares them with other runs on the same results folder.

Each slot has a thread in this process, and each cell its own process.
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
from lra.results import provenance, records, tuning
from lra.results.folder import cannot_write, is_finished, record_path, unfinished
from lra.results.lease import Lease, Leases

_POLL_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Slot:
    """The part of the machine in which one cell runs at a time; by default the whole machine."""

    cores: tuple[int, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sharing: int = 1
    """Cells that may use its devices at once: more than one distort each other's speeds."""

    def enter(self) -> None:
        """Binds the calling thread to the slot's cores; processes that it starts inherit them."""
        if self.cores:
            os.sched_setaffinity(0, self.cores)


RunCell = Callable[[Cell, str, RunOptions, WorkerContext], records.Record]
"""Runs one cell, as `local.run_cell` does."""


def run_cells(
    cells: Sequence[Cell],
    options: RunOptions,
    console: Console,
    slots: Sequence[Slot] = (Slot(),),
    run_cell: RunCell = run_cell,
) -> dict[str, int]:
    """Runs cells, each once.

    Waits for cells that another run has, and takes them over if that run dies. A tuned cell waits for its trials, which
    must be among the cells or finished; if one ends without a result, the tuned cell is left to another run. On
    KeyboardInterrupt, running cells save
    a checkpoint before it is raised again; finished cells have their records.

    Args:
        slots: each runs one cell at a time.
        run_cell: runs one cell and returns its record.

    Returns:
        The number of cells that ended here, by status.

    Raises:
        UsageError: the results folder cannot be written: it is full or write-protected.
    """
    with Display(console) as display:
        schedule = Schedule(cells, options, display, run_cell)
        # Events, not joined threads: in Python 3.11, a thread counts as ended once a join of it was interrupted.
        done_events: list[threading.Event] = []
        try:
            for slot in slots:
                done = threading.Event()
                threading.Thread(target=schedule.work, args=(slot, done), daemon=True).start()
                done_events.append(done)
            _wait(done_events, options.deadline)
            if not all(done.is_set() for done in done_events):
                display.print_line("the time of this run is over: running cells save and stop")
                schedule.workers.stop()
                _wait(done_events)
        except KeyboardInterrupt:
            schedule.workers.stop()
            _wait(done_events)
            raise
        finally:
            schedule.workers.kill()
    if schedule.failure:
        raise schedule.failure
    return schedule.counts


def _wait(events: Sequence[threading.Event], deadline: float | None = None) -> None:
    """Waits until all events are set, or until `deadline` (of `time.monotonic`)."""
    for event in events:
        while not event.wait(1.0):  # Ray interrupts without a signal, which a longer wait would not notice
            if deadline is not None and time.monotonic() > deadline:
                return


class Schedule:
    """The cells of a run: those still to run, and the outcomes of the others."""

    def __init__(self, cells: Sequence[Cell], options: RunOptions, display: Display, run_cell: RunCell):
        self.options, self.display, self.run_cell = options, display, run_cell
        self.pending, self.total, self.begun = deque(cells), len(cells), 0
        self.open_trials = {cell.name for cell in cells if cell.plan.trial}
        """Names of the trials that have not ended, here or in another run."""
        self.stamps = {cell.name: records.stamp(record_path(options.results, cell)) for cell in cells}
        """Of each cell's record when this run was asked for the cell."""
        self.leases, self.workers = Leases(options.results / "leases"), WorkerProcesses()
        self.lock = threading.RLock()
        self.reported_waiting = False
        self.counts: dict[str, int] = {}
        self.failure: Exception | None = None

    def work(self, slot: Slot, done: threading.Event) -> None:
        """Runs cells in one slot until none is left; sets `done`. The first failure in any slot stops all slots."""
        try:
            slot.enter()
            while (taken := self._next()) is not None:
                cell, lease, number = taken
                with lease:
                    self._run(cell, number, WorkerContext(lease, self.workers, self.display, slot.env, slot.sharing))
        except Stopped:
            pass
        except Exception as failure:
            self.failure = self.failure or failure
            self.workers.stop()
        finally:
            done.set()

    def _next(self) -> tuple[Cell, Lease, int] | None:
        """The next cell that no other run has, with its lease and number; waits while other runs have all the rest."""
        while not self.workers.stopping.is_set():
            with self.lock:
                taken = self._take()
                if taken is not None or not self.pending:
                    return taken
                self._report_waiting()
            time.sleep(_POLL_SECONDS)
        return None

    def _take(self) -> tuple[Cell, Lease, int] | None:
        waiting: list[Cell] = []
        try:
            while self.pending:
                cell = self.pending.popleft()
                if self._waits_for_trials(cell):
                    waiting.append(cell)
                    continue
                if self._lacks_trials(cell):
                    continue
                try:
                    lease = self.leases.take(cell.single_process.name)
                except OSError as error:
                    raise cannot_write(self.options.results, error) from None
                if lease is None:
                    waiting.append(cell)
                    continue
                if self._done_elsewhere(cell):
                    lease.release()
                    continue
                self.begun += 1
                if lease.predecessor:
                    self.display.print_line(f"{cell.name}: taken over from {lease.predecessor.holder}, which is gone")
                return cell, lease, self.begun
            return None
        finally:
            self._requeue(waiting)

    def _waits_for_trials(self, cell: Cell) -> bool:
        return any(trial.name in self.open_trials for trial in cell.trials)

    def _lacks_trials(self, cell: Cell) -> bool:
        """Whether trials of the cell have ended without a result, so that nothing can be chosen; says so."""
        lacking = tuning.unfinished_trials(cell, self.options.results)
        if lacking:
            self.display.print_line(
                f"{cell.name}: left, since {len(lacking)} of its {len(cell.trials)} trials have no result yet: "
                "the same command repeats them"
            )
        return bool(lacking)

    def _done_elsewhere(self, cell: Cell) -> bool:
        """Whether another run has finished or tried the cell since this run was asked for it.

        If that run left it interrupted, this one continues it.
        """
        path = record_path(self.options.results, cell)
        if path.parent.is_dir():
            # A network file system may otherwise answer from its cache, older than the lease; reading one entry of the
            # folder makes it ask the server.
            with os.scandir(path.parent) as entries:
                next(entries, None)
        touched = records.stamp(path) != self.stamps[cell.name]
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
        self.display.print_line(f"{cell.name}: done by another run: {summary(record)}")
        self._end(cell)
        self._split(cell, record)
        return True

    def _run(self, cell: Cell, number: int, context: WorkerContext) -> None:
        try:
            chosen = tuning.choose(cell, self.options.results) if cell.trials else cell
            if chosen.choice and chosen.choice["chosen"] is None:
                record = self._write_without_choice(chosen)
            else:
                record = self.run_cell(chosen, f"{number}/{self.total}", self.options, context)
        except LeaseLost:
            self.display.print_line(f"{cell.name}: another run has taken this cell over")
            self._requeue([cell])
            return
        with self.lock:
            self.counts[record["status"]] = self.counts.get(record["status"], 0) + 1
        self._end(cell)
        self._split(cell, record)

    def _write_without_choice(self, cell: Cell) -> records.Record:
        options = self.options
        record = tuning.record_without_choice(cell, options.origin or provenance.current_origin())
        try:
            records.write(record_path(options.results, cell), record)
        except OSError as error:
            raise cannot_write(options.results, error) from None
        self.display.print_line(f"{cell.name}: {summary(record)}")
        return record

    def _end(self, cell: Cell) -> None:
        """Notes that a trial has ended, so that the cell that waits for it can be looked at again."""
        if cell.plan.trial:
            with self.lock:
                self.open_trials.discard(cell.name)

    def _split(self, cell: Cell, record: records.Record) -> None:
        """Queues the seeds of a cell as separate cells if they do not fit into memory together."""
        if record["status"] == "oom" and len(cell.plan.seeds) > 1:
            self.display.print_line("the seeds do not fit into memory together: running them one by one")
            single_seeds = unfinished(split_seeds(cell), self.options.results)
            results = self.options.results
            self.stamps |= {single.name: records.stamp(record_path(results, single)) for single in single_seeds}
            self.total += len(single_seeds)
            self._requeue(single_seeds)

    def _requeue(self, cells: list[Cell]) -> None:
        """Puts cells at the front of the queue."""
        with self.lock:
            self.pending.extendleft(reversed(cells))

    def _report_waiting(self) -> None:
        elsewhere = [cell for cell in self.pending if not self._waits_for_trials(cell)]
        if elsewhere and not self.reported_waiting:
            self.reported_waiting = True
            self.display.print_line(f"waiting for cells that other runs are at: {len(elsewhere)}")


def divide_device(device: dict[str, Any], used: int, jobs: int | None) -> tuple[list[Slot], dict[str, Any]]:
    """Divides the device into slots; cells on a CPU divide its cores.

    If there are more jobs than groups of `used` GPUs, several share each group and allocate memory as they need it.

    Args:
        device: as the probe describes it.
        used: devices of each cell.
        jobs: cells at once; None: as many as the GPUs allow, or one on other devices.

    Returns:
        One slot per job, and the device as one cell sees it.

    Raises:
        UsageError: there are fewer devices or cores than the jobs need.
    """
    if device["platform"] == "gpu":
        return _gpu_slots(device, used, jobs), device
    if jobs is None or jobs == 1:
        return [Slot()], device
    if device["platform"] != "cpu" or not hasattr(os, "sched_setaffinity"):
        raise UsageError(f"--jobs={jobs}: a {device['platform']} on this system cannot be divided")
    cores = sorted(os.sched_getaffinity(0))
    share_size = len(cores) // jobs
    if not share_size:
        raise UsageError(f"--jobs={jobs}: there are {len(cores)} cores")
    slots = [Slot(tuple(cores[i * share_size : (i + 1) * share_size])) for i in range(jobs)]
    return slots, device | {"host_cores": share_size}


def _gpu_slots(device: dict[str, Any], used: int, jobs: int | None) -> list[Slot]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(device["count"])]
    jobs = max(1, len(names) // used) if jobs is None else jobs
    if jobs == 1 and len(names) == used:
        return [Slot()]
    group_count = len(names) // used
    if not group_count:
        raise UsageError(f"--devices={used}: there are {len(names)}")
    sharing = -(-jobs // group_count)
    memory = {} if sharing == 1 else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    groups = [",".join(names[i * used : (i + 1) * used]) for i in range(group_count)]
    return [
        Slot(env={"CUDA_VISIBLE_DEVICES": groups[job % group_count]} | memory, sharing=sharing) for job in range(jobs)
    ]


def measurement_slots(jobs: int) -> list[Slot]:
    """Slots for measurements that share one device: prepared concurrently, timed in turn (`lra.train.turns`)."""
    if jobs == 1:
        return [Slot()]
    return [Slot(env={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, sharing=jobs)] * jobs
