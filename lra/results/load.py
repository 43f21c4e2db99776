"""From folders of records to the records that count: damaged ones and duplicates are named and left out."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lra.results import records

SHARED = ("data", "device", "versions", "recipe")
"""Parts of a record that many records share."""
MOST_SHARED = 16
"""Earlier records' parts that a record's are compared with."""


def load_records(folders: Sequence[Path], kind: str = records.RESULTS) -> tuple[list[records.Record], list[str]]:
    """The records of several results folders, each cell once, and a line for every file that was left out.

    Of two records of one cell the finished one counts, then the later; the order of folders and files decides
    nothing. Equal recipes, data, devices and versions are one object, so that what is made of each is made once.
    """
    kept: dict[str, tuple[str, records.Record]] = {}
    shared: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    lines = []
    for folder in dict.fromkeys(folders):
        found, problems = _read_folder(folder / kind)
        lines += [f"left out: {problem}" for problem in problems]
        for path, record in found:
            _share(record, shared)
            new = (path, record)
            if record["key"] in kept:
                loser, new = sorted((kept[record["key"]], new), key=lambda entry: _preference(entry[1]))
                lines.append(f"duplicate: {loser[0]} holds the same cell as {new[0]}, which counts")
            kept[record["key"]] = new
    ordered = sorted((record for _, record in kept.values()), key=lambda r: (str(r.get("created")), r["key"]))
    return ordered, sorted(lines)


def _share(record: records.Record, shared: dict[tuple[str, str, str], list[dict[str, Any]]]) -> None:
    """Puts equal parts of earlier records into `record`, looking at those of its task, model and protocol."""
    cell = record["cell"]
    parts = {name: record[name] for name in SHARED if name in record}
    known = shared.setdefault((cell["task"], cell["model"], cell["protocol"]), [])
    # The latest first: the records of one folder come in the order of their settings.
    for earlier in reversed(known[-MOST_SHARED:]):
        if earlier == parts:
            record.update(earlier)
            return
    known.append(parts)


def _read_folder(folder: Path) -> tuple[list[tuple[str, records.Record]], list[str]]:
    found, problems = [], []
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    for name in names:
        if name.startswith(".") or not name.endswith(".json"):
            continue
        path = f"{folder}/{name}"
        try:
            found.append((path, records.read_checked(path)))
        except ValueError as problem:
            problems.append(str(problem))
    return found, problems


def _preference(record: records.Record) -> tuple[Any, ...]:
    finished = (record["status"] == "ok", record["status"] in records.FINAL)
    return (*finished, str(record.get("created")), json.dumps(record, sort_keys=True))


def seed_results(record: records.Record) -> list[dict[str, Any]]:
    """One result a seed of the record's cell.

    Where the record is not ok none of its seeds is: one without a result, or stopped half-way, has the record's status.
    """
    own = {result["seed"]: result for result in record.get("results", [])}
    rest = {"status": record["status"], "error": record.get("error", "")}
    found = [rest | own.get(seed, {"seed": seed}) for seed in record["cell"]["seeds"]]
    if record["status"] == "ok":
        return found
    return [result | rest if result["status"] == "ok" else result for result in found]


def solo_speed(record: records.Record) -> float | None:
    """Training steps a second of a cell trained alone: a step of several seeds together is another thing.

    So is one on a device that other cells were on at the same time.
    """
    if len(record["cell"]["seeds"]) > 1 or record.get("sharing", 1) > 1:
        return None
    return (record.get("train_speed") or {}).get("steps_per_second") or None


def solo_memory(record: records.Record, method: str) -> int | None:
    """Bytes by one method of a cell trained alone, as `speed`."""
    if len(record["cell"]["seeds"]) > 1:
        return None
    return (record.get("memory") or {}).get(method) or None


def curve_points(result: dict[str, Any], name: str) -> list[tuple[float, float]]:
    """(step, value) of one line of a seed's learning curve; points without a finite number are left out."""
    points = [(point.get("step"), point.get(name)) for point in result.get("curve") or []]
    return [(x, y) for x, y in points if _finite(x) and _finite(y)]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
