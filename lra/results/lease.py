"""Leases: which run has which cell, so that several runs share a results folder. Imports no JAX.

A lease is a file `leases/CELL.GENERATION`. It is taken by creating it, which only one can do; its owner writes it anew
every few seconds; whoever finds it dead takes the cell by creating the next generation, which again only one can do.
Nothing is ever deleted but by the owner of the newest generation, who deletes the oldest first.

On NFS, link(2) is atomic where O_EXCL may not be, and may report a failure though it succeeded: the number of links
decides (open(2), "O_EXCL"). Closing a file sends it to the server and opening one asks the server for it, so that a
heartbeat is seen. No two clocks are ever compared: an observer measures by its own how long a lease has not changed.

Nothing here is synced: a power cut ends every owner it could be lost by, and what it leaves half written is dead.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

HEARTBEAT_SECONDS = 10.0
DEAD_SECONDS = 60.0
"""So long a lease may stay unchanged under an observer's eyes."""
_BYTES = 1000
"""A lease is overwritten in place, so it always has the same size."""


@dataclasses.dataclass(frozen=True)
class LeaseFile:
    """A lease as it was found."""

    path: Path
    generation: int
    raw: bytes
    touched: float = 0.0
    """When it was written, in seconds by the file system's clock: for people, never for judging."""

    @property
    def contents(self) -> dict[str, Any]:
        """What its owner wrote; nothing where it is just being written."""
        try:
            told = json.loads(self.raw)
        except (ValueError, RecursionError):
            return {}
        return told if isinstance(told, dict) else {}

    @property
    def holder(self) -> str:
        """Its owner, for people."""
        return f"{self.contents.get('host', 'an unknown host')}, process {self.contents.get('pid', 'unknown')}"


def newest_lease(folder: Path, name: str) -> LeaseFile | None:
    """A cell's lease, None where nobody has one."""
    return all_leases(folder, name).get(name)


def all_leases(folder: Path, name: str | None = None) -> dict[str, LeaseFile]:
    """The leases of a folder by their cells' names, or only one cell's."""
    found: dict[str, LeaseFile] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        cell, _, generation = path.name.rpartition(".")
        if cell and name in (None, cell) and generation.isdigit():
            with contextlib.suppress(OSError):  # deleted meanwhile
                seen = LeaseFile(path, int(generation), path.read_bytes(), path.stat().st_mtime)
                found[cell] = max(found.get(cell, seen), seen, key=lambda s: s.generation)
    return found


def machine_id() -> str:
    """The running system that process ids are of: host, boot, name space of ids. Empty where it does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def process_start(pid: int) -> str:
    """When a process started, in the kernel's ticks, which tells it from a later one; empty where it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]


def owner_exited(told: dict[str, Any]) -> bool:
    """Whether a lease's owner is a process of this machine that has ended."""
    here, pid = machine_id(), told.get("pid")
    return (
        bool(here)
        and told.get("machine") == here
        and isinstance(pid, int)
        and process_start(pid) != told.get("started")
    )


class Leases:
    """Takes leases in a folder, and watches those of others."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.watched: dict[str, tuple[bytes, float]] = {}

    def take(self, name: str) -> Lease | None:
        """The cell's lease, None while another has it. Raises `OSError` where the folder cannot be written."""
        seen = newest_lease(self.folder, name)
        if seen is not None and not self.is_dead(name, seen):
            return None
        lease = Lease(self.folder, name, seen)
        return lease if lease.acquire() else None

    def is_dead(self, name: str, seen: LeaseFile) -> bool:
        """Whether a lease's owner has ended on this machine, or has given no sign for too long."""
        now = time.monotonic()
        if name not in self.watched or self.watched[name][0] != seen.raw:
            self.watched[name] = (seen.raw, now)
        return owner_exited(seen.contents) or now - self.watched[name][1] >= DEAD_SECONDS


class Lease:
    """A cell that is ours until it is released; renewed by a thread in a `with` block."""

    def __init__(self, folder: Path, name: str, before: LeaseFile | None):
        self.folder, self.name, self.predecessor = folder, name, before
        self.generation = before.generation + 1 if before else 1
        self.path = folder / f"{name}.{self.generation}"
        self.owner = secrets.token_hex(8)
        self.beats, self.progress = 0, dict[str, float]()
        self.on_lost: Callable[[], None] = lambda: None
        self.lost, self.over = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def acquire(self) -> bool:
        """Tries to take the lease. Raises `OSError`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._create():
            return False
        # Between looking and creating, the lease looked at may have been released, and the cell taken anew.
        now = newest_lease(self.folder, self.name)
        stale = self.predecessor is not None and _owner(self.predecessor.path) != self.predecessor.contents.get("owner")
        if stale or now is None or now.path != self.path:
            self.path.unlink(missing_ok=True)
            return False
        return True

    def _create(self) -> bool:
        beside = self.folder / f".{self.owner}"
        try:
            with open(beside, "xb") as file:
                file.write(self._content())
            try:
                os.link(beside, self.path)
            except FileExistsError:
                pass
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                    raise
                return self._create_exclusively()
            return os.stat(beside).st_nlink == 2
        finally:
            beside.unlink(missing_ok=True)

    def _create_exclusively(self) -> bool:
        """For file systems without hard links."""
        try:
            with open(self.path, "xb") as file:
                file.write(self._content())
        except FileExistsError:
            return False
        return True

    def _content(self) -> bytes:
        told = {
            "owner": self.owner,
            "after": self.predecessor.contents.get("owner") if self.predecessor else None,
            "host": platform.node(),
            "pid": os.getpid(),
            "started": process_start(os.getpid()),
            "machine": machine_id(),
            "time": time.time(),
            "beat": self.beats,
            "progress": self.progress,
        }
        return json.dumps(told).encode().ljust(_BYTES)

    def renew(self) -> bool:
        """Writes a sign of life; False where another has taken the cell. Raises `OSError`."""
        self.beats += 1
        try:
            # The file that is opened stays the one written to, whatever takes its place meanwhile.
            with open(self.path, "r+b") as file:
                if LeaseFile(self.path, 0, file.read()).contents.get("owner") != self.owner:
                    return False
                file.seek(0)
                file.write(self._content())
        except FileNotFoundError:
            return False
        after = LeaseFile(self.path, 0, _read(self.folder / f"{self.name}.{self.generation + 1}")).contents.get("after")
        return bool(after != self.owner)

    def release(self) -> None:
        """Gives the cell back; a lease that was lost is its new owner's to delete."""
        if self.lost.is_set():
            return
        for generation in range(1, self.generation + 1):
            (self.folder / f"{self.name}.{generation}").unlink(missing_ok=True)

    def __enter__(self) -> Lease:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.over.set()
        self.thread.join()
        with contextlib.suppress(OSError):  # it will be found dead
            self.release()

    def _beat(self) -> None:
        while not self.over.wait(HEARTBEAT_SECONDS):
            try:
                renewed = self.renew()
            except OSError:  # a file server that is away for a while; whoever sees it first judges
                continue
            if not renewed:
                self.lost.set()
                self.on_lost()
                return


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _owner(path: Path) -> Any:
    return LeaseFile(path, 0, _read(path)).contents.get("owner")
