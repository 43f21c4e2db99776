"""Calibration: whether a protocol's scores rank the models as published scores do.

Ours: of each model the row with the protocol's own recipe and code and without overrides, as in the first table: of
several accelerators, each score is that of one (`rows.combine`). Each column counts as the benchmark's task that its
own task is or stands for (`Task.stands_for`); of several columns for one task, the one in which most models have a
score.

Published: the rows of published.csv with a `mixer`. That column names the mixer of ours that the published model is:

- with the mixer's default options, but for sizes (heads, features, packed rows, windows) and starting values. What lies
  around the mixer may differ, and so may the recipe, and whether it is read in one direction or both;
- without what changes the model itself: rotary positions, a stem before the first layer, another feature map or kernel,
  a regulariser or a frequency scheme that its paper proposes;
- trained from scratch on the benchmark's task alone: none that was pretrained.

A model's published score of a task is the *median* over these rows. This rule was fixed before there were scores of
ours. The *highest* score, and the *first* publication (rows whose column `first` says so: the model's own paper, or the
benchmark's for the models that it has; of several such rows their median), show how much depends on it.

How far published scores agree with one another says how much agreement with them can mean: of the models that others
have run again, the first publication against the median of the *later* ones, and ours against both.

The average is the mean of the five tasks without Path-X. A model that lacks one of them, here or in all publications,
is left out of it and named.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lra.errors import UsageError
from lra.report import published
from lra.report.correlation import Correlation, correlate
from lra.report.leaderboard import Leaderboard
from lra.report.rows import Row, one_a_model
from models import FAMILIES
from tasks import PAPER, TASKS

COUNTED = PAPER[:5]
"""The benchmark's tasks that count: without Path-X, which most models fail."""
AVERAGE = "average"
KINDS = ("median", "highest", "first")
"""Published scores of a model on a task; the median is the one that counts."""
LATER = "later"
"""The median of those that are not the first publication, where there is one."""
MIN_MODELS = 4
"""Fewer models have no correlation worth a number."""


@dataclass(frozen=True)
class PublishedScore:
    """The published scores of a model on a task, %."""

    values: dict[str, float]
    """By `KINDS` and `LATER`; without what the model doesn't have."""
    sources: tuple[str, ...]
    """One for each row."""


@dataclass(frozen=True)
class Point:
    """A model on a task or on the average: our score and the published ones, %."""

    model: str
    family: str
    task: str
    """One of `COUNTED`, or `AVERAGE`."""
    ours: float
    seeds: int
    """Of the average: the fewest of its tasks."""
    published: PublishedScore
    """Of the average: the means of those of its tasks, without sources."""


@dataclass(frozen=True)
class Agreement:
    """How far our scores of a task and the published ones rank the models alike."""

    task: str
    kind: str
    """Which published score: one of `KINDS`."""
    count: int
    """Number of models that have both."""
    rho: Correlation | None
    """Spearman's; None for fewer than `MIN_MODELS` models."""
    tau: Correlation | None
    """Kendall's tau-b."""


@dataclass(frozen=True)
class Reruns:
    """Spearman's rho over the models that have a first publication and later ones; None for fewer than `MIN_MODELS`."""

    task: str
    count: int
    """Number of models."""
    published: Correlation | None
    """First publication against later ones."""
    ours_first: Correlation | None
    """Ours against the first publication."""
    ours_later: Correlation | None


@dataclass(frozen=True)
class Calibration:
    """All that the table, the CSV and the figure show."""

    metric: str
    """Which accuracy of ours: a key of `selection.METRICS`."""
    columns: dict[str, str]
    """The leaderboard's column for each task of `COUNTED`, where there is one."""
    points: list[Point]
    agreements: list[Agreement]
    without: dict[str, Correlation | None]
    """Spearman's rho of the means over the four other tasks, here and of published medians; None for too few models."""
    reruns: list[Reruns]
    left_out: dict[str, str]
    """Models that have no average, and why."""

    def of(self, task: str) -> list[Point]:
        """The points of a task or of the average."""
        return [point for point in self.points if point.task == task]


def calibrate(board: Leaderboard) -> Calibration:
    """Compares the leaderboard of one protocol with published scores.

    Raises:
        UsageError: on no task do `MIN_MODELS` models have both scores.
    """
    rows = _rows(board)
    columns = _columns(board, rows)
    theirs = published_scores()
    points = [point for model in sorted(rows) for point in _points(rows[model], columns, theirs.get(model, {}))]
    agreements = [_agreement(points, task, kind) for kind in KINDS for task in (AVERAGE, *COUNTED)]
    most = max(agreement.count for agreement in agreements)
    if most < MIN_MODELS:
        raise UsageError(
            f"{most} model{' has' if most == 1 else 's have'} a score here and a published one on the same task, and a "
            f"correlation needs {MIN_MODELS}: run more models"
        )
    averaged = [point.model for point in points if point.task == AVERAGE]
    names = sorted({*theirs, *(row.model for row in board.rows)} - {*averaged})
    left_out = {name: _why_not(rows.get(name), columns, theirs.get(name, {})) for name in names}
    without = {task: _without(points, task, averaged) for task in COUNTED}
    reruns = [_reruns(points, task) for task in (AVERAGE, *COUNTED)]
    return Calibration(board.metric, columns, points, agreements, without, reruns, left_out)


