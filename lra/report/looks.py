"""How far models look, for people: ranges beside scores, and what windows keep of them (docs/reach.md)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lra.report.charts import Axis, Chart, Figure, Series, counted, split_by_family, to_file_name
from lra.report.leaderboard import Leaderboard
from lra.report.rows import Row, Score
from lra.report.styles import Styles
from lra.results import load

MIN_GAIN = 5.0
"""Points above the most frequent class below which a model has nothing to keep, as in `lra.train.reach`."""
SHARES = (0.01, 0.1)
"""Window sizes that are told for each task, as parts of its length."""
NOTE = (
    "Behind a score, how far the model looks, in tokens: half / nine tenths of what a state depends on, beside its own "
    "token, lies within that distance (docs/reach.md). Where the accelerator of the score has none, another's."
)
_LARGEST = 2**40
"""No window is nearly as large; greater numbers are a damaged record's."""


@dataclass(frozen=True)
class Look:
    """How far a model looks on a task: medians over the seeds that were measured."""

    windows: dict[int, float]
    """Accuracy (%) by window size in tokens, of the sizes that all seeds have; the last is the whole length."""
    majority: float
    """Accuracy (%) of always answering the most frequent class of the sample."""
    r50: float | None
    """Distance in tokens within which half of the Jacobian's mass beside d = 0 lies."""
    r90: float | None

    @property
    def kept(self) -> dict[int, float]:
        """The share (%) of the accuracy above the most frequent class that windows keep, by size; empty where the
        model has less than `MIN_GAIN` above it."""
        whole = self.windows[max(self.windows)] if self.windows else -math.inf
        gain = whole - self.majority
        if gain < MIN_GAIN:
            return {}
        return {size: 100 * (accuracy - self.majority) / gain for size, accuracy in self.windows.items()}

    @property
    def text(self) -> str:
        """'4/21': r50 and r90; empty where they are unknown."""
        return "" if self.r50 is None or self.r90 is None else f"{self.r50:g}/{self.r90:g}"


def of_score(score: Score | None) -> Look | None:
    """How far a row looks in a column; None where it was not measured.

    A combined row takes it from another accelerator where that of its score has none: accuracies are compared across
    accelerators.
    """
    if score is None:
        return None
    return next(filter(None, map(_of_accelerator, (score, *score.elsewhere))), None)


def _of_accelerator(score: Score) -> Look | None:
    seeds = [seed for record in score.records for seed in load.reach(record) if seed["seed"] in score.values]
    measured = [(_windows(seed), seed) for seed in seeds]
    measured = [(windows, seed) for windows, seed in measured if windows and _is_within(seed.get("majority"), 1)]
    if not measured:
        return None
    sizes = sorted(set.intersection(*(set(windows) for windows, _ in measured)))
    majority = 100 * statistics.median(seed["majority"] for _, seed in measured)
    by_size = {size: 100 * statistics.median(windows[size] for windows, _ in measured) for size in sizes}
    r50, r90 = (_median(seed["jacobian"].get(name) for _, seed in measured) for name in ("r50", "r90"))
    return Look(by_size, majority, r50, r90)


def _windows(seed: dict[str, Any]) -> dict[int, float]:
    sizes, accuracies = seed.get("k"), seed.get("windows")
    if not isinstance(sizes, list) or not isinstance(accuracies, list):
        return {}
    pairs = zip(sizes, accuracies, strict=False)
    return {k: float(value) for k, value in pairs if isinstance(k, int) and 0 < k < _LARGEST and _is_within(value, 1)}


def _is_within(value: Any, most: float) -> bool:
    """Whether a value is a number from 0 to `most`."""
    return isinstance(value, int | float) and 0 <= value <= most


def _median(values: Iterable[Any]) -> float | None:
    numbers = [value for value in values if _is_within(value, _LARGEST)]
    return float(statistics.median(numbers)) if numbers else None


def figures(board: Leaderboard, styles: Styles) -> list[Figure]:
    """Accuracy in windows over their size: a figure for each protocol and budget, with charts for each task."""
    made = []
    for protocol in sorted({row.contest for row in board.rows}):
        rows = [row for row in board.rows if row.contest == protocol]
        charts: list[Chart] = []
        notes = ["Accuracy of the trained model when its layers see windows alone, on a sample of the test split."]
        for name, column in board.columns.items():
            looks = [(row, look) for row in rows if (look := of_score(row.scores.get(name))) is not None]
            lines = [_line(row, look, styles) for row, look in looks if len(look.windows) > 1]
            charts += _charts(name, lines)
            notes += _told(name, column.length, [look for _, look in looks])
        if charts:
            heading = f"How far models look: protocol {protocol}"
            made.append(Figure(to_file_name(["windows", protocol]), heading, tuple(charts), tuple(notes)))
    return made


def _line(row: Row, look: Look, styles: Styles) -> Series:
    x, y = zip(*sorted(look.windows.items()), strict=True)
    half = next((size for size, share in sorted(look.kept.items()) if share >= 50), None)
    told = tuple(filter(None, [
        "" if half is None else f"half of what is above the most frequent class is kept by windows of {half} tokens",
        f"r50/r90 of the Jacobian {look.text} tokens" if look.text else "",
        row.overrides, row.variant, row.accelerator,
    ]))  # fmt: skip
    return Series(row.model, styles[row.model], tuple(map(float, x)), y, row.model, told, markers=len(x))


def _charts(name: str, lines: Sequence[Series]) -> list[Chart]:
    if not lines:
        return []
    sizes = sorted({size for line in lines for size in line.x})
    accuracies = [accuracy for line in lines for accuracy in line.y]
    x = Axis("window (tokens)", log=True, ticks=tuple(sizes), span=(sizes[0], sizes[-1]))
    return split_by_family(name, x, Axis("accuracy (%)", span=(min(accuracies), max(accuracies))), lines)


def _told(name: str, length: int, looks: Sequence[Look]) -> list[str]:
    """What windows of a hundredth and of a tenth of the length keep: medians over models."""
    kept = [look.kept for look in looks if look.kept]
    parts = []
    for share in SHARES:
        size = max((k for shares in kept for k in shares if k <= max(1.0, share * length)), default=0)
        if values := [shares[size] for shares in kept if size in shares]:
            tokens = counted(size, "token")
            parts.append(f"of {100 * share:g} % of the length ({tokens}) keep {statistics.median(values):.0f} %")
    if not parts:
        return []
    models = counted(len(kept), "model")
    return [
        f"{name}: windows {', '.join(parts)} of what is above the most frequent class, in the median over {models}."
    ]
