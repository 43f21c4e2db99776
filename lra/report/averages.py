"""Averages over tasks: the three rules that papers use, each by its name, and the plain mean of the tasks at hand.

Published averages can't be laid side by side because of these rules: over five tasks without Path-X, over six with a
failure counted as 50, over six with a missing one as 0.
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
"""Tasks of two classes: 50 is what guessing gives there, and nowhere else."""


@dataclass(frozen=True)
class Rule:
    """A mean over named columns, and what stands for a column without a score."""

    name: str
    columns: tuple[str, ...]
    missing: Literal["none", "fifty", "zero"] = "none"
    """none: no average. fifty: 50 for a failure on two classes. zero: 0 for one column, failed or not run."""

    def average(self, estimates: Mapping[str, Estimate | None], failed: Mapping[str, bool]) -> Estimate | None:
        """The average of a row's columns, or None where the rule gives none."""
        parts: list[Estimate | float] = []
        for name in self.columns:
            made = estimates.get(name)
            if made is not None:
                parts.append(made)
            elif self.missing == "zero" and 0.0 not in parts:
                parts.append(0.0)
            elif self.missing == "fifty" and failed.get(name) and name in _BINARY:
                parts.append(50.0)
            else:
                return None
        return average(parts) if any(isinstance(part, Estimate) for part in parts) else None


def rules_for(columns: Sequence[str]) -> list[Rule]:
    """The averages that a set of columns allows; none for a single column."""
    if set(_SIX[:5]) <= set(columns):
        found = [Rule(f"average of 5, Path-X left out ({_join(_SIX[:5])})", _SIX[:5])]
        if _SIX[5] in columns:
            found += [
                Rule(f"average of 6, a failure as 50 ({_join(_SIX)})", _SIX, "fifty"),
                Rule(f"average of 6, a missing one as 0 ({_join(_SIX)})", _SIX, "zero"),
            ]
        return found
    return [Rule(f"average ({_join(columns)})", tuple(columns))] if len(columns) > 1 else []


def task_order(task: str) -> tuple[int, str]:
    """Sorts tasks in the paper's order, others after them."""
    return (list(LENGTHS).index(task) if task in LENGTHS else len(LENGTHS), task)


def _join(columns: Sequence[str]) -> str:
    return ", ".join(columns)
