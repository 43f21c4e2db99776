"""Paths in a results folder, which cells are finished, and clean-up after killed runs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from lra.errors import UsageError, write_error
from lra.grid.cell import Cell, split_seeds, unique
from lra.results import lease, records


def record_path(results: Path, cell: Cell) -> Path:
    """The cell's record file. Measurements on random tokens, and trials, have folders of their own."""
    kind = records.TRIALS if cell.plan.trial else records.RESULTS if cell.entry else records.BENCH
    return results / kind / f"{cell.name}.json"


def is_finished(results: Path, cell: Cell, minutes: float | None = None) -> bool:
    """Whether another run of the cell, with a time limit of `minutes`, would only repeat its record.

    Args:
        results: the results folder.
        cell: the cell.
        minutes: the run's time limit for each cell; None: no limit.

    Raises:
        UsageError: the record exists but cannot be read now.
    """
    return _is_final(_read_record(results, cell), minutes)


def _is_final(record: records.Record | None, minutes: float | None = None) -> bool:
    if record is None:
        return False
    too_slow = minutes is not None and record["status"] == "timeout" and record.get("timeout_minutes", 0) >= minutes
    shared_device = record["status"] == "oom" and record.get("sharing", 1) > 1  # with a device to itself it may fit
    return too_slow or (record["status"] in records.FINAL and not shared_device)


def count_finished(results: Path, cells: Sequence[Cell]) -> tuple[int, int]:
    """How many of the cells are finished, and how many of these by other code of their mixer than is there now.

    Raises:
        UsageError: as `is_finished`.
    """
    found = [(_read_record(results, cell), cell.plan.code.fingerprint) for cell in cells]
    finished = [
        ((record.get("code") or {}).get("fingerprint"), now) for record, now in found if record and _is_final(record)
    ]
    return len(finished), sum(bool(then and now and then != now) for then, now in finished)


def _read_record(results: Path, cell: Cell) -> records.Record | None:
    """The cell's record; None if there is no whole one.

    Raises:
        UsageError: the file exists but cannot be read: it may be finished, and must not be replaced.
    """
    try:
        record = records.read(record_path(results, cell))
    except records.UnreadableRecord as problem:
        raise UsageError(str(problem)) from None
    except ValueError:
        return None
    return record if record["key"] == cell.key else None


def unfinished(cells: Sequence[Cell], results: Path) -> list[Cell]:
    """The cells without a final record, after their trials without one; each once.

    Seeds that did not fit into memory together become separate cells.
    """
    pending: list[Cell] = []
    for cell in cells:
        record = _read_record(results, cell)
        if len(cell.plan.seeds) > 1 and record is not None and record["status"] == "oom":
            pending += unfinished(split_seeds(cell), results)
        elif not is_finished(results, cell):
            pending += [*unfinished(cell.trials, results), cell]
    return unique(pending)


def cannot_write(results: Path, error: OSError) -> UsageError:
    """The error to raise when the results folder cannot be written any more."""
    return UsageError(f"{write_error(results, error)}; finished cells are kept, run again to continue")


_KEEPS_CHECKPOINT = ("oom",)
"""Final statuses whose checkpoint stays: a machine with more memory may continue from it."""


def clean_up(cells: Sequence[Cell], results: Path) -> None:
    """Deletes what killed runs left behind of cells that no run holds.

    These are checkpoints and leases of finished cells, of runs killed between writing the record and releasing the
    lease, and half-written files. What cannot be deleted stays.
    """
    with contextlib.suppress(OSError):
        _delete_partial_leases(results / "leases")
        names = _leftover_names(results)
        leases = lease.Leases(results / "leases")
        for cell in (part for whole in cells for part in (*_disposable_trials(whole, results), *_with_seeds(whole))):
            if {cell.name, cell.single_process.name} & names and (
                taken := leases.take(cell.single_process.name)
            ) is not None:
                _delete_leftovers(cell, results)
                taken.release()


def _disposable_trials(cell: Cell, results: Path) -> Sequence[Cell]:
    """The trials of a tuned cell that no cell goes on from any more."""
    return cell.trials if cell.plan.continues and is_finished(results, cell) else ()


def _with_seeds(cell: Cell) -> list[Cell]:
    """The cell, and the cells of its seeds if there are several."""
    return [cell, *split_seeds(cell)] if len(cell.plan.seeds) > 1 else [cell]


def _leftover_names(results: Path) -> set[str]:
    """Names of cells with files in the folder that may be left over."""
    names = set(_list_folder(results / "checkpoints"))
    names |= {name.rpartition(".")[0] for name in _list_folder(results / "leases")}
    for folder in (records.RESULTS, records.BENCH, records.TRIALS):
        partial = (re.match(r"\.(.*)\.json\.\d+$", name) for name in _list_folder(results / folder))
        names |= {match[1] for match in partial if match}
    return names


def _list_folder(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _delete_leftovers(cell: Cell, results: Path) -> None:
    """Deletes what is left of a cell whose lease we hold."""
    record = record_path(results, cell)
    for partial in record.parent.glob(f".{record.name}.*"):
        partial.unlink(missing_ok=True)
    with contextlib.suppress(ValueError):
        if is_finished(results, cell) and records.read(record)["status"] not in _KEEPS_CHECKPOINT:
            shutil.rmtree(results / "checkpoints" / cell.single_process.name, ignore_errors=True)


def _delete_partial_leases(folder: Path) -> None:
    """Deletes leases that processes of this machine were writing when they were killed."""
    for name in _list_folder(folder):
        path = folder / name
        if name.startswith(".") and lease.owner_exited(lease.LeaseFile(path, 0, path.read_bytes()).contents):
            path.unlink(missing_ok=True)
