"""A leaderboard's parts: columns, scores, rows, and groups of rows that may be ranked together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from lra.report import averages
from lra.report.stats import Estimate
from lra.results import load, records

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
    """Of the split that is scored."""
    majority: float | None
    """Accuracy of always answering the most frequent class, %."""


def column_key(record: records.Record) -> ColumnKey:
    """Which column a record belongs to."""
    cell, data = record["cell"], record["data"]
    return cell["task"], cell["length"], str(data.get("task_version")), str(data.get("fingerprint"))


def has_score(record: records.Record) -> bool:
    """Whether any of the record's seeds has a score."""
    return record["status"] == "ok"


def make_columns(found: Sequence[records.Record], metric: str) -> tuple[dict[ColumnKey, Column], list[str]]:
    """The column of each place, in the tables' order, and a line for each task that was run on several data sets.

    Only finished cells decide names, so that a failed cell changes no column but its own.
    """
    split = metric.partition("_")[0]
    tasks: dict[tuple[str, int], Counter[ColumnKey]] = defaultdict(Counter)
    told: dict[ColumnKey, records.Record] = {}
    for record in found:
        where = column_key(record)
        tasks[where[:2]][where] += has_score(record)
        if where not in told or _data_preference(record) < _data_preference(told[where]):
            told[where] = record
    made, lines = {}, []
    for (task, length), counts in sorted(tasks.items(), key=lambda item: (averages.order(item[0][0]), item[0])):
        ranked = sorted(counts, key=lambda where: (-counts[where], where))
        for number, where in enumerate(ranked):
            name = f"{task}@{length}"
            if number and counts[ranked[0]]:
                name += f" [version {where[2]}, data {where[3][:8]}]"
            data = told[where]["data"]
            majority = (data.get("majority") or {}).get(split)
            made[where] = Column(
                name, *where, str(data.get("source")), (data.get("counts") or {}).get(split),
                None if majority is None else 100 * majority,
            )  # fmt: skip
        lines += _conflict(f"{task}@{length}", [where for where in ranked if counts[where]])
    return made, lines


def _data_preference(record: records.Record) -> tuple[bool, str]:
    return not record["data"].get("counts"), str(record["data"].get("source"))


def _conflict(name: str, places: list[ColumnKey]) -> list[str]:
    versions = sorted({where[2] for where in places})
    if len(versions) > 1:
        told = f"task versions {' and '.join(versions)}"
    elif len(places) > 1:
        told = f"{len(places)} data sets"
    else:
        return []
    return [f"conflict: {name} was run on {told}; results on different data stand in columns of their own"]


FAILURES = ("oom", "diverged", "timeout", "failed")
"""Statuses that are a result of the cell; an interrupted one has none yet."""


@dataclass
class Score:
    """One row's results in one column."""

    estimate: Estimate | None
    values: dict[int, float]
    """% of each seed that has a score."""
    lost: dict[str, int]
    """How many seeds ended without a score, by status."""
    found: list[records.Record]
    steps_per_second: float | None
    """Median over records of the cells' medians."""
    best: bool = False
    """Better than every other row of its group and column by more than the errors explain."""

    def memory(self, method: str) -> int | None:
        """The largest of the row's cells by one method ('device_peak_bytes', 'compiled_bytes'), bytes."""
        return max((load.solo_memory(record, method) or 0 for record in self.found), default=0) or None

    @property
    def failed(self) -> bool:
        return self.estimate is None and any(status in FAILURES for status in self.lost)


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
    """The recipe is the protocol's own, however many parameters that gives the model."""
    scores: dict[str, Score]
    averages: dict[str, Estimate] = field(default_factory=dict)
    best: set[str] = field(default_factory=set)
    """Names of the averages in which the row is best, as `Score.best`."""
    rank: int | None = None

    def estimate(self, name: str) -> Estimate | None:
        """The row's figure in a column or average."""
        return self.averages.get(name) or (self.scores[name].estimate if name in self.scores else None)

    @property
    def parameters(self) -> int | None:
        """The largest of the row's models; None where no cell says."""
        counts = [r.get("parameters") or 0 for s in self.scores.values() for r in s.found]
        return max(counts, default=0) or None


@dataclass
class Group:
    """Rows that may be ranked together, best first."""

    protocol: str
    kind: str
    columns: list[str]
    averages: list[str]
    rows: list[Row]
