"""The parts of a machine that cells run on, one cell a slot. Imports no JAX."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from lra.recipe import UsageError


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
    """Slots of measurements on one device: they are made ready side by side and timed in turn (`lra.turns`)."""
    if jobs == 1:
        return [Slot()]
    return [Slot(env={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, sharing=jobs)] * jobs
