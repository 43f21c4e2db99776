"""Averages over tasks: the three rules that papers use, each under its name, else the mean of the tasks at hand.

These rules are why published averages cannot be compared directly: some are over five tasks without Path-X, some over
six with a failure counted as 50, some over six with a missing score as 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lra.report.stats import Estimate, average

LENGTHS = {"listops": 2000, "text": 4000, "retrieval": 4000, "image": 1024, "pathfinder": 1024, "pathx": 16384}
"""The six tasks at the paper's lengths, in its order."""
_SIX = tuple(f"{task}@{length}" for task, length in LENGTHS.items())
_BINARY = {f"{task}@{LENGTHS[task]}" for task in ("text", "retrieval", "pathfinder", "pathx")}
"""Tasks of two classes, the only ones where guessing gives 50."""


@dataclass(frozen=True)
class Rule:
    """A mean over named columns, and what a column without a score counts as."""

    name: str
    columns: tuple[str, ...]
    missing: Literal["none", "fifty", "zero"] = "none"
    """none: no average. fifty: 50 for a failure on two classes. zero: 0 for one column, failed or not run."""

    def average(self, estimates: Mapping[str, Estimate | None], failed: Mapping[str, bool]) -> Estimate | None:
        """The average of a row's columns, or None where the rule gives none."""
        parts: list[Estimate | float] = []
        for name in self.columns:
            estimate = estimates.get(name)
            if estimate is not None:
                parts.append(estimate)
            elif self.missing == "zero" and 0.0 not in parts:
                parts.append(0.0)
            elif self.missing == "fifty" and failed.get(name) and name in _BINARY:
                parts.append(50.0)
            else:
                return None
        return average(parts) if any(isinstance(part, Estimate) for part in parts) else None


def rules_for(columns: Sequence[str]) -> list[Rule]:
    """The averages that a set of columns allows; a single column has none."""
    if set(_SIX[:5]) <= set(columns):
        rules = [Rule(f"average of 5, Path-X left out ({', '.join(_SIX[:5])})", _SIX[:5])]
        if _SIX[5] in columns:
            rules += [
                Rule(f"average of 6, a failure as 50 ({', '.join(_SIX)})", _SIX, "fifty"),
                Rule(f"average of 6, a missing one as 0 ({', '.join(_SIX)})", _SIX, "zero"),
            ]
        return rules
    return [Rule(f"average ({', '.join(columns)})", tuple(columns))] if len(columns) > 1 else []


def task_order(task: str) -> tuple[int, int, str]:
    """Sort key: tasks in the paper's order, then those named after one of them in the same order, then the others."""
    stem = next((place for place, name in enumerate(LENGTHS) if f"{task}_".startswith(f"{name}_")), len(LENGTHS))
    return (task not in LENGTHS, stem, task)
