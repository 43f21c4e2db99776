"""The device: its description, memory used and available, energy."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path
from typing import Any

import jax


def describe(used: int = 1) -> dict[str, Any]:
    """Platform, kind and number of the devices that JAX finds here, and their host.

    Also how many devices a cell uses in all, and of how many processes.
    """
    import jax

    devices = jax.local_devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "used": used,
        "processes": jax.process_count(),
        "host_cpu": _cpu_name(),
        "host_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def memory(compiled_bytes: int | None) -> dict[str, int | None]:
    """Bytes by method, never to be mixed: the accelerator allocator's peak, the program's, the host process's."""
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "device_peak_bytes": stats.get("peak_bytes_in_use"),
        "compiled_bytes": compiled_bytes,
        "host_peak_bytes": _host_peak(),
    }


def _host_peak() -> int | None:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _cpu_name() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


GIB = 2**30
_ROOT = Path("/")


def available_memory(limit: int | None = None, root: Path = _ROOT) -> int | None:
    """Bytes that a program may take on the first device, at most `limit`; None where nothing says.

    An accelerator's allocator says how much it has. On a CPU it is the memory that the kernel calls available, or
    what is left of the process's control group, whichever is smaller.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    known = [stats.get("bytes_limit")] if stats.get("bytes_limit") else [_available(root), _left_of_group(root)]
    return min((b for b in (*known, limit) if b is not None), default=None)


def require_memory(planned: int, limit: int | None = None) -> None:
    """Raises `MemoryError` where a program that plans so many bytes can't run: the machine must not be tried."""
    most = available_memory(limit)
    if most is not None and planned > most:
        raise MemoryError(f"the program plans {planned / GIB:,.2f} GiB and there are {most / GIB:,.2f} GiB")


def _available(root: Path) -> int | None:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _left_of_group(root: Path) -> int | None:
    """The smallest limit of the process's group and those above it, without what the group's processes hold."""
    left = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        # Version 2 has one tree, version 1 one for memory; a container sees its own group at the tree's top.
        top = root / "sys/fs/cgroup" / controllers
        most, held = ("memory.limit_in_bytes", "total_rss") if controllers else ("memory.max", "anon")
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            limit = _read(folder / most).strip()
            used = re.search(rf"^{held} (\d+)", _read(folder / "memory.stat"), re.MULTILINE)
            if limit.isdigit():
                left.append(int(limit) - (int(used[1]) if used else 0))
    return min(left, default=None)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


class EnergyMeter:
    """Energy that the first GPU JAX uses takes from `start` to `stop`, the whole board's.

    Needs the package `nvidia-ml-py`. Whatever fails, the answer is None: a measurement never fails for it.
    """

    def __init__(self, platform: str):
        self.nvml: Any = None
        self.before: int | None = None
        if platform in ("gpu", "cuda"):
            with contextlib.suppress(Exception):
                import pynvml

                pynvml.nvmlInit()
                self.nvml, self.board = pynvml, _board(pynvml)

    def start(self) -> None:
        """The energy counts from here."""
        self.before = self._millijoules()

    def stop(self) -> float | None:
        """Joules since `start`."""
        after = self._millijoules()
        return None if self.before is None or after is None else (after - self.before) / 1000

    def _millijoules(self) -> int | None:
        if self.nvml is not None:
            with contextlib.suppress(Exception):
                return int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.board))
        return None


def _board(nvml: Any) -> Any:
    """NVML's handle of the first visible GPU: $CUDA_VISIBLE_DEVICES names it by number or by UUID."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    return nvml.nvmlDeviceGetHandleByIndex(int(first)) if first.isdigit() else nvml.nvmlDeviceGetHandleByUUID(first)
