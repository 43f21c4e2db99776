"""Durable files: atomic writes, locks, checksums, syncing."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from tasks.task import DataError

Report = Callable[[str], None]


@contextlib.contextmanager
def locked(folder: Path, name: str, report: Report) -> Iterator[None]:
    """Holds the lock on `name` in `folder`: of two processes that build the same thing, one waits.

    The lock belongs to the open file, so a process that dies releases it.

    Args:
        folder: the folder of the lock file; created if missing.
        name: the thing to build.
        report: receives a message if another process holds the lock.

    Raises:
        DataError: the folder cannot be written.
    """
    with writing(folder):
        make_folder(folder)
        lock = open(folder / f".{name}.lock", "w")  # noqa: SIM115
    with lock:
        if not try_lock(lock):
            report(f"waiting for another process to build {name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def try_lock(file: IO[str]) -> bool:
    """Takes the lock on an open file without waiting; returns whether it was free. Closing the file releases it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns an `OSError`, such as a full disk, into a `DataError` that names the folder, or the file being read."""
    try:
        yield
    except OSError as error:
        file = error.filename
        if isinstance(file, str) and not Path(file).is_relative_to(folder):
            raise DataError(f"cannot read {file}: {error.strerror}") from None
        raise DataError(f"cannot write {folder}: {error.strerror or error}") from None


def sync(path: Path) -> None:
    """Flushes a file, or a folder's list of files, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_all(folder: Path) -> None:
    """Flushes a folder and everything below it to the disk."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def make_folder(folder: Path) -> None:
    """Creates a folder and its parents so that they survive a power cut. Raises `OSError`."""
    if not folder.is_dir():
        if not folder.parent.exists():
            make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file atomically, creating missing folders. Raises `OSError`.

    The file is written under a temporary name, synced and renamed: after a power cut it is the old one until this
    returns, and the new one from then on.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def sha256(path: Path) -> str:
    """The file's checksum, cached within the process while the file's size and time stay the same."""
    stat = path.stat()
    return _sha256(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, inode: int, size: int, time_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Progress:
    """Reports a progress message at most every two seconds."""

    def __init__(self, report: Report) -> None:
        self.report, self.last_time = report, time.monotonic()

    def __call__(self, line: Callable[[], str]) -> None:
        if time.monotonic() - self.last_time > 2:
            self.last_time = time.monotonic()
            self.report(line())
