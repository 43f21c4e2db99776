"""Paths in a results folder, which cells are finished, and the clean-up after runs that were killed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from lra.errors import UsageError
from lra.grid.cell import Cell, split_seeds
from lra.results import lease, records


def record_path(results: Path, cell: Cell) -> Path:
    """Where the cell's record lies: measurements on random tokens are kept apart from results."""
    return results / (records.RESULTS if cell.entry else records.BENCH) / f"{cell.name}.json"


def is_finished(results: Path, cell: Cell, minutes: float | None = None) -> bool:
    """Whether the cell has a record that another run, of at most so many `minutes` a cell, would only repeat."""
    record = _record(results, cell) or {"status": None}
    late = minutes is not None and record["status"] == "timeout" and record.get("timeout_minutes", 0) >= minutes
    crowded = record["status"] == "oom" and record.get("sharing", 1) > 1  # alone it may fit
    return late or (record["status"] in records.FINAL and not crowded)


def _record(results: Path, cell: Cell) -> records.Record | None:
    """The cell's record, None without a whole one.

    Raises:
        UsageError: there is one that cannot be read: it may be finished, and must not be replaced.
    """
    try:
        record = records.read(record_path(results, cell))
    except records.UnreadableRecord as problem:
        raise UsageError(str(problem)) from None
    except ValueError:
        return None
    return record if record["key"] == cell.key else None


def unfinished(cells: Sequence[Cell], results: Path) -> list[Cell]:
    """The cells without a final record; seeds that did not fit together are cells of their own."""
    found: list[Cell] = []
    for cell in cells:
        record = _record(results, cell)
        if len(cell.plan.seeds) > 1 and record is not None and record["status"] == "oom":
            found += unfinished(split_seeds(cell), results)
        elif not is_finished(results, cell):
            found.append(cell)
    return found


def cannot_write(results: Path, error: OSError) -> UsageError:
    """What the user is told when the results folder takes no more."""
    return UsageError(f"cannot write {results}: {error.strerror or error}; finished cells are kept, run again to go on")


_KEPT_FOR_MORE = ("oom",)
"""Final results that another machine may go on from."""


def clean_up(cells: Sequence[Cell], results: Path) -> None:
    """Deletes checkpoints and leases of finished cells, and files half written, where no run has the cell.

    A run that is killed between a cell's record and the lease's release leaves them. What cannot be deleted stays.
    """
    with contextlib.suppress(OSError):
        _leases_half_made(results / "leases")
        found = _left(results)
        leases = lease.Leases(results / "leases")
        for cell in (part for whole in cells for part in _with_parts(whole)):
            if {cell.name, cell.single_process.name} & found and (
                taken := leases.take(cell.single_process.name)
            ) is not None:
                _clean_up(cell, results)
                taken.release()


def _with_parts(cell: Cell) -> list[Cell]:
    return [cell, *split_seeds(cell)] if len(cell.plan.seeds) > 1 else [cell]


def _left(results: Path) -> set[str]:
    """Names of cells of which something lies in the folder that may be left over."""
    names = set(_names(results / "checkpoints"))
    names |= {name.rpartition(".")[0] for name in _names(results / "leases")}
    for folder in (records.RESULTS, records.BENCH):
        names |= {found[1] for name in _names(results / folder) if (found := re.match(r"\.(.*)\.json\.\d+$", name))}
    return names


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _clean_up(cell: Cell, results: Path) -> None:
    """Deletes what is left of a cell whose lease is ours."""
    record = record_path(results, cell)
    for beside in record.parent.glob(f".{record.name}.*"):
        beside.unlink(missing_ok=True)
    with contextlib.suppress(ValueError):
        if is_finished(results, cell) and records.read(record)["status"] not in _KEPT_FOR_MORE:
            shutil.rmtree(results / "checkpoints" / cell.single_process.name, ignore_errors=True)


def _leases_half_made(folder: Path) -> None:
    """Deletes leases that processes of this machine were writing when they were killed."""
    for name in _names(folder):
        path = folder / name
        if name.startswith(".") and lease.owner_exited(lease.LeaseFile(path, 0, path.read_bytes()).contents):
            path.unlink(missing_ok=True)
