"""A grid on a Ray cluster: one task a cell, with the devices it needs; what it made comes home. Imports no JAX.

The driver takes part in the schedule of its results folder like any run: it holds the leases of the cells it has
submitted, and Ray chooses their machines and tries them again where one dies. What runs there: `ray_worker`.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from lra.errors import UsageError
from lra.grid.cell import Cell, Plan
from lra.grid.spec import RunOptions
from lra.launch import local, ray_worker
from lra.launch.process import LeaseLost, Stopped, WorkerContext
from lra.launch.progress import CellProgress
from lra.launch.scheduler import Slot
from lra.results import provenance, records
from lra.results.folder import cannot_write, is_finished, record_path
from lra.results.lease import Lease, Leases
from lra.results.provenance import ROOT
from tasks.task import DataError

RETRIES = 3
"""How often a cell is tried again whose machine or worker has died."""
PROGRESS_SECONDS = 5.0
_NO_CODE = [".git", ".venv", "/data", "/results", "/leaderboard", "/tests", "/build"]
_SECONDS_TO_SAVE = 90.0
_SECONDS_BETWEEN_TRIES = 10.0


class Cluster:
    """A Ray cluster that runs cells; connected in a `with` block.

    Raises:
        UsageError: Ray is not installed, there is no cluster at the address, or it has not enough devices.
    """

    def __init__(self, address: str | None, options: RunOptions):
        # Of a task that Ray itself ends for memory; it would be tried again for ever. Read when Ray is imported.
        os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))
        try:
            import ray
        except ImportError:
            raise UsageError("--launcher=ray needs Ray: pip install -e '.[cluster]'") from None
        self.ray, self.address, self.options = ray, address, options
        self.leases = Leases(options.results / "leases")
        self.plans: dict[tuple[Any, ...], Plan] = {}

    def __enter__(self) -> Cluster:
        ray, terminated = self.ray, signal.getsignal(signal.SIGTERM)
        try:
            _require_listener(self.address)
            code = {"working_dir": str(ROOT), "excludes": _NO_CODE}
            ray.init(address=self.address, runtime_env=code, log_to_driver=False, logging_level="error")
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(f"--ray_address={self.address}: {_first_line(error)}") from None
        signal.signal(signal.SIGTERM, terminated)  # Ray has set its own, which would let no cell save
        try:
            self.nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            self.needs = resources_per_cell(self.nodes, self.options.device, self.options.devices)
        except BaseException:
            ray.shutdown()
            raise
        # On this machine, so that no other's death takes it along.
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self.board = ray.remote(ray_worker.ProgressActor).options(num_cpus=0, scheduling_strategy=here).remote()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.ray.shutdown()

    def cells(self, plans: Sequence[Plan]) -> list[Cell]:
        """The plans' cells as one of the machines sees them, which prepares their data.

        Raises:
            UsageError: as `grid.cell`, or no machine could tell.
            tasks.DataError: no source has the data there, or they are damaged.
        """
        self.plans = {_plan_id(plan): plan for plan in plans}
        try:
            ref = self._task(ray_worker.cells).remote(list(plans), self.options)
            cells: list[Cell] = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, UsageError | DataError):
                raise cause from None
            raise UsageError(f"--launcher=ray: {_first_line(error)}") from None
        return cells

    def slots(self, jobs: int | None) -> list[Slot]:
        """A slot for each cell that has room in the cluster as it is now, at most so many `jobs`."""
        places = capacity(self.nodes, self.needs)
        return [Slot()] * min(places, jobs or places)

    def run(self, cell: Cell, number: str, options: RunOptions, context: WorkerContext) -> records.Record:
        """Runs one cell on the cluster, prints how it ended, and returns its record, as `launch.run_told` does here.

        Raises:
            UsageError: the results folder cannot be written, for want of space or of permission.
            Stopped: the run is being stopped, and the cell had nothing to save.
            LeaseLost: another run has taken the cell over.
        """
        label = local.label(cell, number)
        try:
            record = self._run(cell, options, context, label)
        except OSError as error:
            raise cannot_write(options.results, error) from None
        context.display.line(f"{label}: {local.summary(record)}")
        return record

    def _run(self, cell: Cell, options: RunOptions, context: WorkerContext, label: str) -> records.Record:
        plan = dataclasses.replace(self.plans[_plan_id(cell.plan)], seeds=cell.plan.seeds)
        task, held, keys = self._task(ray_worker.run_plan), [context.lease], [cell.key]
        with ExitStack() as more:
            while True:
                ref = task.remote(plan, keys, options, self.board)
                try:
                    found, files = self._wait(ref, cell, held, context, label)
                except self.ray.exceptions.TaskCancelledError:
                    raise Stopped from None
                except self.ray.exceptions.RayError as error:
                    return self._lost(cell, options, error)
                if found.key in keys:
                    ray_worker.write_files(options.results, files)
                    if f"{records.RESULTS}/{found.name}.json" not in files:
                        raise Stopped
                    return records.read(record_path(options.results, found))
                # Ray has chosen a machine of another kind, where this is another cell: it needs a lease of its own.
                lease = self.leases.take(found.name)
                if lease is None:  # a run is at it; not waited for, as that run may wait for our first lease
                    context.workers.stopping.wait(_SECONDS_BETWEEN_TRIES)
                    continue
                held.append(more.enter_context(lease))
                keys.append(found.key)
                if is_finished(options.results, found) and not options.reruns_finished:
                    return records.read(record_path(options.results, found))

    def _wait(self, ref: Any, cell: Cell, held: Sequence[Lease], context: WorkerContext, label: str) -> Any:
        """What a task returns. A run that is being stopped lets it save first."""
        until = None
        with CellProgress(context.display, label, cell.plan.recipe.train.steps) as progress:
            looked = time.monotonic()
            while not self.ray.wait([ref], timeout=0.5)[0]:
                if any(lease.lost.is_set() for lease in held):
                    self.ray.cancel(ref, force=True)
                    raise LeaseLost
                if context.workers.stopping.is_set():
                    if until is None:
                        self.ray.cancel(ref)
                        until = time.monotonic() + _SECONDS_TO_SAVE
                    elif time.monotonic() > until:
                        raise Stopped
                elif time.monotonic() - looked > PROGRESS_SECONDS:
                    looked = time.monotonic()
                    told = self._told(cell)
                    if "step" in told:
                        context.lease.progress = told
                        progress.update(told)
        return self.ray.get(ref)

    def _told(self, cell: Cell) -> dict[str, float]:
        try:
            told: dict[str, float] = self.ray.get(self.board.read.remote(cell.key), timeout=PROGRESS_SECONDS)
        except self.ray.exceptions.RayError:  # only the display misses it
            return {}
        return told

    def _lost(self, cell: Cell, options: RunOptions, error: Exception) -> records.Record:
        """The record of a cell that Ray has given up."""
        cause = getattr(error, "cause", None) or error
        memory = isinstance(error, self.ray.exceptions.OutOfMemoryError)
        told = {"status": "oom" if memory else "failed", "error": f"{type(cause).__name__}: {_first_line(cause)}"[:500]}
        record = provenance.initial_record(cell, options.origin or provenance.current_origin()) | told
        records.write(record_path(options.results, cell), record)
        return record

    def _task(self, function: Any) -> Any:
        return self.ray.remote(function).options(max_retries=RETRIES, **self.needs)


def _require_listener(address: str | None) -> None:
    """Raises `OSError` where nobody listens at host:port, which Ray would find out after minutes, and die of."""
    host, _, port = (address or "").rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def resources_per_cell(nodes: Sequence[Mapping[str, float]], device: str, devices: int) -> dict[str, float]:
    """What a cell asks Ray for, by Ray's names of resources. Raises `UsageError` where no machine has it."""
    gpus = max((node.get("GPU", 0) for node in nodes), default=0)
    if device == "gpu" or (device == "auto" and gpus):
        if gpus < devices:
            raise UsageError(f"--launcher=ray: no machine of the cluster has {devices} GPUs")
        return {"num_gpus": devices}
    return {"num_cpus": min(node["CPU"] for node in nodes if node.get("CPU"))}


def capacity(nodes: Sequence[Mapping[str, float]], needs: Mapping[str, float]) -> int:
    """How many cells with these needs the nodes can run at once; at least 1."""
    ((name, need),) = needs.items()
    return max(1, sum(int(node.get(_RESOURCES[name], 0) // need) for node in nodes))


_RESOURCES = {"num_cpus": "CPU", "num_gpus": "GPU"}


def _plan_id(plan: Plan) -> tuple[Any, ...]:
    """What tells a grid's plans apart but for their seeds."""
    return plan.task, str(plan.model), plan.length


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
