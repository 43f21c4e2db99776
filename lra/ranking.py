"""Within a group: averages, ranks, who is best by more than the errors explain, and the order of rows."""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Sequence

from lra import averages
from lra.rows import Group, Row
from lra.statistics import difference


def groups(rows: list[Row], columns: list[str], sort: str) -> list[Group]:
    """The rows by protocol and kind, ranked within each; `sort` is a `tidy.Choice`'s."""
    by_group: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_group[row.protocol, row.kind].append(row)
    found = []
    for (protocol, kind), members in sorted(by_group.items()):
        present = [name for name in columns if any(name in row.scores for row in members)]
        # Columns in which nothing has finished stay out of averages: a failed cell changes no other row.
        scored = [name for name in present if any(row.estimate(name) for row in members)]
        rules = averages.rules(scored)
        for row in members:
            statuses = {name: score.failed for name, score in row.scores.items()}
            estimates = {name: score.estimate for name, score in row.scores.items()}
            for rule in rules:
                made = rule.of(estimates, statuses)
                if made is not None:
                    row.averages[rule.name] = made
        names = [rule.name for rule in rules]
        for name in [*present, *names]:
            _mark_best(name, members)
        chief = [*names, *scored, *present][0]
        _rank(chief, members)
        found.append(Group(protocol, kind, present, names, _sorted(members, chief, present, sort)))
    return found


def _mark_best(name: str, members: list[Row]) -> None:
    """Marks the one row whose lead over every other holds; a mean that leaves diverged seeds out cannot lead."""
    entries = [(made.mean, row, made) for row in members if (made := row.estimate(name)) is not None]
    if len(entries) < 2:
        return
    _, leader, ours = max(entries, key=lambda entry: entry[0])
    if not all(row is leader or difference(ours, theirs).holds for _, row, theirs in entries):
        return
    if name in leader.averages:
        if not any("diverged" in score.lost for score in leader.scores.values()):
            leader.best.add(name)
    elif "diverged" not in leader.scores[name].lost:
        leader.scores[name].best = True


def _rank(name: str, members: list[Row]) -> None:
    means = {id(row): made.mean for row in members if (made := row.estimate(name)) is not None}
    ordered = sorted(means.values())
    for row in members:
        if id(row) in means:
            row.rank = 1 + len(ordered) - bisect.bisect_right(ordered, means[id(row)])


def _sorted(members: list[Row], chief: str, columns: Sequence[str], sort: str) -> list[Row]:
    """Best first; rows without the figure last, by the column that most rows have; ties in order of their names."""
    common = max(columns, key=lambda name: sum(row.estimate(name) is not None for row in members), default=chief)

    def score(row: Row) -> float:
        made = row.estimate(common)
        return -math.inf if made is None else made.mean

    def identity(row: Row) -> tuple[str, ...]:
        return row.model, row.overrides, row.accelerator, row.variant

    def figure(row: Row) -> float:
        if sort == "parameters":
            return -(row.parameters or math.inf)
        chosen = {"average": chief}.get(sort, sort)
        names = [chosen] if chosen == chief else [c for c in columns if c == chosen or c.partition("@")[0] == chosen]
        made = [e.mean for name in names if (e := row.estimate(name)) is not None]
        return max(made, default=-math.inf)

    if sort == "model":
        return sorted(members, key=identity)
    return sorted(members, key=lambda row: (-figure(row), row.rank or math.inf, -score(row), identity(row)))
