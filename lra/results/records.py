"""Records: one JSON file a cell, written whole or not at all. Imports no JAX."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.io.files import write_whole

SCHEMA = 1
RESULTS, BENCH = "records", "bench"
"""Folders of a results folder: records of trained cells, and of measurements on random tokens."""
STATUSES = ("ok", "oom", "failed", "timeout", "diverged", "interrupted")
FINAL = ("ok", "oom", "diverged")
"""Results that the same cell would give again; the others are tried again by the next run."""
_NEEDED: dict[str, type] = {
    "schema": int,
    "status": str,
    "key": str,
    "cell": dict,
    "recipe": dict,
    "data": dict,
}

_FIELDS: dict[str, set[str]] = {
    "": {
        "schema", "status", "error", "key", "created", "cell", "recipe", "overrides", "data", "commit", "command",
        "results", "device", "versions", "parameters", "flops_per_step", "flops_compiler", "mfu", "compile_seconds",
        "train_speed", "inference_speed", "memory", "wall_seconds", "log", "energy_per_step_joules", "idle_share",
        "max_batch", "memory_limit_bytes", "timeout_minutes", "resumed", "streamed", "first_chunk_seconds", "trials",
        "warnings", "sharing", "attention_kernels",
    },
    "cell.": {"task", "model", "mixer", "length", "protocol", "seeds", "accelerator"},
    "results.": {
        "seed", "status", "error", "steps", "best_step", "validation_best", "validation_last", "test_best",
        "test_last", "curve",
    },
}  # fmt: skip
"""What this version writes: in a record, in its cell and in each seed's result."""

Record = dict[str, Any]


def check(record: Record) -> None:
    """Raises `ValueError` where a record lacks what tables need, or holds fields that a newer version wrote.

    An unknown field may change what the others mean, so the record is better left out than half understood.
    """
    cell, data, results = record["cell"], record["data"], record.get("results", [])
    for name, kind in (("task", str), ("model", str), ("length", int), ("protocol", str), ("accelerator", str)):
        _need(isinstance(cell.get(name), kind), f"cell.{name}")
    _need(isinstance(cell.get("mixer", ""), str), "cell.mixer")
    _need(_list_of(cell.get("seeds"), int) and cell["seeds"], "cell.seeds")
    _need(_list_of(record.get("overrides", []), str), "overrides")
    _need(_list_of(record.get("log", []), str), "log")
    _need(_list_of(record.get("attention_kernels", []), str), "attention_kernels")
    _need(_list_of(results, dict), "results")
    for name, part in record["recipe"].items():
        if name == "mixer":
            pairs = _list_of(part, list) and all(len(pair) == 2 and type(pair[0]) is str for pair in part)
            _need(pairs, "recipe.mixer")
        else:
            _need(part is None or isinstance(part, dict), f"recipe.{name}")
    for name in ("inference_speed", "versions", "device"):
        _need(isinstance(record.get(name) or {}, dict), name)
    for part, name in [(record, "train_speed"), (record, "memory"), (data, "counts"), (data, "majority")]:
        values = part.get(name) or {}
        _need(isinstance(values, dict) and _numbers(values.values()), name)
        _need(min(_real(values.values()), default=0) >= 0, name)
    _need(_numbers([record.get("parameters")]), "parameters")
    for result in results:
        _need(type(result.get("seed")) is int and isinstance(result.get("status", ""), str), "results")
        _need(_numbers(map(result.get, (*_SCORES, "steps", "best_step"))), "results")
        _need(all(0 <= score <= 1 for score in _real(map(result.get, _SCORES))), "results")
        _need(_list_of(result.get("curve") or [], dict), "results.curve")
    parts = [("", record), ("cell.", cell), *(("results.", result) for result in results)]
    unknown = {prefix + name for prefix, part in parts for name in part.keys() - _FIELDS[prefix]}
    if unknown:
        raise ValueError(f"written by a newer version: unknown {', '.join(sorted(unknown))}")


_SCORES = ("test_best", "test_last", "validation_best", "validation_last")


def _need(fits: Any, name: str) -> None:
    if not fits:
        raise ValueError(f"not a record: '{name}' is missing or of another type")


def _list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and set(map(type, value)) <= {kind}


def _real(values: Iterable[Any]) -> list[float]:
    return [value for value in values if value is not None]


def _numbers(values: Iterable[Any]) -> bool:
    """Whether all are numbers or None."""
    return set(map(type, values)) <= {float, int, type(None)}


def write(path: Path, record: Record) -> None:
    """Writes a record beside its place, syncs it and renames it. NaN becomes null. Raises `OSError`.

    Once it has returned, the record outlasts a power cut; until then, the one before does.
    """
    write_whole(path, json.dumps(_plain(record), indent=1, allow_nan=False).encode() + b"\n")


def stamp(path: Path) -> tuple[int, ...]:
    """What changes when a record is replaced; empty where there is none. No clock is asked."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class UnreadableRecord(ValueError):
    """A file that is there and cannot be read now: it may hold a whole record."""


def read(path: Path | str) -> Record:
    """One record. Raises `ValueError` saying what is wrong with the file, `Unreadable` where that is not known."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        # Looked for before, as most records have none: asking at each number takes as long as reading them all.
        parse = _integer if b"0" * 20 in content.translate(_ALIKE) else int
        record = json.loads(content.decode(), parse_int=parse)
        if b"\\ud" in content.lower():  # half a character, which no file can be written with
            json.dumps(record, ensure_ascii=False).encode()
    except FileNotFoundError:
        raise ValueError(f"{path}: there is none") from None
    except OSError as error:
        raise UnreadableRecord(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a whole record: {error}") from None
    if not isinstance(record, dict) or _depth(record) > _DEEPEST:
        raise ValueError(f"{path}: not a record")
    for name, kind in _NEEDED.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(f"{path}: not a record: '{name}' is missing or of another type")
    if record["schema"] != SCHEMA:
        raise ValueError(f"{path}: written by schema {record['schema']}, and this version reads {SCHEMA}")
    if record["status"] not in STATUSES:
        raise ValueError(f"{path}: unknown status {reprlib.repr(record['status'])}")
    return record


_DEEPEST = 20
"""Parts within parts of a record; those that we write have 5."""


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= _DEEPEST:
        depth += 1
        parts = (part.values() if type(part) is dict else part for part in level)
        level = [v for part in parts for v in part if type(v) is dict or type(v) is list]
    return depth


_ALIKE = bytes.maketrans(b"123456789", b"0" * 9)
"""Makes all digits noughts."""


def _integer(digits: str) -> int:
    if len(digits) > 19:  # all that fits into 64 bits; arithmetic with more fails anywhere
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def read_checked(path: Path | str) -> Record:
    """One record that tables can be made of. Raises `ValueError` saying what is wrong with the file."""
    record = read(path)
    try:
        check(record)
    except ValueError as problem:
        raise ValueError(f"{path}: {problem}") from None
    return record
