"""What runs were asked for, kept in a results folder; what of it is done, running, failed, left. Imports no JAX."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from lra.errors import UsageError, one_line, printable
from lra.grid.cell import Cell, split_seeds
from lra.results import lease, records

Grid = dict[str, Any]
"""`verb` and `arguments` of the command line; `cells`: each with what `cell_of` says."""
RECORD_FOLDERS = {"run": records.RESULTS, "bench": records.BENCH}
"""What leaves grids, and the folder of their records."""
AGAIN = ("failed", "timeout", "oom", "diverged", "interrupted")
"""How a cell may have ended that is to be run again."""


def save(results: Path, verb: str, arguments: Sequence[str], cells: Sequence[Cell]) -> None:
    """Keeps what a run was asked for in `grids/HASH.json`; the same again is the same file. Raises `OSError`."""
    grid = {"verb": verb, "arguments": list(arguments), "cells": [cell_entry(cell) for cell in cells]}
    name = hashlib.sha256(json.dumps(grid, sort_keys=True).encode()).hexdigest()[:16]
    records.write(results / "grids" / f"{name}.json", grid)


def cell_entry(cell: Cell) -> dict[str, Any]:
    """A cell in a grid's file; `apart` are the cells of its seeds, where they do not fit into memory together."""
    p = cell.plan
    return {
        "apart": [cell_entry(one) for one in split_seeds(cell)] if len(p.seeds) > 1 else [],
        "name": cell.name, "key": cell.key, "lease": cell.single_process.name, "task": p.task, "model": str(p.model),
        "length": p.length, "seeds": list(p.seeds), "steps": p.recipe.train.steps, "batch": p.recipe.train.batch,
    }  # fmt: skip


def load(results: Path) -> list[Grid]:
    """The grids of a results folder. Raises `UsageError` where there are none, or one is damaged."""
    found = []
    for file in sorted((results / "grids").glob("*.json")):
        try:
            grid = json.loads(file.read_text())
            verb = grid.get("verb", "run")
            more = {"verb": verb, "folder": RECORD_FOLDERS[verb]}
            cells = [_typed(cell | more) for cell in grid["cells"]]
            found.append({"verb": verb, "arguments": [*grid["arguments"]], "cells": cells})
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UsageError(f"{file}: not a grid: {error!r}") from None
    if not found:
        raise UsageError(f"no grids in {results}: run cells first, or give their folder with --results")
    return found


_TYPES = {
    "name": str, "key": str, "lease": str, "task": str, "model": str, "length": int, "seeds": list, "steps": int,
    "batch": int, "apart": list,
}  # fmt: skip


def _typed(cell: dict[str, Any]) -> dict[str, Any]:
    cell = {"lease": cell["name"], "batch": 0, "apart": []} | cell  # what older versions did not keep
    for name, kind in _TYPES.items():
        if type(cell[name]) is not kind:
            raise TypeError(name)
    more = {name: cell[name] for name in ("verb", "folder")}
    return cell | {"apart": [_typed(one | more) for one in cell["apart"]]}


def status(results: Path) -> tuple[list[dict[str, Any]], str]:
    """A row a cell that any run was asked for, and a line with the counts and an estimate of the time left.

    The time of a cell is its steps at the speed that it, or the cells of its task, length and model, or else all
    cells, have shown. A measurement takes as long as those of its kind have, or else all. Seconds.

    Raises:
        UsageError: the folder has no grids.
    """
    cells = {cell["name"]: cell for grid in load(results) for cell in grid["cells"]}
    leases = lease.all_leases(results / "leases")
    parts = [part for cell in cells.values() for part in _parts(results, cell)]
    rows = [_row(cell, record, leases.get(cell["lease"])) for cell, record in parts]
    left = [row for row in rows if row["state"] not in ("done", "diverged", "oom")]
    running = sum(row["state"] == "running" for row in rows)
    counts = {state: sum(row["state"] == state for row in rows) for state in STATES}
    words = [f"{count} {state}" for state, count in counts.items() if count]
    if left:
        words.append(_estimate(rows, left, max(1, running)))
    return rows, ", ".join(words)


STATES = ("done", "diverged", "oom", "running", "failed", "timeout", "interrupted", "left")


def _parts(results: Path, cell: dict[str, Any]) -> list[tuple[dict[str, Any], records.Record | None]]:
    """A cell and its record; those of each seed where they did not fit into memory together."""
    record = _record(results, cell)
    if record is None or record["status"] != "oom" or not cell["apart"]:
        return [(cell, record)]
    return [(one, _record(results, one)) for one in cell["apart"]]


