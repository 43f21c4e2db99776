"""The runs requested of a results folder: their cells, how far they are, and commands to run some again."""

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
"""A requested run: `verb` and `arguments` of its command line, and its `cells` (see `cell_entry`)."""
RECORD_FOLDERS = {"run": records.RESULTS, "bench": records.BENCH}
"""Verbs that request cells, and the subfolders of their records."""


def save(results: Path, verb: str, arguments: Sequence[str], cells: Sequence[Cell]) -> None:
    """Saves a requested run as `grids/HASH.json`; the same request is the same file, whatever code its mixers have now.

    Args:
        results: the results folder.
        verb: 'run' or 'bench'.
        arguments: flags of the command line, with which `retry` runs it again.
        cells: the cells of the grid.

    Raises:
        OSError: the folder cannot be written.
    """
    grid = {"verb": verb, "arguments": list(arguments), "cells": [cell_entry(cell) for cell in cells]}
    names = [cell.name.rpartition("-")[0] for cell in cells]  # without their keys
    text = json.dumps([verb, grid["arguments"], names])
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    records.write(results / "grids" / f"{name}.json", grid)


def cell_entry(cell: Cell) -> dict[str, Any]:
    """A cell as a grid's file holds it.

    `apart` are its seeds' cells, in case they do not fit into memory together; `trials` those of a tuned cell, and
    `trial` the settings of one. `continues`: whether it goes on from a trial.
    """
    plan, train = cell.plan, cell.plan.recipe.train
    return {
        "apart": [cell_entry(part) for part in split_seeds(cell)] if len(plan.seeds) > 1 else [],
        "trials": [cell_entry(trial) for trial in cell.trials], "trial": list(plan.trial),
        "continues": plan.continues,
        "name": cell.name, "key": cell.key, "lease": cell.single_process.name, "task": plan.task,
        "model": str(plan.model), "length": plan.length, "seeds": list(plan.seeds), "steps": train.steps,
        "batch": train.batch,
    }  # fmt: skip


def load(results: Path) -> list[Grid]:
    """Loads the requested runs of a results folder.

    Raises:
        UsageError: there are none, or one is damaged.
    """
    grids = []
    for file in sorted((results / "grids").glob("*.json")):
        try:
            grid = json.loads(file.read_text())
            verb = grid.get("verb", "run")
            cells = [_complete(cell, verb) for cell in grid["cells"]]
            grids.append({"verb": verb, "arguments": [*grid["arguments"]], "cells": cells})
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UsageError(f"{file}: not a grid: {error!r}") from None
    if not grids:
        raise UsageError(f"no grids in {results}: run cells first, or give their folder with --results")
    return grids


_TYPES = {
    "name": str, "key": str, "lease": str, "task": str, "model": str, "length": int, "seeds": list, "steps": int,
    "batch": int, "apart": list, "trials": list, "trial": list, "continues": bool,
}  # fmt: skip


def _complete(cell: dict[str, Any], verb: str) -> dict[str, Any]:
    """A cell's entry with its types checked, and defaults for fields that older versions did not save."""
    defaults = {"lease": cell["name"], "batch": 0, "apart": [], "trials": [], "trial": [], "continues": False}
    cell = defaults | cell
    for name, kind in _TYPES.items():
        if type(cell[name]) is not kind:
            raise TypeError(name)
    folder = records.TRIALS if cell["trial"] else RECORD_FOLDERS[verb]
    parts = {name: [_complete(part, verb) for part in cell[name]] for name in ("apart", "trials")}
    return cell | parts | {"verb": verb, "folder": folder}


def status(results: Path) -> tuple[list[dict[str, Any]], str]:
    """One row per requested cell and trial, and a line with counts and the estimated time left.

    A running cell's own estimate counts. Others take their remaining steps at the mean time of a step, with its share
    of start, validations and tests, of the cells of their task, length and model, or else of all cells. A measurement
    takes the mean time of those of its kind, or else of all.

    Raises:
        UsageError: the folder has no grids.
    """
    requested = [part for grid in load(results) for cell in grid["cells"] for part in (*cell["trials"], cell)]
    cells = {(cell["folder"], cell["name"]): cell for cell in requested}
    leases = lease.all_leases(results / "leases")
    parts = [part for cell in cells.values() for part in _with_records(results, cell)]
    rows = [_row(cell, record, leases.get(cell["lease"])) for cell, record in parts]
    pending = [row for row in rows if row["state"] not in ("done", "diverged", "oom")]
    running = sum(row["state"] == "running" for row in rows)
    counts = {state: sum(row["state"] == state for row in rows) for state in STATES}
    words = [f"{count} {state}" for state, count in counts.items() if count]
    if pending:
        words.append(_estimate(rows, pending, max(1, running)))
    return rows, ", ".join(words)


STATES = ("done", "diverged", "oom", "running", "failed", "timeout", "interrupted", "left")


def _with_records(results: Path, cell: dict[str, Any]) -> list[tuple[dict[str, Any], records.Record | None]]:
    """A cell and its record, or those of each seed if they did not fit into memory together."""
    record = _read_record(results, cell)
    if record is None or record["status"] != "oom" or not cell["apart"]:
        return [(cell, record)]
    return [(part, _read_record(results, part)) for part in cell["apart"]]


def _read_record(results: Path, cell: dict[str, Any]) -> records.Record | None:
    try:
        record = records.read(results / cell["folder"] / f"{cell['name']}.json")
    except ValueError:
        return None
    return record if record["key"] == cell["key"] else None