@functools.cache
def published_scores() -> dict[str, dict[str, PublishedScore]]:
    """Published scores by mixer and task of `COUNTED`."""
    found: dict[tuple[str, str], list[tuple[float, Mapping[str, str]]]] = defaultdict(list)
    for row in published.load_table():
        for task in COUNTED:
            value = published.parse_number(row[task])
            if row["mixer"] and value is not None:
                found[row["mixer"], task].append((value, row))
    scores: dict[str, dict[str, PublishedScore]] = defaultdict(dict)
    for (mixer, task), entries in found.items():
        values = [value for value, _ in entries]
        kinds = {"median": statistics.median(values), "highest": max(values)}
        if first := [value for value, row in entries if row["first"]]:
            kinds["first"] = statistics.median(first)
            if later := [value for value, row in entries if not row["first"]]:
                kinds[LATER] = statistics.median(later)
        sources = tuple(f"{row['model']}, {row['paper']}: {value:g}" for value, row in entries)
        scores[mixer][task] = PublishedScore(kinds, sources)
    return dict(scores)


def _rows(board: Leaderboard) -> dict[str, Row]:
    """The row of each model that counts."""
    return {row.model: row for row in one_a_model(row for row in board.rows if row.plain)}


def _columns(board: Leaderboard, rows: Mapping[str, Row]) -> dict[str, str]:
    """The name of the column that counts for each task of `COUNTED`."""
    scored = Counter(name for row in rows.values() for name in row.scores if row.estimate(name))
    kept: dict[str, str] = {}
    for name in sorted(scored, key=lambda name: (-scored[name], name)):
        kept.setdefault(_counterpart(board.columns[name].task), name)
    return {task: kept[task] for task in COUNTED if task in kept}


def _counterpart(task: str) -> str:
    """The benchmark's task that a task is or stands for; '' for none."""
    if task in PAPER:
        return task
    return TASKS[task].stands_for if task in TASKS else ""


def _points(row: Row, columns: Mapping[str, str], theirs: Mapping[str, PublishedScore]) -> list[Point]:
    """A model's points: one for each task with both scores, and the average if all have them."""
    points = []
    for task in COUNTED:
        estimate = row.estimate(columns.get(task, ""))
        if estimate is not None and task in theirs:
            points.append(Point(row.model, _family(row.model), task, estimate.mean, estimate.count, theirs[task]))
    if len(points) == len(COUNTED):
        everywhere = [kind for kind in (*KINDS, LATER) if all(kind in point.published.values for point in points)]
        means = {kind: _mean(point.published.values[kind] for point in points) for kind in everywhere}
        seeds = min(point.seeds for point in points)
        ours = _mean(point.ours for point in points)
        points.append(Point(row.model, _family(row.model), AVERAGE, ours, seeds, PublishedScore(means, ())))
    return points


def _mean(values: Iterable[float]) -> float:
    return math.fsum(values) / len(COUNTED)


def _family(mixer: str) -> str:
    return next(family for family, (_, mixers) in FAMILIES.items() if mixer in mixers)


def _agreement(points: Iterable[Point], task: str, kind: str) -> Agreement:
    found = [p for p in points if p.task == task and kind in p.published.values]
    if len(found) < MIN_MODELS:
        return Agreement(task, kind, len(found), None, None)
    ours, theirs = np.array([(p.ours, p.published.values[kind]) for p in found]).T
    return Agreement(task, kind, len(found), *correlate(ours, theirs))


def _without(points: Iterable[Point], task: str, averaged: Sequence[str]) -> Correlation | None:
    if len(averaged) < MIN_MODELS:
        return None
    sums = {model: np.zeros(2) for model in averaged}
    for point in points:
        if point.model in sums and point.task not in (AVERAGE, task):
            sums[point.model] += point.ours, point.published.values[KINDS[0]]
    rho, _ = correlate(*np.array(list(sums.values())).T)
    return rho


def _reruns(points: Iterable[Point], task: str) -> Reruns:
    found = [p for p in points if p.task == task and {"first", LATER} <= p.published.values.keys()]
    if len(found) < MIN_MODELS:
        return Reruns(task, len(found), None, None, None)
    ours, first, later = np.array([(p.ours, p.published.values["first"], p.published.values[LATER]) for p in found]).T
    (published_rho, _), (first_rho, _), (later_rho, _) = (
        correlate(first, later),
        correlate(ours, first),
        correlate(ours, later),
    )
    return Reruns(task, len(found), published_rho, first_rho, later_rho)


def _why_not(row: Row | None, columns: Mapping[str, str], theirs: Mapping[str, PublishedScore]) -> str:
    """Why a model has no average."""
    if not theirs:
        return "no published score"
    if row is None:
        return "no result with the protocol's own recipe"
    reasons = []
    if unpublished := [task for task in COUNTED if task not in theirs]:
        reasons.append(f"no published score on {', '.join(unpublished)}")
    missing = []
    for task in COUNTED:
        score = row.scores.get(columns.get(task, ""))
        if score is None:
            missing.append(f"{task} (missing)")
        elif score.estimate is None:
            missing.append(f"{task} ({', '.join(score.failures)})")
    if missing:
        reasons.append(f"no score of ours on {', '.join(missing)}")
    return "; ".join(reasons)
