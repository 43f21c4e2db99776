"""Predictions from elsewhere: read from NPY, CSV or JSONL, and checked against the test split they are for.

Notation: N examples in the test split, C classes.
"""

from __future__ import annotations

import csv
import json
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lra.errors import UsageError, one_line

EXAMPLE = "example"
"""Name of the column, or key, with an example's number; without it, predictions are in the order of the split."""
_CLASS, _LOGITS = "prediction", "logits"
_MAX_LINE = 1 << 20


def read(path: Path, examples: int, classes: int) -> tuple[np.ndarray, str]:
    """The predicted class of each example of the test split.

    Args:
        path: a NumPy array of classes [N] or logits [N, C]; CSV with a class, or C logits, a line; or JSONL with a
            class, a list of C logits, or an object with `prediction` or `logits` a line. CSV and JSONL may number the
            examples from 0 in `example`, and then have them in any order.
        examples: N.
        classes: C.

    Returns:
        The classes, int64 [N], and what they were given as: 'classes' or 'logits', of which the first greatest counts.

    Raises:
        UsageError: the file cannot be read or is none of these, has another number of predictions, a class out of
            range, or logits that are not finite. The message is one line that names the place.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"--predictions={path} ends in none of {', '.join(_READERS)}")
    try:
        return _to_classes(reader(path, examples), examples, classes)
    except OSError as error:
        raise UsageError(f"--predictions={path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--predictions={path} is not UTF-8 text") from None
    except _Refused as refusal:
        raise UsageError(f"--predictions={path}: {refusal}") from None


class _Refused(Exception):
    """What is wrong with the file, without its name."""


def _to_classes(values: np.ndarray, examples: int, classes: int) -> tuple[np.ndarray, str]:
    if values.dtype.kind not in "iuf" or values.ndim not in (1, 2):
        shape = " × ".join(map(str, values.shape))
        raise _Refused(f"{values.dtype} values of shape {shape or 'none'}: give classes [N] or logits [N, C]")
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if len(values) != examples:
        raise _Refused(f"{len(values):,} predictions, and the test split has {examples:,} examples: predict each once")
    if values.ndim == 2:
        if values.shape[1] != classes:
            raise _Refused(f"{values.shape[1]} logits for each example, and the task has {classes} classes")
        wrong = ~np.isfinite(values).all(1)
        if wrong.any():
            raise _Refused(f"the logits of example {int(wrong.argmax()):,} are not finite numbers")
        return values.argmax(1), "logits"
    wrong = ~np.isin(values, np.arange(classes))
    if wrong.any():
        at = int(wrong.argmax())
        raise _Refused(f"example {at:,} has class {values[at]:.6g}, and classes are 0 to {classes - 1}")
    return values.astype(np.int64), "classes"


def _read_npy(path: Path, examples: int) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a header is Python 2's
            # Mapped, so that a header that promises too much costs nothing.
            loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except _DAMAGE as error:
        reason = one_line(error).partition(". ")[0] or type(error).__name__
        raise _Refused(f"it is no NumPy array of numbers ({reason})") from None
    if not isinstance(loaded, np.ndarray):
        raise _Refused("it is an archive of arrays: save one, with numpy.save")
    return loaded


_DAMAGE = (ValueError, EOFError, SyntaxError, TypeError, KeyError, OverflowError, MemoryError, tokenize.TokenError)
"""What NumPy raises on a header that is none, which it reads as Python."""


def _read_csv(path: Path, examples: int) -> np.ndarray:
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            return _collect(_csv_rows(csv.reader(file)), examples)
        except csv.Error as error:
            raise _Refused(f"it is no CSV file ({error})") from None


def _csv_rows(lines: Iterable[list[str]]) -> Iterator[tuple[int, Any, list[str]]]:
    """(line, example or None, values) of each line; a first line without any number is a header."""
    place = None
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        if number == 1 and not any(map(_is_number, line)):
            names = [name.strip().lower() for name in line]
            place = names.index(EXAMPLE) if EXAMPLE in names else None
        elif place is None:
            yield number, None, line
        elif place < len(line):
            yield number, line[place], line[:place] + line[place + 1 :]
        else:
            raise _Refused(f"line {number} has no column '{EXAMPLE}'")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _read_jsonl(path: Path, examples: int) -> np.ndarray:
    with open(path, encoding="utf-8-sig") as file:
        return _collect(_jsonl_rows(file), examples)


def _jsonl_rows(file: Any) -> Iterator[tuple[int, Any, Any]]:
    number = 0
    while line := file.readline(_MAX_LINE):
        number += 1
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise _Refused(f"line {number} is no JSON: {line.strip()[:40]!r}") from None
        example = None
        if isinstance(value, dict):
            example, wanted = value.get(EXAMPLE), [name for name in (_CLASS, _LOGITS) if name in value]
            if len(wanted) != 1:
                raise _Refused(f"line {number} needs '{_CLASS}' or '{_LOGITS}', one of them")
            value = value[wanted[0]]
        yield number, example, value if isinstance(value, list) else [value]


_READERS = {".npy": _read_npy, ".csv": _read_csv, ".jsonl": _read_jsonl}


def _collect(rows: Iterator[tuple[int, Any, Any]], examples: int) -> np.ndarray:
    """The rows as an array, in the order of the examples: [N] of one value each, or [N, C]."""
    values: list[list[float]] = []
    places: list[int] = []
    for line, example, row in rows:
        if len(values) == examples:
            raise _Refused(f"line {line} is one more prediction than the test split has examples ({examples:,})")
        values.append([_to_number(word, line) for word in row])
        if len(row) != len(values[0]) or not row:
            raise _Refused(f"line {line} has {len(row)} values, and the lines before it {len(values[0])}")
        if example is not None:
            places.append(_to_place(example, line, examples))
    if not places:
        return np.array(values, np.float64) if values else np.empty(0)
    if len(places) < len(values):
        raise _Refused(f"some lines have an '{EXAMPLE}' and others none")
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise _Refused(f"example {twice:,} is there twice")
    if len(values) < examples:
        there = set(places)
        missing = next(place for place in range(examples) if place not in there)
        raise _Refused(f"{len(values):,} of {examples:,} examples have a prediction: example {missing:,} has none")
    return np.array(values, np.float64)[np.argsort(places)]


def _to_number(word: Any, line: int) -> float:
    if isinstance(word, bool) or not isinstance(word, str | int | float):
        raise _Refused(f"line {line} has {str(word)[:40]!r}, which is no number")
    try:
        return float(word)
    except (ValueError, OverflowError):
        told = "no prediction" if not str(word).strip() else f"{str(word)[:40]!r}, which is no number"
        raise _Refused(f"line {line} has {told}") from None


def _to_place(example: Any, line: int, examples: int) -> int:
    try:
        place = int(example)
    except (TypeError, ValueError):
        place = -1
    if isinstance(example, bool | float) or not 0 <= place < examples:
        raise _Refused(f"line {line} has {EXAMPLE} {str(example)[:40]!r}, and they are 0 to {examples - 1:,}")
    return place
