"""Deletes what runs that were killed have left of cells. Imports no JAX."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from lra import lease, records
from lra.grid import Cell, apart
from lra.launch import finished, path_of

_KEPT_FOR_MORE = ("oom",)
"""Final results that another machine may go on from."""


def sweep(cells: Sequence[Cell], results: Path) -> None:
    """Deletes checkpoints and leases of finished cells, and files half written, where no run has the cell.

    A run that is killed between a cell's record and the lease's release leaves them. What cannot be deleted stays.
    """
    with contextlib.suppress(OSError):
        _leases_half_made(results / "leases")
        found = _left(results)
        leases = lease.Leases(results / "leases")
        for cell in (part for whole in cells for part in _with_parts(whole)):
            if {cell.name, cell.alone.name} & found and (taken := leases.take(cell.alone.name)) is not None:
                _sweep(cell, results)
                taken.release()


def _with_parts(cell: Cell) -> list[Cell]:
    return [cell, *apart(cell)] if len(cell.plan.seeds) > 1 else [cell]


def _left(results: Path) -> set[str]:
    """Names of cells of which something lies in the folder that may be left over."""
    names = set(_names(results / "checkpoints"))
    names |= {name.rpartition(".")[0] for name in _names(results / "leases")}
    for folder in (records.RESULTS, records.BENCH):
        names |= {found[1] for name in _names(results / folder) if (found := re.match(r"\.(.*)\.json\.\d+$", name))}
    return names


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _sweep(cell: Cell, results: Path) -> None:
    """Deletes what is left of a cell whose lease is ours."""
    record = path_of(results, cell)
    for beside in record.parent.glob(f".{record.name}.*"):
        beside.unlink(missing_ok=True)
    with contextlib.suppress(ValueError):
        if finished(results, cell) and records.read(record)["status"] not in _KEPT_FOR_MORE:
            shutil.rmtree(results / "checkpoints" / cell.alone.name, ignore_errors=True)


def _leases_half_made(folder: Path) -> None:
    """Deletes leases that processes of this machine were writing when they were killed."""
    for name in _names(folder):
        path = folder / name
        if name.startswith(".") and lease.gone(lease.Seen(path, 0, path.read_bytes()).told):
            path.unlink(missing_ok=True)
