"""The leaderboard's data: columns, scores, rows, and groups of rows that may be ranked together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lra.report import averages
from lra.report.stats import Estimate
from lra.results import load
from lra.results.records import Record

ColumnKey = tuple[str, int, str, str]
"""Task, length, task version and data fingerprint."""


@dataclass
class Column:
    """A task at a length on one data set."""

    name: str
    task: str
    length: int
    version: str
    fingerprint: str
    source: str
    examples: int | None
    """Size of the split that is scored."""
    majority: float | None
    """Accuracy of always answering the most frequent class, %."""
    counts: dict[str, int] = field(default_factory=dict)
    """Numbers of examples, by split."""
    notes: tuple[str, ...] = ()
    """Remarks on this copy of the data: a part of the release, documents that were cut."""


def column_key(record: Record) -> ColumnKey:
    """The column a record belongs to."""
    cell, data = record["cell"], record["data"]
    return cell["task"], cell["length"], str(data.get("task_version")), str(data.get("fingerprint"))


def has_score(record: Record) -> bool:
    """Whether any of the record's seeds has a score."""
    return record["status"] == "ok"


def make_columns(records: Sequence[Record], metric: str) -> tuple[dict[ColumnKey, Column], list[str]]:
    """The columns in the tables' order, and one line for each task that was run on several data sets.

    Only finished cells decide names, so that a failed cell changes no column but its own.
    """
    split = metric.partition("_")[0]
    tasks: dict[tuple[str, int], Counter[ColumnKey]] = defaultdict(Counter)
    describing: dict[ColumnKey, Record] = {}
    for record in records:
        key = column_key(record)
        tasks[key[:2]][key] += has_score(record)
        if key not in describing or _data_preference(record) < _data_preference(describing[key]):
            describing[key] = record
    columns, conflicts = {}, []
    for (task, length), scored in sorted(tasks.items(), key=lambda item: (averages.task_order(item[0][0]), item[0])):
        ranked = sorted(scored, key=lambda key: (-scored[key], key))
        for number, key in enumerate(ranked):
            name = f"{task}@{length}"
            if number and scored[ranked[0]]:
                name += f" [version {key[2]}, data {key[3][:8]}]"
            data = describing[key]["data"]
            majority = (data.get("majority") or {}).get(split)
            columns[key] = Column(
                name, *key, str(data.get("source")), (data.get("counts") or {}).get(split),
                None if majority is None else 100 * majority, _counts(data), _notes(data),
            )  # fmt: skip
        conflicts += _conflicts(f"{task}@{length}", [key for key in ranked if scored[key]])
    return columns, conflicts


def _data_preference(record: Record) -> tuple[bool, str]:
    return not record["data"].get("counts"), str(record["data"].get("source"))


def _counts(data: Mapping[str, Any]) -> dict[str, int]:
    return {split: count for split, count in (data.get("counts") or {}).items() if isinstance(count, int)}


def _notes(data: Mapping[str, Any]) -> tuple[str, ...]:
    notes = data.get("notes")
    return tuple(map(str, notes)) if isinstance(notes, list) else ()


def _conflicts(name: str, keys: list[ColumnKey]) -> list[str]:
    versions = sorted({version for _, _, version, _ in keys})
    if len(versions) > 1:
        difference = f"task versions {' and '.join(versions)}"
    elif len(keys) > 1:
        difference = f"{len(keys)} data sets"
    else:
        return []
    return [f"conflict: {name} was run on {difference}; results on different data stand in columns of their own"]


FAILURES = ("oom", "diverged", "timeout", "failed")
"""Statuses that are a result of the cell; an interrupted cell has no result yet."""


@dataclass
class Score:
    """The results of one row in one column."""

    estimate: Estimate | None
    values: dict[int, float]
    """% by seed, of the seeds that have a score."""
    failures: dict[str, int]
    """Number of seeds without a score, by status."""
    records: list[Record]
    steps_per_second: float | None
    """Median over records of the cells' medians."""
    best: bool = False
    """Ahead of every other row of its group and column by more than the errors explain."""

    def memory(self, method: str) -> int | None:
        """The maximum over the row's cells by one method ('device_peak_bytes', 'compiled_bytes'), bytes."""
        return max((load.solo_memory(record, method) or 0 for record in self.records), default=0) or None

    @property
    def failed(self) -> bool:
        """Whether no seed has a score and at least one failed for good."""
        return self.estimate is None and any(status in FAILURES for status in self.failures)


@dataclass
class Row:
    """One line of the leaderboard."""

    model: str
    protocol: str
    overrides: str
    accelerator: str
    variant: str
    kind: str
    """`fairness.APPLES` or `fairness.FREE`."""
    reasons: tuple[str, ...]
    unchanged: bool
    """Whether the recipe is the protocol's own, however many parameters that gives the model."""
    scores: dict[str, Score]
    averages: dict[str, Estimate] = field(default_factory=dict)
    best: set[str] = field(default_factory=set)
    """Names of the averages in which the row is best, as `Score.best`."""
    rank: int | None = None

    def estimate(self, name: str) -> Estimate | None:
        """The row's estimate in a column or average."""
        return self.averages.get(name) or (self.scores[name].estimate if name in self.scores else None)

    @property
    def parameters(self) -> int | None:
        """The maximum over the row's cells; None where no record has the number."""
        counts = [r.get("parameters") or 0 for s in self.scores.values() for r in s.records]
        return max(counts, default=0) or None


@dataclass
class Group:
    """Rows that may be ranked together, best first."""

    protocol: str
    kind: str
    columns: list[str]
    averages: list[str]
    rows: list[Row]
