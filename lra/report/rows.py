"""The leaderboard's data: columns, scores, rows, and groups of rows that may be ranked together."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lra.report import averages, tuned
from lra.report.stats import Estimate
from lra.results import load
from lra.results.records import Record

ColumnKey = tuple[str, int, str, str, int]
"""Task, length, task version, data fingerprint, and the examples of the sample that is scored; 0: the whole split."""


@dataclass
class Column:
    """A task at a length on one data set, of which all or the same sample is scored."""

    name: str
    task: str
    length: int
    version: str
    fingerprint: str
    source: str
    examples: int | None
    """Examples that are scored: the whole split, or a sample of it."""
    majority: float | None
    """Accuracy of always answering the most frequent class, %."""
    counts: dict[str, int] = field(default_factory=dict)
    """Numbers of examples, by split, whether they are scored or not."""
    notes: tuple[str, ...] = ()
    """Remarks on this copy of the data: a part of the release, documents that were cut; and on the sample."""
    sampled: bool = False
    """Whether only a sample of the split is scored."""


def column_key(record: Record, split: str) -> ColumnKey:
    """The column a record belongs to, for scores on a split."""
    cell, data = record["cell"], record["data"]
    name = cell["task"], cell["length"], str(data.get("task_version")), str(data.get("fingerprint"))
    scored = (record.get("evaluated") or {}).get(split)  # older records lack it, and evaluated everything
    return *name, 0 if scored == (data.get("counts") or {}).get(split) else scored or 0


def has_score(record: Record) -> bool:
    """Whether any of the record's seeds has a score."""
    return record["status"] == "ok"


def make_columns(records: Sequence[Record], split: str) -> tuple[dict[ColumnKey, Column], list[str]]:
    """The columns in the tables' order, and one line for each task that was run on several data sets.

    Only finished cells decide names, so that a failed cell changes no column but its own. Of one data set the whole
    split goes before a sample, and so keeps the task's plain name.
    """
    tasks: dict[tuple[str, int], Counter[ColumnKey]] = defaultdict(Counter)
    describing: dict[ColumnKey, Record] = {}
    for record in records:
        key = column_key(record, split)
        tasks[key[:2]][key] += has_score(record)
        if key not in describing or _data_preference(record) < _data_preference(describing[key]):
            describing[key] = record
    columns, conflicts = {}, []
    for (task, length), scored in sorted(tasks.items(), key=lambda item: (averages.task_order(item[0][0]), item[0])):
        ranked = sorted(scored, key=lambda key: (not scored[key], key[4] > 0, -scored[key], key))
        for number, key in enumerate(ranked):
            name = f"{task}@{length}"
            if number and scored[ranked[0]]:
                name += f" [{_distinction(key, ranked[0])}]"
            columns[key] = _column(name, key, describing[key]["data"], split)
        conflicts += _conflicts(f"{task}@{length}", [key for key in ranked if scored[key]])
    return columns, conflicts


def _distinction(key: ColumnKey, first: ColumnKey) -> str:
    """What tells a column from the one that has the task's plain name."""
    words = [] if key[2:4] == first[2:4] else [f"version {key[2]}, data {key[3][:8]}"]
    if key[4] != first[4]:
        words.append(f"{key[4]:,} examples" if key[4] else "all examples")
    return ", ".join(words)


def _column(name: str, key: ColumnKey, data: Mapping[str, Any], split: str) -> Column:
    task, length, version, fingerprint, sample = key
    count, majority = (data.get("counts") or {}).get(split), (data.get("majority") or {}).get(split)
    whole = "" if count is None else f" of {count:,}"
    notes = (*_notes(data), *([f"{split} is a fixed sample of {sample:,}{whole} examples"] if sample else []))
    return Column(
        name, task, length, version, fingerprint, str(data.get("source")), sample or count,
        None if majority is None else 100 * majority, _counts(data), notes, sample > 0,
    )  # fmt: skip


def _data_preference(record: Record) -> tuple[bool, str]:
    return not record["data"].get("counts"), str(record["data"].get("source"))


def _counts(data: Mapping[str, Any]) -> dict[str, int]:
    return {split: count for split, count in (data.get("counts") or {}).items() if isinstance(count, int)}


