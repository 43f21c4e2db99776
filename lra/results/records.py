"""Records: one JSON file per cell, written whole or not at all."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.io.files import write_whole

SCHEMA = 1
RESULTS, BENCH, TRIALS = "records", "bench", "trials"
"""Subfolders of a results folder: records of trained cells, of measurements on random tokens, and of trials."""
STATUSES = ("ok", "oom", "failed", "timeout", "diverged", "interrupted")
FINAL = ("ok", "oom", "diverged")
"""Statuses that would repeat; the next run tries cells with any other status again."""
_REQUIRED: dict[str, type] = {
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
        "warnings", "sharing", "attention_kernels", "code", "evaluated", "reach",
        "reach_seconds", "tuning", "external",
    },
    "cell.": {"task", "model", "mixer", "length", "protocol", "seeds", "accelerator"},
    "results.": {
        "seed", "status", "error", "steps", "best_step", "validation_best", "validation_last", "test_best",
        "test_last", "curve",
    },
}  # fmt: skip
"""Fields that this version writes: in a record, in its cell and in each seed's result."""

Record = dict[str, Any]


class UnreadableRecord(ValueError):
    """An existing file that cannot be read now: it may hold a whole record."""


def read(path: Path | str) -> Record:
    """Reads one record.

    Raises:
        UnreadableRecord: the file exists but cannot be read now.
        ValueError: there is no file, or it is no record; says why.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except OSError as error:
        raise UnreadableRecord(f"{path}: cannot be read: {error.strerror}") from None
    return parse(content, path)


def parse(content: bytes, path: Path | str) -> Record:
    """Reads a record from a file's bytes; `path` names the file in errors.

    Raises:
        ValueError: it is no record; says why.
    """
    try:
        # Most records have no long numbers; checking each number would double the time to read a record.
        parse = _parse_integer if b"0" * 20 in content.translate(_DIGITS_TO_ZERO) else int
        record = json.loads(content.decode(), parse_int=parse)
        if b"\\ud" in content.lower():  # a lone surrogate, which no file can be written with
            json.dumps(record, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a whole record: {error}") from None
    if not isinstance(record, dict) or _depth(record) > _MAX_DEPTH:
        raise ValueError(f"{path}: not a record")
    for name, kind in _REQUIRED.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(f"{path}: not a record: '{name}' is missing or of another type")
    if record["schema"] != SCHEMA:
        raise ValueError(f"{path}: written by schema {record['schema']}, and this version reads {SCHEMA}")
    if record["status"] not in STATUSES:
        raise ValueError(f"{path}: unknown status {reprlib.repr(record['status'])}")
    return record


def read_checked(path: Path | str) -> Record:
    """Reads a record that is complete enough for tables (`check`). Raises `ValueError` as `read`."""
    return checked(read(path), path)


def checked(record: Record, path: Path | str) -> Record:
    """The record, if it is complete enough for tables. Raises `ValueError`, which names `path`."""
    try:
        check(record)
    except ValueError as problem:
        raise ValueError(f"{path}: {problem}") from None
    return record


_MAX_DEPTH = 20
"""Levels of nesting in a record; ours have 5."""


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= _MAX_DEPTH:
        depth += 1
        parts = (part.values() if type(part) is dict else part for part in level)
        level = [v for part in parts for v in part if type(v) is dict or type(v) is list]
    return depth


_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"0" * 9)


def _parse_integer(digits: str) -> int:
    if len(digits) > 19:  # 64 bits; larger integers overflow in many places
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def check(record: Record) -> None:
    """Raises `ValueError` if a record lacks what tables need, or has fields of a newer version.

    An unknown field may change the meaning of known ones: such a record is left out rather than misread.
    """
    cell, data, results = record["cell"], record["data"], record.get("results", [])
    for name, kind in (("task", str), ("model", str), ("length", int), ("protocol", str), ("accelerator", str)):
        _require(isinstance(cell.get(name), kind), f"cell.{name}")
    _require(isinstance(cell.get("mixer", ""), str), "cell.mixer")
    _require(_is_list_of(cell.get("seeds"), int) and cell["seeds"], "cell.seeds")
    _require(_is_list_of(record.get("overrides", []), str), "overrides")
    _require(_is_list_of(record.get("log", []), str), "log")
    _require(_is_list_of(record.get("attention_kernels", []), str), "attention_kernels")
    _require(_is_list_of(results, dict), "results")
    for name, part in record["recipe"].items():
        if name == "mixer":
            pairs = _is_list_of(part, list) and all(len(pair) == 2 and type(pair[0]) is str for pair in part)
            _require(pairs, "recipe.mixer")
        else:
            _require(part is None or isinstance(part, dict), f"recipe.{name}")
    for name in ("inference_speed", "versions", "device", "code"):
        _require(isinstance(record.get(name) or {}, dict), name)
    numbers = [(record, name) for name in ("train_speed", "memory", "evaluated")]
    for part, name in [*numbers, (data, "counts"), (data, "majority")]:
        values = part.get(name) or {}
        _require(isinstance(values, dict) and _are_numbers(values.values()), name)
        _require(min(_not_none(values.values()), default=0) >= 0, name)
    _require(_are_numbers([record.get("parameters")]), "parameters")
    for result in results:
        _require(type(result.get("seed")) is int and isinstance(result.get("status", ""), str), "results")
        _require(_are_numbers(map(result.get, (*_SCORES, "steps", "best_step"))), "results")
        _require(all(0 <= score <= 1 for score in _not_none(map(result.get, _SCORES))), "results")
        _require(_is_list_of(result.get("curve") or [], dict), "results.curve")
    code = record.get("code") or {}
    _require(isinstance(code.get("fingerprint", ""), str), "code.fingerprint")
    versions = code.get("versions", {})
    _require(isinstance(versions, dict) and _is_list_of([*versions.values()], int), "code.versions")
    external = record.get("external", {})
    _require(isinstance(external, dict) and isinstance(external.get("note", ""), str), "external")
    if "tuning" in record:
        _check_tuning(record["tuning"])
    parts = [("", record), ("cell.", cell), *(("results.", result) for result in results)]
    unknown = {prefix + name for prefix, part in parts for name in part.keys() - _FIELDS[prefix]}
    if unknown:
        raise ValueError(f"written by a newer version: unknown {', '.join(sorted(unknown))}")


def _check_tuning(tuning: Any) -> None:
    _require(isinstance(tuning, dict) and _is_list_of(tuning.get("sweep"), str), "tuning.sweep")
    trials, chosen = tuning.get("trials"), tuning.get("chosen")
    _require(_is_list_of(trials, dict) and trials, "tuning.trials")
    for trial in trials:
        _require(_is_list_of(trial.get("settings"), str) and isinstance(trial.get("status"), str), "tuning.trials")
        _require(_are_numbers([trial.get("validation_best")]), "tuning.trials")
    _require(chosen is None or (type(chosen) is int and 0 <= chosen < len(trials)), "tuning.chosen")


_SCORES = ("test_best", "test_last", "validation_best", "validation_last")


def _require(condition: Any, name: str) -> None:
    if not condition:
        raise ValueError(f"not a record: '{name}' is missing or of another type")


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and set(map(type, value)) <= {kind}


def _not_none(values: Iterable[Any]) -> list[float]:
    return [value for value in values if value is not None]


def _are_numbers(values: Iterable[Any]) -> bool:
    """Whether all are numbers or None."""
    return set(map(type, values)) <= {float, int, type(None)}


def write(path: Path, record: Record) -> None:
    """Replaces a record's file atomically and durably. NaN becomes null. Raises `OSError`.

    Until it returns, the previous record survives a power cut; from then on, the new one does.
    """
    write_whole(path, to_bytes(record))


def to_bytes(record: Record) -> bytes:
    """What a record's file holds. NaN becomes null."""
    return json.dumps(_plain(record), indent=1, allow_nan=False).encode() + b"\n"


def stamp(path: Path) -> tuple[int, ...]:
    """Identifies the file's current version without comparing clocks; empty if there is no file."""
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
