"""Files that are whole or not there: locks, checksums, syncing."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.task import DataError

Report = Callable[[str], None]


@contextlib.contextmanager
def locked(folder: Path, name: str, report: Report) -> Iterator[None]:
    """Holds `folder`'s lock on `name`: of two processes that want to make the same thing, one waits.

    The lock belongs to the open file, so a process that dies leaves none behind.

    Raises:
        DataError: the folder cannot be written.
    """
    with writing(folder):
        make_folder(folder)
        lock = open(folder / f".{name}.lock", "w")  # noqa: SIM115
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another process that makes {name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns an `OSError` into one line that names the folder, or the file that was read meanwhile.

    Such as a full disk, or a read-only folder.
    """
    try:
        yield
    except OSError as error:
        file = error.filename
        if isinstance(file, str) and not Path(file).is_relative_to(folder):
            raise DataError(f"cannot read {file}: {error.strerror}") from None
        raise DataError(f"cannot write {folder}: {error.strerror or error}") from None


def sync(path: Path) -> None:
    """Has the system put a file, or a folder's list of files, on the disk before anything later."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_all(folder: Path) -> None:
    """`sync` of a folder and of everything below it."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(place, name))
        sync(Path(place))


def make_folder(folder: Path) -> None:
    """Makes a folder that outlasts a power cut, and those above it. Raises `OSError`."""
    if not folder.is_dir():
        if not folder.parent.exists():
            make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file, and folders where they are missing: whole or not at all. Raises `OSError`.

    Beside its place, synced, then renamed: once this has returned, the file outlasts a power cut; until then, the one
    before does.
    """
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync(path.parent)


def sha256(path: Path) -> str:
    """The file's checksum. Within one process a file is read once, as long as its size and time stay."""
    stat = path.stat()
    return _sha256(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, inode: int, size: int, time_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Progress:
    """Reports a line at most every two seconds."""

    def __init__(self, report: Report) -> None:
        self.report, self.told = report, time.monotonic()

    def __call__(self, line: Callable[[], str]) -> None:
        if time.monotonic() - self.told > 2:
            self.told = time.monotonic()
            self.report(line())
