"""The largest distance that a model solves, of the tasks that ask for one (`tasks.ordered_pair`)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lra.report.charts import counted
from lra.report.rows import Column, Row, Score
from lra.results import load
from tasks import TASKS

SOLVED = 90.0
"""Accuracy (%) from which a seed counts as solved; guessing gives 50."""


@dataclass(frozen=True)
class Distance:
    """Up to which distance all seeds of a model solved the task."""

    solved: int
    """Tokens; 0 where none was solved."""
    run: tuple[int, ...]
    """The distances that were run, ascending."""
    seeds: int
    """The least number of seeds of these."""
    steps: float | None
    """Median over seeds of the step of the first validation that was above `SOLVED`, at the largest distance solved."""

    @property
    def reached(self) -> str:
        """'16'; '≥ 16' where no larger one was run, '< 1' where none was solved."""
        if not self.solved:
            return f"< {self.run[0]}"
        return f"≥ {self.solved}" if self.solved == self.run[-1] else str(self.solved)

    def text(self, usual: int) -> str:
        """The same, with the number of seeds where it is not the usual one."""
        return self.reached if self.seeds == usual else f"{self.reached} ({counted(self.seeds, 'seed')})"

    @property
    def told(self) -> str:
        """The same in words."""
        steps = f", first after {self.steps:,.0f} steps" if self.steps is not None else ""
        run = ", ".join(map(str, self.run))
        return f"{counted(self.seeds, 'seed')}, of distances {run}{steps}"


def asked(task: str) -> int:
    """The distance that a task asks for; 0 where it is none of these, or unknown."""
    return TASKS[task].distance if task in TASKS else 0


def averaged(columns: Iterable[str]) -> list[str]:
    """The columns, by name, that averages are over: those that ask for no distance, or all if there are no others."""
    names = list(columns)
    return [name for name in names if not asked(name.partition("@")[0])] or names


def of_row(row: Row, columns: Mapping[str, Column]) -> Distance | None:
    """A row's largest distance; None where no such task was run. Of a distance's lengths, the longest counts."""
    scores: dict[int, Score] = {}
    for name, score in sorted(row.scores.items(), key=lambda item: columns[item[0]].length):
        distance = asked(columns[name].task)
        if distance and score.values:
            scores[distance] = score
    if not scores:
        return None
    solved = [distance for distance, score in scores.items() if _is_solved(score)]
    largest = max(solved, default=0)
    steps = _first_steps(scores[largest]) if largest else []
    return Distance(
        largest, tuple(sorted(scores)), min(len(score.values) for score in scores.values()),
        statistics.median(steps) if steps else None,
    )  # fmt: skip


def _is_solved(score: Score) -> bool:
    """Whether every seed solved it; one that failed did not."""
    return not score.failures and all(value >= SOLVED for value in score.values.values())


def _first_steps(score: Score) -> list[float]:
    """For each seed that solved it, the step of the first validation that did."""
    results = [result for record in score.records for result in load.seed_results(record)]
    return [step for result in results if (step := first_step(result)) < math.inf]


def first_step(result: dict[str, Any]) -> float:
    """The step of the first validation at which a seed solved its task; infinite where none did."""
    points = load.curve_points(result, "validation_accuracy")
    return next((step for step, value in points if 100 * value >= SOLVED), math.inf)


def usual_seeds(found: Iterable[Distance | None]) -> int:
    """The number of seeds of most rows; 0 where none has a distance."""
    return max(statistics.multimode(distance.seeds for distance in found if distance is not None), default=0)


def note(found: Iterable[Distance | None]) -> list[str]:
    """The footnote of a column of distances, where there is one."""
    usual = usual_seeds(found)
    if not usual:
        return []
    return [
        "Distance: the largest d of the tasks ordered_pair_d, whose two symbols are d to 2d − 1 tokens apart, that "
        f"all seeds solve ({SOLVED:g} %): of {counted(usual, 'seed')}, where no other number is given. ≥: no larger d "
        "was run. Solving it proves the range; failing does not disprove it."
    ]
