"""The device: its description, memory used and available, and energy."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
from pathlib import Path
from typing import Any

import jax


def describe(used: int = 1) -> dict[str, Any]:
    """Describes this process's devices and host; `used` counts the devices that the cell uses in all processes."""
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
    """Returns bytes by three incomparable methods: allocator's peak, compiled program, host process's peak."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "device_peak_bytes": stats.get("peak_bytes_in_use"),
        "compiled_bytes": compiled_bytes,
        "host_peak_bytes": _host_peak(),
    }


def _host_peak() -> int | None:
    match = re.search(r"VmHWM:\s+(\d+) kB", _read(Path("/proc/self/status")))
    return int(match[1]) * 1024 if match else None


def _cpu_name() -> str:
    match = re.search(r"model name\s*: (.*)", _read(Path("/proc/cpuinfo")))
    return match[1] if match else platform.processor() or platform.machine()


def cpu_id() -> str:
    """Names the kind of this machine's CPU, as 'x86_64-1f2e3d4c': its architecture and a hash of what it supports.

    A program that is compiled for one kind may end another's process by an illegal instruction.
    """
    features = re.search(r"^(?:flags|Features)\s*:(.*)", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    supported = " ".join(sorted(features[1].split())) if features else _cpu_name()
    return f"{platform.machine() or 'cpu'}-{hashlib.sha256(supported.encode()).hexdigest()[:8]}"


GIB = 2**30
_ROOT = Path("/")


def available_memory(limit: int | None = None, root: Path = _ROOT) -> int | None:
    """Returns the bytes that a program may take on the first device, at most `limit`; None if unknown.

    On an accelerator, this is its allocator's limit. On a CPU, it is the memory that the kernel reports as available
    or that remains in the process's control group, whichever is smaller.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    known = [stats.get("bytes_limit")] if stats.get("bytes_limit") else [_host_available(root), _group_headroom(root)]
    return min((b for b in (*known, limit) if b is not None), default=None)


def require_memory(planned: int, limit: int | None = None) -> None:
    """Raises `MemoryError` if a program of `planned` bytes does not fit: running it could bring the host down."""
    available = available_memory(limit)
    if available is not None and planned > available:
        raise MemoryError(f"the program plans {planned / GIB:,.2f} GiB and there are {available / GIB:,.2f} GiB")


def _host_available(root: Path) -> int | None:
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _group_headroom(root: Path) -> int | None:
    """Returns the least headroom (limit minus usage) of the process's control group and its ancestors."""
    headroom = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        # Version 2 has one tree, version 1 one for memory; a container sees its own group at the tree's top.
        top = root / "sys/fs/cgroup" / controllers
        limit_file, usage_key = ("memory.limit_in_bytes", "total_rss") if controllers else ("memory.max", "anon")
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            limit = _read(folder / limit_file).strip()
            used = re.search(rf"^{usage_key} (\d+)", _read(folder / "memory.stat"), re.MULTILINE)
            if limit.isdigit():
                headroom.append(int(limit) - (int(used[1]) if used else 0))
    return min(headroom, default=None)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


class EnergyMeter:
    """Measures the energy that the board of JAX's first GPU consumes from `start` to `stop`.

    Needs the package `nvidia-ml-py`. After any failure the result is None, so that the measurement itself continues.
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
        """Starts counting."""
        self.before = self._millijoules()

    def stop(self) -> float | None:
        """Returns the joules consumed since `start`."""
        after = self._millijoules()
        return None if self.before is None or after is None else (after - self.before) / 1000

    def _millijoules(self) -> int | None:
        if self.nvml is not None:
            with contextlib.suppress(Exception):
                return int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.board))
        return None


def _board(nvml: Any) -> Any:
    """Returns NVML's handle of the first visible GPU, which $CUDA_VISIBLE_DEVICES names by number or by UUID."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    return nvml.nvmlDeviceGetHandleByIndex(int(first)) if first.isdigit() else nvml.nvmlDeviceGetHandleByUUID(first)
