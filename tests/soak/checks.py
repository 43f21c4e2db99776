"""Checks of a disturbed grid that has ended: nothing lost, nothing changed, nothing left over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lra.results import records

Results = dict[str, Any]
"""Results of each cell, by the name of its record's file."""
SAME = ("key", "status", "results", "parameters", "flops_per_step", "data", "recipe")
"""Parts of a record that no kill may change by a bit."""


def results_of(folder: Path) -> Results:
    """The records of a results folder, those parts that must be the same. Raises `ValueError` on a damaged one."""
    read = {path.name: records.read_checked(path) for path in sorted((folder / "records").glob("*.json"))}
    return {name: {part: record.get(part) for part in SAME} for name, record in read.items()}


def differences(disturbed: Results, undisturbed: Results) -> list[str]:
    """A line for each cell that is missing, that nobody asked for, or that differs."""
    lines = [f"{name}: no record" for name in undisturbed.keys() - disturbed.keys()]
    lines += [f"{name}: a record that the undisturbed run has not" for name in disturbed.keys() - undisturbed.keys()]
    for name in undisturbed.keys() & disturbed.keys():
        parts = [part for part in SAME if disturbed[name][part] != undisturbed[name][part]]
        lines += [f"{name}: {part} differs from the undisturbed run's" for part in parts]
    return sorted(lines)


def left_over(folder: Path) -> list[str]:
    """Files left over in the folder of a grid whose cells are all finished."""
    results = folder / "results"
    left = [*(results / "leases").glob("*"), *(results / "checkpoints").glob("*"), *(folder / "tmp").glob("*")]
    for kept in ("records", "grids", "logs"):
        left += [path for path in (results / kept).glob("*") if path.name.startswith(".")]
    left += [path for path in (folder / "data").glob(".*") if path.suffix != ".lock"]
    return sorted(f"left over: {path.relative_to(folder)}" for path in left)


def problems(folder: Path, undisturbed: Results) -> list[str]:
    """Everything that is wrong with a finished grid, in lines; none where all is well."""
    try:
        disturbed = results_of(folder / "results")
    except ValueError as damage:
        return [str(damage)]
    return differences(disturbed, undisturbed) + left_over(folder)
