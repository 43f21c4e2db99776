"""Published accuracies beside ours: only figures read at their source, and only under the same protocol and length."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

from lra.report import averages
from lra.report.leaderboard import Leaderboard
from lra.report.rows import Column, Row
from lra.report.stats import Estimate

PROTOCOLS = {"lra": "lra-paper", "lra_paper": "lra-paper", "small": "small"}
"""Our protocols and what published.csv calls them. A paper's own tuning is comparable with none of them."""


@dataclass(frozen=True)
class Published:
    """One figure of a paper."""

    name: str
    """As the paper or its table calls the model."""
    value: float
    """Test accuracy, %."""
    source: str
    note: str


@dataclass(frozen=True)
class Comparison:
    """A figure of ours with the published one under the same protocol."""

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
    """published.csv: a row a model, `ours` being our name of it where `protocol` is one of ours too."""
    with open(Path(__file__).with_name("published.csv"), newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


@functools.cache
def _figures() -> dict[tuple[str, str, str], Published]:
    """By protocol, our model's name and task."""
    found: dict[tuple[str, str, str], Published] = {}
    for row in load_table():
        for task in averages.LENGTHS:
            value = parse_number(row[task])
            if row["ours"] and value is not None:
                key = (row["protocol"], row["ours"], task)
                found.setdefault(key, Published(row["model"], value, row["source"], row["note"]))
    return found


def parse_number(text: str) -> float | None:
    """A cell of published.csv: FAIL, OOM and gaps are no numbers."""
    try:
        return float(text)
    except ValueError:
        return None


def published_for(row: Row, column: Column) -> Published | None:
    """The published figure that a row's score may be held against, or None.

    There is one only for a row with the protocol's own recipe, at the paper's length of the task.
    """
    if not row.unchanged or averages.LENGTHS.get(column.task) != column.length:
        return None
    return _figures().get((PROTOCOLS.get(row.protocol, ""), row.model, column.task))


def comparisons(board: Leaderboard) -> list[Comparison]:
    """Every score of ours that has a published figure, in the board's order."""
    found = []
    for row in board.rows:
        for name, score in row.scores.items():
            theirs = published_for(row, board.columns[name])
            if theirs is not None and score.estimate is not None:
                found.append(Comparison(row, name, score.estimate, theirs))
    return found
