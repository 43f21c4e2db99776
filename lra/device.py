"""What a process that has a device says of it: its kind, versions and memory."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any


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


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("jax", "jaxlib", "flax", "optax", "numpy"):
        found[name] = metadata.version(name)
    return found


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
