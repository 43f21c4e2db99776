"""Ray launcher: one task per cell, with the devices that it needs; the driver writes its files to the results folder.

The driver shares the results folder like any other run: it holds the leases of the cells that it has submitted. Ray
chooses their machines, and retries cells whose machine dies. The part that runs there is `ray_worker`.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from lra.errors import UsageError
from lra.grid import expand
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
"""How often Ray retries a cell whose machine or worker has died."""
PROGRESS_SECONDS = 5.0
_NO_CODE = [".git", ".venv", "/data", "/results", "/leaderboard", "/tests", "/build"]
_SECONDS_TO_SAVE = 90.0
_SECONDS_BETWEEN_TRIES = 10.0
_OTHER_KIND = "Ray chose a machine of another kind, and all trials of a sweep must run on one kind"


class Cluster:
    """A Ray cluster that runs cells; connected inside a `with` block.

    Args:
        address: of the cluster; None: as Ray finds it.

    Raises:
        UsageError: Ray is not installed, there is no cluster at the address, or it has not enough devices.
    """

    def __init__(self, address: str | None, options: RunOptions):
        # For tasks that Ray kills when memory runs out, which it would retry for ever. Read when Ray is imported.
        os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))
        try:
            import ray
        except ImportError:
            raise UsageError("--launcher=ray needs Ray: pip install -e '.[cluster]'") from None
        self.ray, self.address, self.options = ray, address, options
        self.leases = Leases(options.results / "leases")
        self.plans: dict[tuple[Any, ...], Plan] = {}

    def __enter__(self) -> Cluster:
        ray, sigterm_handler = self.ray, signal.getsignal(signal.SIGTERM)
        try:
            _require_listener(self.address)
            code = {"working_dir": str(ROOT), "excludes": _NO_CODE}
            ray.init(address=self.address, runtime_env=code, log_to_driver=False, logging_level="error")
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(f"--ray_address={self.address}: {_first_line(error)}") from None
        signal.signal(signal.SIGTERM, sigterm_handler)  # Ray has installed its own, with which no cell could save
        try:
            self.nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            self.resources = resources_per_cell(self.nodes, self.options.device, self.options.devices)
        except BaseException:
            ray.shutdown()
            raise
        # On this machine, so that the actor survives the death of any other.
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        actor = ray.remote(ray_worker.ProgressActor).options(num_cpus=0, scheduling_strategy=here)
        self.progress_actor = actor.remote()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.ray.shutdown()

    def cells(self, plans: Sequence[Plan]) -> list[Cell]:
        """Expands plans into cells on one of the machines, which prepares their data.

        Raises:
            UsageError: as `expand.cells`, or no machine could run the task.
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
        """One slot for each cell that fits into the cluster as it is now, at most `jobs`."""
        count = capacity(self.nodes, self.resources)
        return [Slot()] * min(count, jobs or count)

    def run_cell(self, cell: Cell, number: str, options: RunOptions, context: WorkerContext) -> records.Record:
        """Runs one cell on the cluster, prints its outcome, and returns its record, as `local.run_cell` does here.

        Args:
            number: position of the cell in the run, such as '3/12'.
            context: the lease, run and display of the cell.

        Raises:
            UsageError: the results folder cannot be written: it is full or write-protected.
            Stopped: the run is stopping, and the cell had nothing to save.
            LeaseLost: another run has taken the cell over.
        """
        label = local.label(cell, number)
        try:
            record = self._run(cell, options, context, label)
        except OSError as error:
            raise cannot_write(options.results, error) from None
        context.display.print_line(f"{label}: {local.summary(record)}")
        return record

    def _run(self, cell: Cell, options: RunOptions, context: WorkerContext, label: str) -> records.Record:
        plan, trial = dataclasses.replace(self.plans[_plan_id(cell.plan)], seeds=cell.plan.seeds), cell.plan.trial
        plan = expand.trial_plan(plan, trial) if trial else plan
        task, leases, keys = self._task(ray_worker.run_plan), [context.lease], [cell.key]
        with ExitStack() as extra_leases:
            while True:
                ref = task.remote(plan, keys, options, self.progress_actor, cell.choice)
                try:
                    remote_cell, files = self._wait(ref, cell, leases, context, label)
                except self.ray.exceptions.TaskCancelledError:
                    raise Stopped from None
                except self.ray.exceptions.RayError as error:
                    return self._record_failure(cell, options, error)
                if remote_cell.key in keys:
                    ray_worker.write_files(options.results, files)
                    if str(record_path(Path(), remote_cell)) not in files:
                        raise Stopped
                    return records.read(record_path(options.results, remote_cell))
                if trial or cell.choice:
                    return self._record_failure(cell, options, RuntimeError(_OTHER_KIND))
                # Ray has chosen a machine of another kind, on which the plan is another cell: it needs its own lease.
                lease = self.leases.take(remote_cell.name)
                if lease is None:  # another run has it; not waited for, as that run may wait for our first lease
                    context.workers.stopping.wait(_SECONDS_BETWEEN_TRIES)
                    continue
                leases.append(extra_leases.enter_context(lease))
                keys.append(remote_cell.key)
                if is_finished(options.results, remote_cell) and not options.reruns_finished:
                    return records.read(record_path(options.results, remote_cell))

    def _wait(self, ref: Any, cell: Cell, leases: Sequence[Lease], context: WorkerContext, label: str) -> Any:
        """Waits for a task and returns its result. If the run is stopping, the task may save first."""
        save_until = None
        with CellProgress(context.display, label, cell.plan.recipe.train.steps) as progress:
            last_read = time.monotonic()
            while not self.ray.wait([ref], timeout=0.5)[0]:
                if any(lease.lost.is_set() for lease in leases):
                    self.ray.cancel(ref, force=True)
                    raise LeaseLost
                if context.workers.stopping.is_set():
                    if save_until is None:
                        self.ray.cancel(ref)
                        save_until = time.monotonic() + _SECONDS_TO_SAVE
                    elif time.monotonic() > save_until:
                        raise Stopped
                elif time.monotonic() - last_read > PROGRESS_SECONDS:
                    last_read = time.monotonic()
                    metrics = self._progress(cell)
                    if "step" in metrics:
                        context.lease.progress = metrics
                        progress.update(metrics)
        return self.ray.get(ref)

    def _progress(self, cell: Cell) -> dict[str, float]:
        try:
            ref = self.progress_actor.read.remote(cell.key)
            metrics: dict[str, float] = self.ray.get(ref, timeout=PROGRESS_SECONDS)
        except self.ray.exceptions.RayError:  # only the display and the lease go without
            return {}
        return metrics

    def _record_failure(self, cell: Cell, options: RunOptions, error: Exception) -> records.Record:
        """Writes and returns the record of a cell that Ray has given up."""
        cause = getattr(error, "cause", None) or error
        out_of_memory = isinstance(error, self.ray.exceptions.OutOfMemoryError)
        record = provenance.initial_record(cell, options.origin or provenance.current_origin()) | {
            "status": "oom" if out_of_memory else "failed",
            "error": f"{type(cause).__name__}: {_first_line(cause)}"[:500],
        }
        records.write(record_path(options.results, cell), record)
        return record

    def _task(self, function: Any) -> Any:
        return self.ray.remote(function).options(max_retries=RETRIES, **self.resources)


