"""Leases: which run owns which cell, so that several runs can share a results folder.

A lease is a file `leases/CELL.GENERATION`. A run takes a free cell by creating the file, which only one run can do, and
rewrites it every few seconds. Whoever finds a lease dead takes the cell by creating the next generation, which again
only one run can do. Only the owner of the newest generation deletes files, the oldest first.

On NFS, link(2) is atomic where O_EXCL may not be, and may report a failure though it succeeded: the number of links
decides (open(2), "O_EXCL"). Closing a file sends it to the server and opening one asks the server for it, so that
heartbeats are seen. Clocks are never compared: an observer measures by its own how long a lease has not changed.

Nothing here is synced: a power cut that loses a lease also ends its owner, and a half-written lease counts as dead.
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
"""A lease is dead once an observer has seen it unchanged for this long."""
_BYTES = 1000
"""Size of every lease: it is overwritten in place."""


@dataclasses.dataclass(frozen=True)
class LeaseFile:
    """A lease as read from its file."""

    path: Path
    generation: int
    raw: bytes
    touched: float = 0.0
    """When it was written, by the file system's clock: to be shown to people, never to decide by."""

    @property
    def contents(self) -> dict[str, Any]:
        """The fields its owner wrote; empty while the file is half written."""
        try:
            contents = json.loads(self.raw)
        except (ValueError, RecursionError):
            return {}
        return contents if isinstance(contents, dict) else {}

    @property
    def holder(self) -> str:
        """Its owner, as people name it."""
        return f"{self.contents.get('host', 'an unknown host')}, process {self.contents.get('pid', 'unknown')}"


def newest_lease(folder: Path, name: str) -> LeaseFile | None:
    """The newest lease on a cell, or None."""
    return all_leases(folder, name).get(name)


def all_leases(folder: Path, name: str | None = None) -> dict[str, LeaseFile]:
    """The newest lease on each cell by the cell's name, or only on the cell `name`."""
    leases: dict[str, LeaseFile] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        cell, _, generation = path.name.rpartition(".")
        if cell and name in (None, cell) and generation.isdigit():
            with contextlib.suppress(OSError):  # deleted meanwhile
                lease = LeaseFile(path, int(generation), path.read_bytes(), path.stat().st_mtime)
                leases[cell] = max(leases.get(cell, lease), lease, key=lambda known: known.generation)
    return leases


def machine_id() -> str:
    """The running system that process ids belong to: host, boot and PID namespace; empty if that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def process_start(pid: int) -> str:
    """When a process started, in kernel ticks, which tells it from a later one with its id; empty if it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]


def owner_exited(contents: dict[str, Any]) -> bool:
    """Whether a lease's owner was a process of this machine and has ended."""
    here, pid = machine_id(), contents.get("pid")
    if not here or contents.get("machine") != here or not isinstance(pid, int):
        return False
    return process_start(pid) != contents.get("started")


class Leases:
    """Takes leases in a folder, and watches those of other runs."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.watched: dict[str, tuple[bytes, float]] = {}

    def take(self, name: str) -> Lease | None:
        """Takes the lease on a cell; None if another run holds it.

        Raises:
            OSError: the folder cannot be written.
        """
        current = newest_lease(self.folder, name)
        if current is not None and not self.is_dead(name, current):
            return None
        lease = Lease(self.folder, name, current)
        return lease if lease.acquire() else None

    def is_dead(self, name: str, current: LeaseFile) -> bool:
        """Whether a lease's owner has ended on this machine, or has sent no heartbeat for `DEAD_SECONDS`."""
        now = time.monotonic()
        if name not in self.watched or self.watched[name][0] != current.raw:
            self.watched[name] = (current.raw, now)
        return owner_exited(current.contents) or now - self.watched[name][1] >= DEAD_SECONDS


class Lease:
    """Ownership of a cell until it is released; in a `with` block, a thread renews it."""

    def __init__(self, folder: Path, name: str, predecessor: LeaseFile | None):
        self.folder, self.name, self.predecessor = folder, name, predecessor
        self.generation = predecessor.generation + 1 if predecessor else 1
        self.path = folder / f"{name}.{self.generation}"
        self.owner = secrets.token_hex(8)
        self.beats, self.progress = 0, dict[str, float]()
        self.on_lost: Callable[[], None] = lambda: None
        self.lost, self.ended = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._send_heartbeats, daemon=True)

    def acquire(self) -> bool:
        """Tries to take the lease.

        Raises:
            OSError: the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._create():
            return False
        # Between reading and creating, the predecessor may have been released, and the cell taken by another run.
        newest = newest_lease(self.folder, self.name)
        predecessor = self.predecessor
        replaced = predecessor is not None and _owner(predecessor.path) != predecessor.contents.get("owner")
        if replaced or newest is None or newest.path != self.path:
            self.path.unlink(missing_ok=True)
            return False
        return True

    def _create(self) -> bool:
        temporary = self.folder / f".{self.owner}"
        try:
            with open(temporary, "xb") as file:
                file.write(self._encode())
            try:
                os.link(temporary, self.path)
            except FileExistsError:
                pass
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                    raise
                return self._create_exclusively()
            return os.stat(temporary).st_nlink == 2
        finally:
            temporary.unlink(missing_ok=True)

    def _create_exclusively(self) -> bool:
        """For file systems without hard links."""
        try:
            with open(self.path, "xb") as file:
                file.write(self._encode())
        except FileExistsError:
            return False
        return True

    def _encode(self) -> bytes:
        contents = {
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
        return json.dumps(contents).encode().ljust(_BYTES)

    def renew(self) -> bool:
        """Writes a heartbeat. Returns False if another run has taken the cell.

        Raises:
            OSError: the file cannot be read or written for now.
        """
        self.beats += 1
        try:
            # The opened file is the one written to, even if another takes its place meanwhile.
            with open(self.path, "r+b") as file:
                if LeaseFile(self.path, 0, file.read()).contents.get("owner") != self.owner:
                    return False
                file.seek(0)
                file.write(self._encode())
        except FileNotFoundError:
            return False
        successor = LeaseFile(self.path, 0, _read(self.folder / f"{self.name}.{self.generation + 1}"))
        return bool(successor.contents.get("after") != self.owner)

    def release(self) -> None:
        """Gives the cell back. A lost lease is left for its new owner to delete."""
        if self.lost.is_set():
            return
        for generation in range(1, self.generation + 1):
            (self.folder / f"{self.name}.{generation}").unlink(missing_ok=True)

    def __enter__(self) -> Lease:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.ended.set()
        self.thread.join()
        with contextlib.suppress(OSError):  # other runs will find it dead
            self.release()

    def _send_heartbeats(self) -> None:
        while not self.ended.wait(HEARTBEAT_SECONDS):
            try:
                renewed = self.renew()
            except OSError:  # an unreachable file server; whoever reaches it first decides
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
