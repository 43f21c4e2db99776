"""What runs were asked for, kept in a results folder; what of it is done, running, failed, left. Imports no JAX."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from lra import lease, records
from lra.grid import Cell
from lra.recipe import UsageError

Grid = dict[str, Any]
"""`arguments`: the command line's after its verb; `cells`: each with what `cell_of` says."""


def save(results: Path, arguments: Sequence[str], cells: Sequence[Cell]) -> None:
    """Keeps what a run was asked for in `grids/HASH.json`; the same again is the same file. Raises `OSError`."""
    grid = {"arguments": list(arguments), "cells": [cell_of(cell) for cell in cells]}
    name = hashlib.sha256(json.dumps(grid, sort_keys=True).encode()).hexdigest()[:16]
    records.write(results / "grids" / f"{name}.json", grid)


def cell_of(cell: Cell) -> dict[str, Any]:
    """A cell in a grid's file."""
    p = cell.plan
    return {
        "name": cell.name, "key": cell.key, "task": p.task, "model": str(p.model), "length": p.length,
        "seeds": list(p.seeds), "steps": p.recipe.train.steps,
    }  # fmt: skip


def load(results: Path) -> list[Grid]:
    """The grids of a results folder. Raises `UsageError` where there are none, or one is damaged."""
    found = []
    for file in sorted((results / "grids").glob("*.json")):
        try:
            grid = json.loads(file.read_text())
            cells = [{**cell, "name": cell["name"], "key": cell["key"]} for cell in grid["cells"]]
            found.append({"arguments": [*grid["arguments"]], "cells": cells})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{file}: not a grid: {error!r}") from None
    if not found:
        raise UsageError(f"no grids in {results}: run cells first, or give their folder with --results")
    return found


def status(results: Path) -> tuple[list[dict[str, Any]], str]:
    """A row a cell that any run was asked for, and a line with the counts and an estimate of the time left.

    The time of a cell is its steps at the speed that it, or the cells of its task, length and model, or else all
    cells, have shown. Seconds.

    Raises:
        UsageError: the folder has no grids.
    """
    cells = {cell["name"]: cell for grid in load(results) for cell in grid["cells"]}
    leases = lease.every(results / "leases")
    rows = [_row(cell, _record(results, cell), leases.get(name)) for name, cell in cells.items()]
    left = [row for row in rows if row["state"] not in ("done", "diverged", "oom")]
    running = sum(row["state"] == "running" for row in rows)
    counts = {state: sum(row["state"] == state for row in rows) for state in STATES}
    words = [f"{count} {state}" for state, count in counts.items() if count]
    if left:
        words.append(_estimate(rows, left, max(1, running)))
    return rows, ", ".join(words)


STATES = ("done", "diverged", "oom", "running", "failed", "timeout", "interrupted", "left")


def _record(results: Path, cell: dict[str, Any]) -> records.Record | None:
    try:
        record = records.read(results / records.RESULTS / f"{cell['name']}.json")
    except ValueError:
        return None
    return record if record["key"] == cell["key"] else None


def _row(cell: dict[str, Any], record: records.Record | None, seen: lease.Seen | None) -> dict[str, Any]:
    row = {**cell, "state": "left", "step": 0, "speed": None, "told": ""}
    if record is not None:
        speed = (record.get("train_speed") or {}).get("steps_per_second")
        row |= {"state": "done" if record["status"] == "ok" else record["status"], "speed": speed}
        row["told"] = record.get("error") or ""
        row["step"] = max((result.get("steps") or 0 for result in record.get("results", [])), default=0)
    if seen is not None and not lease.gone(seen.told):
        progress = seen.told.get("progress", {})
        row |= {"state": "running", "step": progress.get("step", 0), "speed": progress.get("steps_per_second")}
        silent = time.time() - seen.touched
        row["told"] = seen.holder + (f", silent for {duration(silent)}" if silent > lease.DEAD_SECONDS else "")
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text, those that are not done first."""
    lines = [("state", "cell", "step", "steps/s", "")]
    for row in sorted(rows, key=lambda r: -STATES.index(r["state"])):
        seeds = "s" + ",".join(map(str, row["seeds"]))
        cell = f"{row['task']} × {row['model']}, length {row['length']:,}, {seeds}"
        speed = f"{row['speed']:.3g}" if row["speed"] else ""
        lines.append((row["state"], cell, f"{row['step']:,.0f}/{row['steps']:,}", speed, row["told"]))
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    return "\n".join(
        "  ".join([*(f"{w:{n}}" for w, n in zip(line, widths, strict=False)), line[4]]).rstrip() for line in lines
    )


def _estimate(rows: list[dict[str, Any]], left: list[dict[str, Any]], at_once: int) -> str:
    """Time left where `at_once` cells run at once, in words."""
    paces: dict[tuple[Any, ...], list[float]] = {}
    """Seconds a step of the cells of each kind."""
    for row in rows:
        if row["speed"]:
            paces.setdefault(_kind(row), []).append(1 / row["speed"])
    if not paces:
        return "time left unknown"
    alike = {kind: fmean(of) for kind, of in paces.items()}
    anyone = fmean(pace for of in paces.values() for pace in of)
    seconds = 0.0
    for row in left:
        pace = 1 / row["speed"] if row["speed"] else alike.get(_kind(row), anyone)
        seconds += (row["steps"] - row["step"]) * pace
    return f"about {duration(seconds / at_once)} left with {at_once} at once"


def _kind(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["task"], row["length"], row["model"]


def duration(seconds: float) -> str:
    """Seconds in words: '45 s', '12 min', '3.5 h', '2.1 days'."""
    for most, unit, name in ((120, 1, "s"), (7200, 60, "min")):
        if seconds < most:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"


def again(results: Path, statuses: Sequence[str]) -> list[tuple[list[str], set[str]]]:
    """The commands that have cells which ended with one of the statuses, and these cells' keys."""
    found, seen = [], set[str]()
    for grid in load(results):
        ended = {c["key"] for c in grid["cells"] if (_record(results, c) or {"status": ""})["status"] in statuses}
        if ended - seen:
            found.append((grid["arguments"], ended - seen))
        seen |= ended
    return found