def _require_listener(address: str | None) -> None:
    """Raises `OSError` if nothing listens at host:port; Ray would take minutes to notice, and then crash."""
    host, _, port = (address or "").rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def resources_per_cell(nodes: Sequence[Mapping[str, float]], device: str, devices: int) -> dict[str, float]:
    """The resources that a cell requests from Ray: its GPUs, or as many CPUs as the smallest machine has.

    Args:
        nodes: each machine's resources.
        device: 'gpu', 'cpu', or 'auto' for GPUs if there are any.
        devices: GPUs of each cell.

    Raises:
        UsageError: no machine has enough GPUs.
    """
    gpus = max((node.get("GPU", 0) for node in nodes), default=0)
    if device == "gpu" or (device == "auto" and gpus):
        if gpus < devices:
            raise UsageError(f"--launcher=ray: no machine of the cluster has {devices} GPUs")
        return {"num_gpus": devices}
    return {"num_cpus": min(node["CPU"] for node in nodes if node.get("CPU"))}


def capacity(nodes: Sequence[Mapping[str, float]], resources: Mapping[str, float]) -> int:
    """How many cells with these resources the nodes can run at once; at least 1."""
    ((name, amount),) = resources.items()
    return max(1, sum(int(node.get(_NODE_RESOURCES[name], 0) // amount) for node in nodes))


_NODE_RESOURCES = {"num_cpus": "CPU", "num_gpus": "GPU"}


def _plan_id(plan: Plan) -> tuple[Any, ...]:
    """Identifies one of the grid's plans, regardless of its seeds."""
    return plan.task, str(plan.model), plan.length


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
