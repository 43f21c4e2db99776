"""The leaderboard: rows that may be compared, in groups that may be ranked. A pure function of records.

- A *column* is a task at a length on one data set: one fingerprint and one task version. Its name is task@length; where
  several data sets of a task and length are there, the one with most results has that name and the others carry
  their fingerprint in it. So results on different data are never averaged nor ranked together.
- A *row* is a model with its options × protocol × overrides × accelerator. Within a row and column, seeds of another
  recipe (an older version of the protocol) are not averaged in: they are a row of their own, with a `variant`.
- A *group* is a protocol and whether its rows are apples to apples (`fairness`). Ranks, bold figures and averages
  are made within a group. Accuracies may be compared across accelerators; speed and memory never are.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import math
import statistics as middle
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lra.report import averages, fairness, selection
from lra.report.rows import Column, Group, Row, Score, column_key, has_score
from lra.report.rows import make_columns as columns_of
from lra.report.stats import difference, estimate
from lra.results import load, records


@dataclass
class Leaderboard:
    """Everything the tables, the page and the figures show."""

    groups: list[Group]
    columns: dict[str, Column]
    metric: str
    lines: list[str]
    """Conflicts that a reader should know of."""

    @property
    def rows(self) -> list[Row]:
        return [row for group in self.groups for row in group.rows]


@dataclass(frozen=True)
class _Seed:
    record: records.Record
    seed: int
    status: str
    score: float | None
    setting: str


def build(found: Sequence[records.Record], choice: selection.Selection = selection.ALL) -> Leaderboard:
    """The board of a choice of records, which hold each cell once (`tidy.gather`)."""
    found = [record for record in found if choice.takes(record)]
    places, lines = columns_of(found, choice.metric)
    columns = {column.name: column for column in places.values()}
    hashes: dict[int, str] = {}
    seeds_of: dict[tuple[str, ...], dict[str, list[_Seed]]] = defaultdict(lambda: defaultdict(list))
    for record in found:
        cell = record["cell"]
        base = (cell["model"], cell["protocol"], _overrides(record), cell["accelerator"])
        setting = hashes.get(id(record["recipe"])) or _short_hash(record["recipe"])
        hashes[id(record["recipe"])] = setting
        for result in load.seed_results(record):
            made = _Seed(record, result["seed"], result["status"], result.get(choice.metric), setting)
            seeds_of[base][places[column_key(record)].name].append(made)
    rows = []
    for row, cells in seeds_of.items():
        variants: dict[str, dict[str, Score]] = defaultdict(dict)
        for column, seeds in cells.items():
            for variant, part in _variants(seeds).items():
                once, doubled = _each_once(part)
                lines += [f"duplicate: {row[0]}, {column}, {told}" for told in doubled]
                variants[variant][column] = _score(once, columns[column].examples)
        rows += [_row(row, variant, scores) for variant, scores in variants.items()]
    return Leaderboard(groups(rows, list(columns), choice.sort), columns, choice.metric, sorted(lines))


def _overrides(record: records.Record) -> str:
    """The settings of a record in order of their names, the last of each name."""
    last = {setting.partition("=")[0]: setting for setting in record.get("overrides", [])}
    return " ".join(last[name] for name in sorted(last))


def _short_hash(recipe: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]


def _variants(seeds: list[_Seed]) -> dict[str, list[_Seed]]:
    """The seeds of a row and column by recipe: '' is the one with the latest score, others have their hash's name."""
    latest: dict[str, str] = {}
    for seed in seeds:
        if seed.status == "ok":
            latest[seed.setting] = max(latest.get(seed.setting, ""), str(seed.record.get("created")))
    main = max(latest, key=lambda setting: (latest[setting], setting), default=None)
    found: dict[str, list[_Seed]] = defaultdict(list)
    for seed in seeds:
        found["" if main in (None, seed.setting) else f"recipe {seed.setting}"].append(seed)
    return found


def _each_once(seeds: list[_Seed]) -> tuple[list[_Seed], list[str]]:
    """Each seed once, and a line for each that has two scores (alone and in a group trained together)."""
    kept: dict[int, _Seed] = {}
    lines = []
    for seed in sorted(seeds, key=lambda s: (s.status == "ok", str(s.record.get("created")), s.record["key"])):
        if seed.seed in kept and kept[seed.seed].status == "ok":
            lines.append(f"seed {seed.seed}: two records have a score, the later counts")
        kept[seed.seed] = seed
    return sorted(kept.values(), key=lambda s: s.seed), lines


def _score(seeds: list[_Seed], examples: int | None) -> Score:
    done, lost = [], Counter[str]()
    for s in seeds:
        if s.status == "ok" and s.score is not None and math.isfinite(s.score):
            done.append(s)
        else:
            lost["no score" if s.status == "ok" else s.status] += 1
    scores = {s.seed: float(s.score) for s in done if s.score is not None}
    records_done = {s.record["key"]: s.record for s in done}.values()
    rates = [rate for record in records_done if (rate := load.solo_speed(record))]
    return Score(
        estimate(list(scores.values()), examples) if scores else None,
        {seed: 100 * score for seed, score in scores.items()},
        dict(sorted(lost.items())),
        list({s.record["key"]: s.record for s in seeds}.values()),
        middle.median(rates) if rates else None,
    )


def _row(base: tuple[str, ...], variant: str, scores: dict[str, Score]) -> Row:
    """A row with its kind: that of its finished cells, or of all where none is finished."""
    every = [record for score in scores.values() for record in score.found]
    judged = [record for record in every if has_score(record)] or every
    recipes = {id(record["recipe"]): record for record in judged}.values()
    changes = sorted({reason for record in recipes for reason in fairness.changes(record)})
    reasons = (*changes, *sorted({reason for record in judged for reason in fairness.excess(record)}))
    model, protocol, overrides, accelerator = base
    kind = fairness.FREE if reasons else fairness.APPLES
    return Row(model, protocol, overrides, accelerator, variant, kind, reasons, not changes, scores)


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
