"""What runs on the machines of a Ray cluster, in Ray's worker processes. Imports no JAX."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from lra.grid import expand
from lra.grid.cell import Cell, Plan
from lra.grid.spec import RunOptions
from lra.launch import local, process, scheduler
from lra.launch.process import WorkerContext
from lra.results import records
from lra.results.folder import unfinished
from tasks.io.files import write_whole

TELL_SECONDS = 5.0
_SECONDS_BETWEEN_LOOKS = 0.5
_BROUGHT_HOME = ("records/*.json", "logs/*.log", "tensorboard/**/*", "profiles/**/*")

Files = dict[str, bytes]
"""Contents by their paths in a results folder."""


class ProgressActor:
    """An actor where tasks write how far they are, and their driver reads it."""

    def __init__(self) -> None:
        self.told: dict[str, dict[str, float]] = {}

    def write(self, key: str, progress: dict[str, float]) -> None:
        """A cell's progress."""
        self.told[key] = progress

    def read(self, key: str) -> dict[str, float]:
        """A cell's progress; empty where none has been told."""
        return self.told.get(key, {})


def cells(plans: Sequence[Plan], options: RunOptions) -> list[Cell]:
    """The cells that plans are on this machine; prepares their data.

    Raises:
        UsageError: this machine has not the device, or not so many; or as `expand.make_cell`.
        tasks.DataError: no source has the data, or they are damaged.
    """
    device, typed = process.probe(options.device, [plan.model for plan in plans])
    return expand.make_cells(plans, device, typed, options, _silent)


def run(plan: Plan, keys: Sequence[str], options: RunOptions, board: Any) -> tuple[Cell, Files]:
    """Runs a plan's cell if its key is one of the `keys`, which the driver has leases of; the first names it to it.

    Returns the cell that the plan is on this machine, and what the run left, with paths as in a results folder.
    """
    (cell,) = cells([plan], dataclasses.replace(options, vmap_seeds="off"))
    if cell.key not in keys:
        return cell, {}

    def told(cell: Cell, number: str, options: RunOptions, context: WorkerContext) -> records.Record:
        with _telling(lambda: board.write.remote(keys[0], context.lease.progress)):
            return local.run_cell(cell, number, options, context)

    name = f"lra-{os.getuid()}-{cell.key[:16]}"
    with alone(Path(tempfile.gettempdir()) / name) as folder, open(os.devnull, "w") as nowhere:
        left = [cell] if options.fresh else unfinished([cell], folder)
        with contextlib.suppress(KeyboardInterrupt):  # the driver's cancel: the cell has saved, and its record says so
            scheduler.run_cells(
                left, dataclasses.replace(options, results=folder), Console(file=nowhere), run_cell=told
            )
        found = [file for pattern in _BROUGHT_HOME for file in folder.glob(pattern) if file.is_file()]
        files = {str(file.relative_to(folder)): file.read_bytes() for file in found}
        if any((folder / "checkpoints").glob("*")):
            shutil.rmtree(folder / records.RESULTS, ignore_errors=True)  # what a next try finds is not yet home
        else:
            shutil.rmtree(folder)
    return cell, files


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[Path]:
    """A folder that no other process of this machine uses meanwhile; waits for one that does.

    Its name is the cell's, so that a second try on the machine goes on from the checkpoint. The first may still live:
    Ray takes a machine for dead whose processes run on for a while. The kernel frees a lock when its process ends, and
    a cell's process ends with the one that started it. Raises `PermissionError` where the folder is another user's.
    """
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{folder} is another user's")
        try:
            lock = open(folder / "lock", "w")  # noqa: SIM115 (closed below)
        except FileNotFoundError:  # the folder has just been deleted
            continue
        with lock:
            while not _locked(lock):
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            if _same(lock, folder / "lock"):
                yield folder
                return


def _locked(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same(file: TextIO, path: Path) -> bool:
    """Whether a file still lies there: who had its lock may have deleted it with its folder."""
    try:
        return os.stat(path).st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _telling(tell: Callable[[], object]) -> Iterator[None]:
    """Calls `tell` every few seconds meanwhile."""
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(TELL_SECONDS):
            tell()

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def write(results: Path, files: Files) -> None:
    """Writes files into a results folder, each whole or not at all. Raises `OSError`."""
    for name, content in files.items():
        write_whole(results / name, content)


def _silent(line: str) -> None:
    pass
