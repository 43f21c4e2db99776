"""Loads the records of folders and archives, each cell once; damaged files and duplicates are reported and left out."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lra.results import archive, records

SHARED = ("data", "device", "versions", "recipe")
"""Parts that are equal in many records."""
_NUMBERS = (int, float)
_MAX_COMPARED = 16
"""Earlier records with which a record's parts are compared."""


def load_records(folders: Sequence[Path], kind: str = records.RESULTS) -> tuple[list[records.Record], list[str]]:
    """Loads the records of several results folders, or archives of records, each cell once.

    Of two records of a cell the finished one counts, then the later one, in whatever order folders and files come.
    Equal recipes, data, devices and versions become one object, so that readers can cache what they derive from each.

    Returns:
        The records by date, and one line for each file left out.

    Raises:
        UsageError: an archive is refused (`archive.contents`).
    """
    kept: dict[str, tuple[str, records.Record]] = {}
    shared: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    lines = []
    for folder in dict.fromkeys(folders):
        loaded, problems = _read_all(folder, kind)
        lines += [f"left out: {problem}" for problem in problems]
        for path, record in loaded:
            _share(record, shared)
            winner = (path, record)
            if record["key"] in kept:
                loser, winner = sorted((kept[record["key"]], winner), key=lambda entry: _preference(entry[1]))
                lines.append(f"duplicate: {loser[0]} holds the same cell as {winner[0]}, which counts")
            kept[record["key"]] = winner
    ordered = sorted((record for _, record in kept.values()), key=lambda r: (str(r.get("created")), r["key"]))
    return ordered, sorted(lines)


def _share(record: records.Record, shared: dict[tuple[str, str, str], list[dict[str, Any]]]) -> None:
    """Replaces the parts of `record` by equal ones of an earlier record of its task, model and protocol."""
    cell = record["cell"]
    parts = {name: record[name] for name in SHARED if name in record}
    known = shared.setdefault((cell["task"], cell["model"], cell["protocol"]), [])
    # The latest first: a folder's files are in the order of their settings.
    for earlier in reversed(known[-_MAX_COMPARED:]):
        if earlier == parts:
            record.update(earlier)
            return
    known.append(parts)


def _read_all(source: Path, kind: str) -> tuple[list[tuple[str, records.Record]], list[str]]:
    loaded, problems = [], []
    for path, read in find(source, kind):
        try:
            loaded.append((path, records.checked(read(), path)))
        except ValueError as problem:
            problems.append(str(problem))
    return loaded, problems


def find(source: Path, kind: str) -> Iterator[tuple[str, Callable[[], records.Record]]]:
    """The records of one kind in a results folder or archive: each one's path, and what reads it.

    Raises:
        UsageError: the archive is refused (`archive.contents`).
    """
    if source.is_file():
        for name, content in archive.contents(source, kind):
            yield f"{source}/{name}", functools.partial(records.parse, content, f"{source}/{name}")
        return
    folder = source / kind
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        if not name.startswith(".") and name.endswith(".json"):
            yield f"{folder}/{name}", functools.partial(records.read, f"{folder}/{name}")


def _preference(record: records.Record) -> tuple[Any, ...]:
    finished = (record["status"] == "ok", record["status"] in records.FINAL)
    return (*finished, str(record.get("created")), json.dumps(record, sort_keys=True))


def seed_results(record: records.Record) -> list[dict[str, Any]]:
    """One result per seed of the record's cell.

    In a record that is not ok no seed is: a seed without a result, or stopped half-way, has the record's status.
    """
    results = {result["seed"]: result for result in record.get("results", [])}
    outcome = {"status": record["status"], "error": record.get("error", "")}
    per_seed = [outcome | results.get(seed, {"seed": seed}) for seed in record["cell"]["seeds"]]
    if record["status"] == "ok":
        return per_seed
    return [result | outcome if result["status"] == "ok" else result for result in per_seed]


def reach(record: records.Record) -> list[dict[str, Any]]:
    """How far the model of each seed looks (docs/reach.md); empty where that was not measured.

    Each entry has all `_PARTS`; one that was not measured, or is damaged, is empty.
    """
    found = record.get("reach")
    entries = found if isinstance(found, list) else []
    return [
        entry | {name: part if isinstance(part := entry.get(name), dict) else {} for name in _PARTS}
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("seed"), int)
    ]


_PARTS = ("jacobian", "jacobian_initial", "pairs")
"""The dictionaries in an entry of a record's `reach`."""


def solo_speed(record: records.Record) -> float | None:
    """Training steps per second; None if seeds trained together or other cells shared the device."""
    if len(record["cell"]["seeds"]) > 1 or record.get("sharing", 1) > 1:
        return None
    return (record.get("train_speed") or {}).get("steps_per_second") or None


def solo_memory(record: records.Record, method: str) -> int | None:
    """Bytes by one method of measuring; None if seeds trained together."""
    if len(record["cell"]["seeds"]) > 1:
        return None
    return (record.get("memory") or {}).get(method) or None


def curve_points(result: dict[str, Any], name: str) -> list[tuple[float, float]]:
    """(step, value) points of one curve of a seed's result, without those that are not finite numbers."""
    return [
        (step, value)
        for point in result.get("curve") or []
        if isinstance(step := point.get("step"), _NUMBERS) and isinstance(value := point.get(name), _NUMBERS)
        if math.isfinite(step) and math.isfinite(value)
    ]
