"""How much memory a program may take here."""

from __future__ import annotations

import re
from pathlib import Path

import jax

GIB = 2**30
_ROOT = Path("/")


def room(limit: int | None = None, root: Path = _ROOT) -> int | None:
    """Bytes that a program may take on the first device, at most `limit`; None where nothing says.

    An accelerator's allocator says how much it has. On a CPU it is the memory that the kernel calls available, or
    what is left of the process's control group, whichever is smaller.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    known = [stats.get("bytes_limit")] if stats.get("bytes_limit") else [_available(root), _left_of_group(root)]
    return min((b for b in (*known, limit) if b is not None), default=None)


def check(planned: int, limit: int | None = None) -> None:
    """Raises `MemoryError` where a program that plans so many bytes can't run: the machine must not be tried."""
    most = room(limit)
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
