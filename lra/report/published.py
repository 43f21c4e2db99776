"""Published accuracies beside ours: only figures read in their source, under the same protocol, length and data."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

from lra.report import averages
from lra.report.leaderboard import Leaderboard
from lra.report.rows import Column, Row
from lra.report.stats import Estimate
from tasks import TASKS

PROTOCOLS = {"lra": "lra-paper", "lra_paper": "lra-paper", "small": "small", "ssm": "ssm"}
"""Our protocols and their names in published.csv. A paper's own tuning ('own-tuned') is comparable with none of them,
unless it is a recipe of `ssm`: there, each row stands beside the figures of its own family only."""


@dataclass(frozen=True)
class Published:
    """One accuracy from a paper."""

    name: str
    """The model's name in the paper or its table."""
    value: float
    """Test accuracy, %."""
    source: str
    note: str


@dataclass(frozen=True)
class Comparison:
    """One of our accuracies and the published one under the same protocol."""

    row: Row
    column: str
    estimate: Estimate
    published: Published

    @property
    def difference(self) -> float:
        """Ours − theirs, in points of %."""
        return self.estimate.mean - self.published.value


@functools.cache
def load_table() -> tuple[dict[str, str], ...]:
    """Reads published.csv: one row per model; `ours` is our name for it where `protocol` is one of ours too.

    `mixer` and `first` are for calibration (`lra.report.calibration`).
    """
    with open(Path(__file__).with_name("published.csv"), newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


@functools.cache
def _by_cell() -> dict[tuple[str, str, str], Published]:
    """Published accuracies by protocol, our model's name and task."""
    accuracies: dict[tuple[str, str, str], Published] = {}
    for row in load_table():
        for task in averages.LENGTHS:
            value = parse_number(row[task])
            if row["ours"] and value is not None:
                key = (row["protocol"], row["ours"], task)
                accuracies.setdefault(key, Published(row["model"], value, row["source"], row["note"]))
    return accuracies


def parse_number(text: str) -> float | None:
    """The number in a cell of published.csv; None for FAIL, OOM and gaps."""
    try:
        return float(text)
    except ValueError:
        return None


def published_for(row: Row, column: Column) -> Published | None:
    """The published accuracy that a row's score may be compared with.

    None unless the row has the protocol's own recipe, and the column the paper's length of the task and as many
    examples as the published data, all of them scored.
    """
    if not row.unchanged or row.trials or column.sampled or averages.LENGTHS.get(column.task) != column.length:
        return None
    if TASKS[column.task].compare_counts(column.counts):
        return None
    return _by_cell().get((PROTOCOLS.get(row.protocol, ""), row.model, column.task))


def data_notes(column: Column) -> list[str]:
    """The remarks on a column's data; those of older records lack that they are a part of the published data."""
    task = TASKS.get(column.task)
    part = task.compare_counts(column.counts) if task and column.counts else ""
    is_divided_otherwise = task is not None and sum(column.counts.values()) == sum(task.counts)
    missing = [part] if part and not is_divided_otherwise and part not in column.notes else []
    return [*missing, *column.notes]


def comparisons(leaderboard: Leaderboard) -> list[Comparison]:
    """Every score of ours that has a published counterpart, in the leaderboard's order."""
    compared = []
    for row in leaderboard.rows:
        for name, score in row.scores.items():
            theirs = published_for(row, leaderboard.columns[name])
            if theirs is not None and score.estimate is not None:
                compared.append(Comparison(row, name, score.estimate, theirs))
    return compared
