"""What the leaderboard consists of: scores, rows, and groups of rows that may be ranked together."""

from __future__ import annotations

from dataclasses import dataclass, field

from lra import records, tidy
from lra.statistics import Estimate

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
        return max((tidy.memory(record, method) or 0 for record in self.found), default=0) or None

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