def _row(cell: dict[str, Any], record: records.Record | None, current: lease.LeaseFile | None) -> dict[str, Any]:
    row = {**cell, "state": "left", "step": 0, "speed": None, "seconds": None, "left": None, "note": ""}
    if record is not None:
        row |= {"state": "done" if record["status"] == "ok" else record["status"]}
        row["speed"] = _positive(record.get("train_speed"), "steps_per_second")
        row["note"] = one_line(record.get("error") or "")
        row["seconds"] = None if record.get("resumed") else _positive(record, "wall_seconds")  # of its last part only
        steps = [_positive(result, "steps") or 0.0 for result in _as_list(record.get("results"))]
        row["step"] = max(steps, default=0)
    if current is not None and not lease.owner_exited(current.contents):
        progress = current.contents.get("progress")
        row |= {"state": "running", "step": _positive(progress, "step") or 0}
        row["speed"], row["left"] = _positive(progress, "steps_per_second"), _positive(progress, "seconds_left")
        row["note"], silent = current.holder, time.time() - current.touched
        if silent > lease.DEAD_SECONDS:
            row["note"] += f", silent for {format_duration(silent)}"
    return row


def _positive(part: Any, name: str) -> float | None:
    """A positive number in a part of a record or lease; None if it is anything else, since others wrote the file."""
    value: Any = part.get(name) if isinstance(part, dict) else None
    return value if type(value) in (int, float) and 0 < value < 2**63 else None


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def format_table(rows: list[dict[str, Any]]) -> str:
    """The rows as aligned text, unfinished cells first."""
    lines: list[tuple[str, ...]] = [("state", "cell", "step", "steps/s", "")]
    for row in sorted(rows, key=lambda r: -STATES.index(r["state"])):
        cell, step = f"{row['task']} × {row['model']}, length {row['length']:,}", ""
        if row["trials"]:
            cell += f", tuned by {len(row['trials'])} trial{'s' * (len(row['trials']) != 1)}"
        if row["verb"] == "bench":
            cell = f"bench {cell}, batch {row['batch']:,}"
        else:
            cell += ", s" + ",".join(map(str, row["seeds"]))
            cell += f", trial {' '.join(map(str, row['trial']))}" if row["trial"] else ""
            step = f"{row['step']:,.0f}/{row['steps']:,}"
        speed = f"{row['speed']:.3g}" if row["speed"] else ""
        lines.append(tuple(map(printable, (row["state"], cell, step, speed, row["note"]))))
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    return "\n".join(
        "  ".join([*(f"{w:{n}}" for w, n in zip(line, widths, strict=False)), line[4]]).rstrip() for line in lines
    )


def _estimate(rows: list[dict[str, Any]], pending: list[dict[str, Any]], at_once: int) -> str:
    """Time left, in words, if `at_once` cells run at a time."""
    costs: dict[tuple[Any, ...], list[float]] = {}
    """Costs by kind of cell, and by verb alone."""
    for row in rows:
        if (cost := _cost(row)) is not None:
            for kind in (_kind(row), (row["verb"],)):
                costs.setdefault(kind, []).append(cost)
    means = {kind: fmean(values) for kind, values in costs.items()}
    seconds = 0.0
    for row in pending:
        if (row["verb"],) not in means:
            return "time left unknown"
        mean = means.get(_kind(row), means[row["verb"],])
        own = row["left"] if row["state"] == "running" else None
        steps = 1 if row["verb"] == "bench" else 0 if row["continues"] else row["steps"] - row["step"]
        seconds += own or steps * mean
    return f"about {format_duration(seconds / at_once)} left with {at_once} at once"


def _cost(row: dict[str, Any]) -> float | None:
    """Seconds of a measurement, or of one training step with its share of everything else in its cell."""
    if row["verb"] == "bench":
        return row["seconds"] if row["state"] == "done" else None
    if row["continues"]:  # its training is its trial's
        return None
    if row["state"] == "done" and row["seconds"] and row["step"]:
        return row["seconds"] / row["step"]
    if row["left"] and row["step"] < row["steps"]:
        return row["left"] / (row["steps"] - row["step"])
    return 1 / row["speed"] if row["speed"] else None


def _kind(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["verb"], row["task"], row["length"], row["model"]


def format_duration(seconds: float) -> str:
    """Seconds in words: '45 s', '12 min', '3.5 h', '2.1 days'."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"


Request = tuple[str, str, int, tuple[int, ...], tuple[str, ...]]
"""What tells a cell from the others of its run: task, model, length, seeds, and a trial's settings."""


def request_of(cell: Cell) -> Request:
    """The request that a cell is of; other than its key, it stays when the code of its mixer is mended."""
    plan = cell.plan
    return plan.task, str(plan.model), plan.length, plan.seeds, plan.trial


def _open_trials(results: Path, cell: dict[str, Any]) -> list[dict[str, Any]]:
    """A tuned cell's trials, unless its settings are chosen already."""
    record = _read_record(results, cell)
    return [] if record and record["status"] in records.FINAL else list(cell["trials"])


def retry_commands(results: Path, statuses: Sequence[str]) -> list[tuple[str, list[str], set[Request]]]:
    """Commands to run again: (verb, arguments, the cells that ended with one of `statuses`)."""
    commands, seen = [], set[tuple[str, str]]()
    for grid in load(results):
        ended = {
            (cell["folder"], cell["key"]): (
                cell["task"],
                cell["model"],
                cell["length"],
                tuple(cell["seeds"]),
                tuple(cell["trial"]),
            )
            for whole in grid["cells"]
            for cell in (*_open_trials(results, whole), whole)
            if any(record and record["status"] in statuses for _, record in _with_records(results, cell))
        }
        if ended.keys() - seen:
            wanted = {request for key, request in ended.items() if key not in seen}
            commands.append((grid["verb"], grid["arguments"], wanted))
        seen |= ended.keys()
    return commands