def _notes(data: Mapping[str, Any]) -> tuple[str, ...]:
    notes = data.get("notes")
    return tuple(map(str, notes)) if isinstance(notes, list) else ()


def _conflicts(name: str, keys: list[ColumnKey]) -> list[str]:
    versions, data_sets = sorted({key[2] for key in keys}), {key[3] for key in keys}
    if len(versions) > 1:
        difference = f"task versions {' and '.join(versions)}"
    elif len(data_sets) > 1:
        difference = f"{len(data_sets)} data sets"
    elif len(keys) > 1:
        difference = "all examples and on samples of them"
    else:
        return []
    return [f"conflict: {name} was run on {difference}; results on different data stand in columns of their own"]


def contest(protocol: str, trials: int) -> str:
    """'mini', or with a budget 'mini, tuned (8 trials)': results that may be laid side by side."""
    return f"{protocol}, {tuned.budget_text(trials)}" if trials else protocol


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
    elsewhere: tuple[Score, ...] = ()
    """Of a combined row (`combine`): the model's scores in this column on other accelerators, most seeds first."""

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
    """As `fairness.kind_of` names it."""
    reasons: tuple[str, ...]
    """Why it is free for all, or a remark on an external result; none of other rows."""
    unchanged: bool
    """Whether the recipe is the protocol's own, but for what was tuned, however many parameters the model has."""
    scores: dict[str, Score]
    averages: dict[str, Estimate] = field(default_factory=dict)
    best: set[str] = field(default_factory=set)
    """Names of the averages in which the row is best, as `Score.best`."""
    rank: int | None = None
    trials: int = 0
    """Number of trials among which its settings were chosen; 0 if nothing was tuned."""
    sweep: str = ""
    """What was tuned, in words; part of `overrides`."""

    @property
    def plain(self) -> bool:
        """Whether the row has the protocol's own recipe and code, and no overrides."""
        return self.ours_alone and not self.trials

    @property
    def ours_alone(self) -> bool:
        """Whether the row has the protocol's own recipe and code, but for what was tuned."""
        return self.unchanged and self.overrides == self.sweep and not self.variant

    @property
    def contest(self) -> str:
        """Those that a figure may hold together, in words."""
        return contest(self.protocol, self.trials)

    @property
    def results(self) -> int:
        """Seeds with a score, over all columns."""
        return sum(len(score.values) for score in self.scores.values())

    def estimate(self, name: str) -> Estimate | None:
        """The row's estimate in a column or average."""
        return self.averages.get(name) or (self.scores[name].estimate if name in self.scores else None)

    @property
    def parameters(self) -> int | None:
        """The maximum over the row's cells; None where no record has the number."""
        counts = [r.get("parameters") or 0 for s in self.scores.values() for r in s.records]
        return max(counts, default=0) or None


def one_a_model(rows: Iterable[Row]) -> list[Row]:
    """A row for each model of a protocol, combined of those on several accelerators."""
    by_model: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_model[row.model].append(row)
    return [combine(of_model) for of_model in by_model.values()]


def combine(rows: Sequence[Row]) -> Row:
    """A model's rows on several accelerators as one.

    The score of each task is that of the accelerator on which most seeds have one, of equals the latest: accuracies are
    averaged over seeds, never over accelerators. The accelerator that the row names is the one with most results.
    """
    by_column: dict[str, list[Score]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.accelerator):
        for name, score in row.scores.items():
            by_column[name].append(score)
    scores: dict[str, Score] = {}
    for name, found in by_column.items():
        first, *others = sorted(found, key=_weight, reverse=True)
        scores[name] = dataclasses.replace(first, elsewhere=tuple(others))
    main = max(rows, key=lambda row: (row.results, max(map(_latest, row.scores.values())), row.accelerator))
    return dataclasses.replace(main, scores=scores, averages=main.averages if len(rows) == 1 else {})


def _weight(score: Score) -> tuple[int, str]:
    return len(score.values), _latest(score)


def _latest(score: Score) -> str:
    return max(str(record.get("created")) for record in score.records)


@dataclass
class Group:
    """Rows that may be ranked together, best first."""

    protocol: str
    kind: str
    """Of its rows."""
    columns: list[str]
    averages: list[str]
    rows: list[Row]