def _record(results: Path, cell: dict[str, Any]) -> records.Record | None:
    try:
        record = records.read(results / cell["folder"] / f"{cell['name']}.json")
    except ValueError:
        return None
    return record if record["key"] == cell["key"] else None


def _row(cell: dict[str, Any], record: records.Record | None, seen: lease.LeaseFile | None) -> dict[str, Any]:
    row = {**cell, "state": "left", "step": 0, "speed": None, "seconds": None, "told": ""}
    if record is not None:
        row |= {"state": "done" if record["status"] == "ok" else record["status"]}
        row["speed"] = _number(record.get("train_speed"), "steps_per_second")
        row["told"], row["seconds"] = one_line(record.get("error") or ""), _number(record, "wall_seconds")
        steps = [_number(result, "steps") or 0.0 for result in _list(record.get("results"))]
        row["step"] = max(steps, default=0)
    if seen is not None and not lease.owner_exited(seen.contents):
        progress = seen.contents.get("progress")
        row |= {"state": "running", "step": _number(progress, "step") or 0}
        row["speed"] = _number(progress, "steps_per_second")
        silent = time.time() - seen.touched
        row["told"] = seen.holder + (f", silent for {format_duration(silent)}" if silent > lease.DEAD_SECONDS else "")
    return row


def _number(of: Any, name: str) -> float | None:
    """A number above 0 of a part of a record or a lease; None where it is anything else: others wrote it."""
    value: Any = of.get(name) if isinstance(of, dict) else None
    return value if type(value) in (int, float) and 0 < value < 2**63 else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def format_table(rows: list[dict[str, Any]]) -> str:
    """The rows as text, those that are not done first."""
    lines: list[tuple[str, ...]] = [("state", "cell", "step", "steps/s", "")]
    for row in sorted(rows, key=lambda r: -STATES.index(r["state"])):
        cell, step = f"{row['task']} × {row['model']}, length {row['length']:,}", ""
        if row["verb"] == "bench":
            cell = f"bench {cell}, batch {row['batch']:,}"
        else:
            cell += ", s" + ",".join(map(str, row["seeds"]))
            step = f"{row['step']:,.0f}/{row['steps']:,}"
        told = f"{row['speed']:.3g}" if row["speed"] else "", row["told"]
        lines.append(tuple(map(printable, (row["state"], cell, step, *told))))
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    return "\n".join(
        "  ".join([*(f"{w:{n}}" for w, n in zip(line, widths, strict=False)), line[4]]).rstrip() for line in lines
    )


def _estimate(rows: list[dict[str, Any]], left: list[dict[str, Any]], at_once: int) -> str:
    """Time left where `at_once` cells run at once, in words."""
    costs: dict[tuple[Any, ...], list[float]] = {}
    """Seconds of the measurements, and of a training's step, of each kind and of all."""
    for row in rows:
        if (cost := _cost(row)) is not None:
            for kind in (_kind(row), (row["verb"],)):
                costs.setdefault(kind, []).append(cost)
    means = {kind: fmean(of) for kind, of in costs.items()}
    seconds = 0.0
    for row in left:
        if (row["verb"],) not in means:
            return "time left unknown"
        alike = means.get(_kind(row), means[row["verb"],])
        if row["verb"] == "bench":
            seconds += alike
        else:
            seconds += (row["steps"] - row["step"]) * (1 / row["speed"] if row["speed"] else alike)
    return f"about {format_duration(seconds / at_once)} left with {at_once} at once"


def _cost(row: dict[str, Any]) -> float | None:
    """Seconds that a measurement took, or that a training's step takes."""
    if row["verb"] == "bench":
        return row["seconds"] if row["state"] == "done" else None
    return 1 / row["speed"] if row["speed"] else None


def _kind(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["verb"], row["task"], row["length"], row["model"]


def format_duration(seconds: float) -> str:
    """Seconds in words: '45 s', '12 min', '3.5 h', '2.1 days'."""
    for most, unit, name in ((120, 1, "s"), (7200, 60, "min")):
        if seconds < most:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"


def retry_commands(results: Path, statuses: Sequence[str]) -> list[tuple[str, list[str], set[str]]]:
    """The verbs and arguments that have cells which ended with one of the statuses, and these cells' keys."""
    found, seen = [], set[str]()
    for grid in load(results):
        ended = {
            cell["key"]
            for cell in grid["cells"]
            if any(record and record["status"] in statuses for _, record in _parts(results, cell))
        }
        if ended - seen:
            found.append((grid["verb"], grid["arguments"], ended - seen))
        seen |= ended
    return found
