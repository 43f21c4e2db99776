"""The leaderboard: rows that may be compared, in groups that may be ranked. A pure function of records.

- A *column* is a task at a length on one data set: one fingerprint and one task version. Its name is task@length; where
  several data sets of a task and length are there, the one with most results has that name and the others carry
  their fingerprint in it. So results on different data are never averaged nor ranked together.
- A *row* is a model with its options × protocol × overrides × accelerator. Within a row and column, seeds of another
  recipe (an older version of the protocol) are not averaged in: they are a row of their own, with a `variant`.
- A *group* is a protocol and whether its rows are apples to apples (`lra.fairness`). Ranks, bold figures and averages
  are made within a group. Accuracies may be compared across accelerators; speed and memory never are.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics as middle
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lra import fairness, records, tidy
from lra.columns import Column, finished, place
from lra.columns import columns as columns_of
from lra.ranking import groups
from lra.rows import Group, Row, Score
from lra.statistics import estimate


@dataclass
class Board:
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


def build(found: Sequence[records.Record], choice: tidy.Choice = tidy.EVERYTHING) -> Board:
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
        for result in tidy.seeds(record):
            made = _Seed(record, result["seed"], result["status"], result.get(choice.metric), setting)
            seeds_of[base][places[place(record)].name].append(made)
    rows = []
    for row, cells in seeds_of.items():
        variants: dict[str, dict[str, Score]] = defaultdict(dict)
        for column, seeds in cells.items():
            for variant, part in _variants(seeds).items():
                once, doubled = _each_once(part)
                lines += [f"duplicate: {row[0]}, {column}, {told}" for told in doubled]
                variants[variant][column] = _score(once, columns[column].examples)
        rows += [_row(row, variant, scores) for variant, scores in variants.items()]
    return Board(groups(rows, list(columns), choice.sort), columns, choice.metric, sorted(lines))


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
    rates = [rate for record in records_done if (rate := tidy.speed(record))]
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
    judged = [record for record in every if finished(record)] or every
    recipes = {id(record["recipe"]): record for record in judged}.values()
    changes = sorted({reason for record in recipes for reason in fairness.changes(record)})
    reasons = (*changes, *sorted({reason for record in judged for reason in fairness.excess(record)}))
    model, protocol, overrides, accelerator = base
    kind = fairness.FREE if reasons else fairness.APPLES
    return Row(model, protocol, overrides, accelerator, variant, kind, reasons, not changes, scores)
