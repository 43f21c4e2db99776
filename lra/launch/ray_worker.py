"""The part of the Ray launcher that runs on the cluster's machines, in Ray's worker processes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from lra.grid import expand
from lra.grid.cell import Cell, Plan
from lra.grid.spec import RunOptions
from lra.launch import local, process, scheduler
from lra.launch.process import WorkerContext
from lra.results import records, tuning
from lra.results.folder import is_finished, unfinished
from tasks.io.files import try_lock, write_whole

PROGRESS_SECONDS = 5.0
_POLL_SECONDS = 0.5
_COLLECTED = ("records/*.json", "trials/*.json", "logs/*.log", "tensorboard/**/*", "profiles/**/*")
"""Files of a cell that are sent to the driver."""

Files = dict[str, bytes]
"""Contents by path in a results folder."""


class ProgressActor:
    """Actor through which tasks report the progress of their cells to the driver."""

    def __init__(self) -> None:
        self.progress: dict[str, dict[str, float]] = {}

    def write(self, key: str, progress: dict[str, float]) -> None:
        """Sets a cell's progress."""
        self.progress[key] = progress

    def read(self, key: str) -> dict[str, float]:
        """A cell's progress; empty before the first report."""
        return self.progress.get(key, {})


def cells(plans: Sequence[Plan], options: RunOptions) -> list[Cell]:
    """Expands plans into cells of this machine; prepares their data.

    Raises:
        UsageError: this machine does not have the devices; or as `expand.make_cell`.
        tasks.DataError: no source has the data, or they are damaged.
    """
    device, mixers = process.probe(options.device, [plan.model for plan in plans])
    return expand.make_cells(plans, device, mixers, options, _print_nothing)


def run_plan(
    plan: Plan,
    keys: Sequence[str],
    options: RunOptions,
    progress_actor: Any,
    choice: Mapping[str, Any] | None = None,
) -> tuple[Cell, Files]:
    """Runs the cell that a plan is on this machine, unless the driver has no lease of it.

    Args:
        keys: of the cells that the driver has leases of; progress is reported under the first.
        progress_actor: handle of a `ProgressActor`.
        choice: of a tuned cell, as `Cell.choice`.

    Returns:
        The cell, and the files that the run left, with paths as in a results folder; none if its key is not in `keys`.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # by which Ray cancels; ignored if it was started with &
        signal.signal(signal.SIGINT, signal.default_int_handler)
    (cell,) = cells([plan], dataclasses.replace(options, vmap_seeds="off"))
    if cell.key not in keys:
        return cell, {}
    if choice is not None:
        cell = tuning.apply(cell, choice)

    def run_and_report(cell: Cell, number: str, options: RunOptions, context: WorkerContext) -> records.Record:
        with _every_few_seconds(lambda: progress_actor.write.remote(keys[0], context.lease.progress)):
            return local.run_cell(cell, number, options, context)

    # The folder is named after the cell, so that a retry on this machine resumes from the checkpoint.
    name = f"lra-{os.getuid()}-{cell.key[:16]}"
    with exclusive_folder(Path(tempfile.gettempdir()) / name) as folder, open(os.devnull, "w") as nowhere:
        pending = [cell] if options.fresh else unfinished([cell], folder)
        options = dataclasses.replace(options, results=folder)
        with contextlib.suppress(KeyboardInterrupt):  # the driver's cancel: the cell has saved, and its record says so
            scheduler.run_cells(pending, options, Console(file=nowhere), run_cell=run_and_report)
        paths = [file for pattern in _COLLECTED for file in folder.glob(pattern) if file.is_file()]
        files = {str(file.relative_to(folder)): file.read_bytes() for file in paths}
        # A trial's last checkpoint stays behind nowhere: the chosen cell may run on another machine, and trains anew.
        unsaved = not plan.trial or not is_finished(folder, cell)
        if unsaved and any((folder / "checkpoints").glob("*")):
            # A record here must not make a retry skip the cell: the driver may never receive it.
            for kind in (records.RESULTS, records.TRIALS):
                shutil.rmtree(folder / kind, ignore_errors=True)
        else:
            shutil.rmtree(folder)
    return cell, files


@contextlib.contextmanager
def exclusive_folder(folder: Path) -> Iterator[Path]:
    """Creates a folder that no other process on this machine uses meanwhile; waits for one that does.

    An earlier try of the cell may still be running here, since Ray can declare a machine dead whose processes run on
    for a while. The kernel releases a lock when the process that holds it ends, and a cell's worker ends with the
    process that started it.

    Raises:
        PermissionError: the folder belongs to another user.
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
            while not try_lock(lock):
                time.sleep(_POLL_SECONDS)
            if _is_at(lock, folder / "lock"):
                yield folder
                return


def _is_at(file: TextIO, path: Path) -> bool:
    """Whether an open file is still at `path`: the lock's last owner may have deleted it with its folder."""
    try:
        return os.stat(path).st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _every_few_seconds(report: Callable[[], object]) -> Iterator[None]:
    """Calls `report` every `PROGRESS_SECONDS` while the `with` block runs."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(PROGRESS_SECONDS):
            report()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def write_files(results: Path, files: Files) -> None:
    """Writes files into a results folder, each atomically. Raises `OSError`."""
    for name, content in files.items():
        write_whole(results / name, content)


def _print_nothing(line: str) -> None:
    pass
