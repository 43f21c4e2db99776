"""The leaderboard: rows that may be compared, in groups that may be ranked. A pure function of records.

- A *column* is a task at a length on one data set: one fingerprint and one task version, scored on all examples or on
  one sample of them. Its name is task@length; where a task and length were run on several data sets, the one with most
  results has that name and the names of the rest include their fingerprint, or the sample's size. So results on
  different data are never averaged or ranked together.
- A *row* is a model with its options × protocol × overrides × budget of trials × accelerator. Within a row and column,
  seeds of another recipe (an older version of the protocol) or another version of the code are not averaged in: they
  form a separate row, with a `variant`.
- A *group* is a protocol and a kind of rows: apples to apples, tuned by so many trials, … (`fairness`). Ranks, bold
  figures and averages are computed within a group. Accuracies may be compared across accelerators; speed and memory
  never are.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from configs.recipe import identity
from lra.report import averages, distance, fairness, mixer_code, selection, tuned
from lra.report.rows import Column, Group, Row, Score, column_key, has_score, make_columns
from lra.report.shared_parts import once_per_object
from lra.report.stats import Estimate, difference, estimate
from lra.results import load
from lra.results.records import Record


class _Base(NamedTuple):
    """What tells rows apart, besides variants."""

    model: str
    protocol: str
    overrides: str
    accelerator: str
    trials: int


class _Variant(NamedTuple):
    """What may differ between the seeds of a row."""

    recipe: str
    """Hash of the recipe."""
    versions: str
    """Versions of the code, in words; empty if all are 1."""


@dataclass
class Leaderboard:
    """Everything that the tables, the page and the figures show."""

    groups: list[Group]
    columns: dict[str, Column]
    metric: str
    conflicts: list[str]
    """One line for each task run on several data sets, each seed with several scores and each row by several codes."""

    @property
    def rows(self) -> list[Row]:
        return [row for group in self.groups for row in group.rows]


@dataclass(frozen=True)
class _Seed:
    record: Record
    seed: int
    status: str
    score: float | None
    variant: _Variant


def build(records: Sequence[Record], choice: selection.Selection = selection.ALL) -> Leaderboard:
    """Builds the leaderboard of the chosen records, which hold each cell once (`lra.results.load.load_records`)."""
    records = [record for record in records if choice.includes(record)]
    split = choice.metric.partition("_")[0]
    by_key, conflicts = make_columns(records, split)
    columns = {column.name: column for column in by_key.values()}
    hash_of = once_per_object(lambda recipe: _short_hash(identity(recipe)))
    seeds_of: dict[_Base, dict[str, list[_Seed]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        cell = record["cell"]
        base = _Base(cell["model"], cell["protocol"], _overrides(record), cell["accelerator"], tuned.budget(record))
        variant = _Variant(hash_of(record["recipe"]), _versions_text(record))
        column = by_key[column_key(record, split)].name
        for result in load.seed_results(record):
            seed = _Seed(record, result["seed"], result["status"], result.get(choice.metric), variant)
            seeds_of[base][column].append(seed)
    rows = []
    for base, cells in seeds_of.items():
        variants: dict[str, dict[str, Score]] = defaultdict(dict)
        for column, seeds in cells.items():
            for name, members in _variants(seeds).items():
                unique, duplicates = _deduplicate(members)
                conflicts += [f"duplicate: {base.model}, {column}, {duplicate}" for duplicate in duplicates]
                if different := mixer_code.differences((s.seed, s.record) for s in unique if s.status == "ok"):
                    conflicts.append(f"code: {base.model}, {column}: {different}")
                variants[name][column] = _score(unique, columns[column].examples)
        rows += [_row(base, name, scores) for name, scores in variants.items()]
    return Leaderboard(group_rows(rows, list(columns), choice.sort), columns, choice.metric, sorted(conflicts))


def _overrides(record: Record) -> str:
    """The overrides of a record in order of their names, and what was tuned; of several with one name, the last."""
    last = {setting.partition("=")[0]: setting for setting in record.get("overrides", [])}
    return " ".join(filter(None, [*(last[name] for name in sorted(last)), tuned.sweep_text(record)]))


def _short_hash(recipe: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]


def _versions_text(record: Record) -> str:
    return ", ".join(f"{part} version {number}" for part, number in sorted(mixer_code.versions(record).items()))


def _variants(seeds: list[_Seed]) -> dict[str, list[_Seed]]:
    """The seeds of a row and column by recipe and code: '' for those with the latest score, else how they differ."""
    latest: dict[_Variant, str] = {}
    for seed in seeds:
        if seed.status == "ok":
            latest[seed.variant] = max(latest.get(seed.variant, ""), str(seed.record.get("created")))
    main = max(latest, key=lambda variant: (latest[variant], variant), default=None)
    variants: dict[str, list[_Seed]] = defaultdict(list)
    for seed in seeds:
        variants["" if main is None else _difference(seed.variant, main)].append(seed)
    return variants


def _difference(variant: _Variant, main: _Variant) -> str:
    parts = [f"recipe {variant.recipe}"] if variant.recipe != main.recipe else []
    parts += [variant.versions or "version 1"] if variant.versions != main.versions else []
    return ", ".join(parts)


def _deduplicate(seeds: list[_Seed]) -> tuple[list[_Seed], list[str]]:
    """Each seed once, and one line for each with two scores: trained alone and together, or by different code."""
    kept: dict[int, _Seed] = {}
    duplicates = []
    for seed in sorted(seeds, key=lambda s: (s.status == "ok", str(s.record.get("created")), s.record["key"])):
        if seed.seed in kept and kept[seed.seed].status == "ok":
            different = mixer_code.differences([(0, seed.record), (1, kept[seed.seed].record)])
            scored = "have a score by different code of the mixer" if different else "have a score"
            duplicates.append(f"seed {seed.seed}: two records {scored}, the later counts")
        kept[seed.seed] = seed
    return sorted(kept.values(), key=lambda s: s.seed), duplicates


def _score(seeds: list[_Seed], examples: int | None) -> Score:
    finished, failures = [], Counter[str]()
    for seed in seeds:
        if seed.status == "ok" and seed.score is not None and math.isfinite(seed.score):
            finished.append(seed)
        else:
            failures["no score" if seed.status == "ok" else seed.status] += 1
    scores = {s.seed: float(s.score) for s in finished if s.score is not None}
    finished_records = {s.record["key"]: s.record for s in finished}.values()
    rates = [rate for record in finished_records if (rate := load.solo_speed(record))]
    return Score(
        estimate(list(scores.values()), examples) if scores else None,
        {seed: 100 * score for seed, score in scores.items()},
        dict(sorted(failures.items())),
        list({s.record["key"]: s.record for s in seeds}.values()),
        statistics.median(rates) if rates else None,
    )


def _row(base: _Base, variant: str, scores: dict[str, Score]) -> Row:
    """A row with its kind, judged by its finished cells, or by all cells where none is finished."""
    records = [record for score in scores.values() for record in score.records]
    judged = [record for record in records if has_score(record)] or records
    # One record for each recipe object (`shared_parts`).
    recipes = {id(record["recipe"]): record for record in judged}.values()
    changes = sorted({reason for record in recipes for reason in fairness.recipe_changes(record)})
    excess = sorted({reason for record in judged for reason in fairness.excess_parameters(record)})
    remarks = dict.fromkeys(remark for record in judged for remark in fairness.protocol_reasons(record))
    reasons = (*changes, *excess, *remarks)
    kind = fairness.kind_of(judged[0], reasons)
    return Row(
        base.model, base.protocol, base.overrides, base.accelerator, variant, kind, reasons,
        unchanged=not changes and kind != fairness.EXTERNAL, scores=scores, trials=base.trials,
        sweep=tuned.sweep_text(judged[0]),
    )  # fmt: skip


def group_rows(rows: list[Row], columns: list[str], sort: str) -> list[Group]:
    """Groups the rows by protocol and kind and ranks them within each group; `sort` as in `selection.Selection`."""
    by_group: dict[tuple[str, int, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_group[row.protocol, row.trials, row.kind].append(row)
    groups = []
    # What was trained elsewhere comes last.
    for (protocol, _, kind), members in sorted(by_group.items(), key=lambda g: (g[0][2] == fairness.EXTERNAL, g[0])):
        present = [name for name in columns if any(name in row.scores for row in members)]
        # Columns in which no cell has finished stay out of averages: a failed cell changes no other row.
        scored = [name for name in present if any(row.estimate(name) for row in members)]
        # Nor do tasks that measure range count in any.
        rules = averages.rules_for(distance.averaged(scored))
        for row in members:
            failed = {name: score.failed for name, score in row.scores.items()}
            estimates = {name: score.estimate for name, score in row.scores.items()}
            for rule in rules:
                average = rule.average(estimates, failed)
                if average is not None:
                    row.averages[rule.name] = average
        names = [rule.name for rule in rules]
        ranked_by = [*names, *scored, *present][0]
        if kind != fairness.EXTERNAL:
            for name in [*present, *names]:
                _mark_best(name, members)
            _rank(ranked_by, members)
        groups.append(Group(protocol, kind, present, names, _sort_rows(members, ranked_by, present, sort)))
    return groups


_T = TypeVar("_T")


def find_leader(entries: Sequence[tuple[_T, Estimate]]) -> _T | None:
    """Whose estimate is ahead of every other by more than the errors explain; None of fewer than two."""
    if len(entries) < 2:
        return None
    leader, ours = max(entries, key=lambda entry: entry[1].mean)
    ahead = all(other is leader or difference(ours, theirs).significant for other, theirs in entries)
    return leader if ahead else None


def _mark_best(name: str, members: list[Row]) -> None:
    """Marks the row whose lead over every other is significant; a mean that leaves out diverged seeds cannot lead."""
    leader = find_leader([(row, estimate) for row in members if (estimate := row.estimate(name)) is not None])
    if leader is None:
        return
    if name in leader.averages:
        if not any("diverged" in score.failures for score in leader.scores.values()):
            leader.best.add(name)
    elif "diverged" not in leader.scores[name].failures:
        leader.scores[name].best = True


def _rank(name: str, members: list[Row]) -> None:
    ordered = sorted(estimate.mean for row in members if (estimate := row.estimate(name)) is not None)
    for row in members:
        estimate = row.estimate(name)
        if estimate is not None:
            row.rank = 1 + len(ordered) - bisect.bisect_right(ordered, estimate.mean)


def _sort_rows(members: list[Row], ranked_by: str, columns: Sequence[str], sort: str) -> list[Row]:
    """Best first; rows without a value in `ranked_by` last, by the column that most rows have; ties by name."""
    common = max(columns, key=lambda name: sum(row.estimate(name) is not None for row in members), default=ranked_by)

    def score(row: Row) -> float:
        estimate = row.estimate(common)
        return -math.inf if estimate is None else estimate.mean

    def identity(row: Row) -> tuple[str, ...]:
        return row.model, row.overrides, row.accelerator, row.variant

    def figure(row: Row) -> float:
        if sort == "parameters":
            return -(row.parameters or math.inf)
        chosen = {"average": ranked_by}.get(sort, sort)
        names = (
            [chosen] if chosen == ranked_by else [c for c in columns if c == chosen or c.partition("@")[0] == chosen]
        )
        means = [e.mean for name in names if (e := row.estimate(name)) is not None]
        return max(means, default=-math.inf)

    if sort == "model":
        return sorted(members, key=identity)
    return sorted(members, key=lambda row: (-figure(row), row.rank or math.inf, -score(row), identity(row)))
