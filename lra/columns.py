"""The leaderboard's columns: a task at a length on one data set, so that results on different data never meet."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from lra import averages, records

Place = tuple[str, int, str, str]
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


def place(record: records.Record) -> Place:
    """Which column a record belongs to."""
    cell, data = record["cell"], record["data"]
    return cell["task"], cell["length"], str(data.get("task_version")), str(data.get("fingerprint"))


def finished(record: records.Record) -> bool:
    """Whether any of the record's seeds has a score."""
    return record["status"] == "ok"


def columns(found: Sequence[records.Record], metric: str) -> tuple[dict[Place, Column], list[str]]:
    """The column of each place, in the tables' order, and a line for each task that was run on several data sets.

    Only finished cells decide names, so that a failed cell changes no column but its own.
    """
    split = metric.partition("_")[0]
    tasks: dict[tuple[str, int], Counter[Place]] = defaultdict(Counter)
    told: dict[Place, records.Record] = {}
    for record in found:
        where = place(record)
        tasks[where[:2]][where] += finished(record)
        if where not in told or _preference(record) < _preference(told[where]):
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


def _preference(record: records.Record) -> tuple[bool, str]:
    return not record["data"].get("counts"), str(record["data"].get("source"))


def _conflict(name: str, places: list[Place]) -> list[str]:
    versions = sorted({where[2] for where in places})
    if len(versions) > 1:
        told = f"task versions {' and '.join(versions)}"
    elif len(places) > 1:
        told = f"{len(places)} data sets"
    else:
        return []
    return [f"conflict: {name} was run on {told}; results on different data stand in columns of their own"]
