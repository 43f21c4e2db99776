"""What the page and leaderboard.md begin with: one protocol, one row a model, a column a task, without overrides.

Where more models have results of one sweep with one budget of trials than without any, those.

The protocol is the one with most models that have an average; `FIRST` comes before all others. Of a model that ran on
several accelerators, each score is that of one of them (`rows.combine`); speed and memory are all of one accelerator.
Rows with over 10 % more parameters than the protocol's Transformer are shown, but not ranked.
"""

from __future__ import annotations

import functools
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lra.report import averages, distance
from lra.report.distance import Distance
from lra.report.leaderboard import Leaderboard, find_leader
from lra.report.rows import Column, Row, Score, contest, one_a_model
from lra.report.stats import Estimate
from lra.results import load
from lra.results.records import Record

MEMORY_METHODS = {
    "device_peak_bytes": "the accelerator's peak memory",
    "compiled_bytes": "the compiled program's memory",
}
"""Ways to measure memory, in words; two are never compared."""
NO_SPEED = "No speed is known: no seed trained alone on its device, and bench has not measured this protocol."
FIRST = "mini"
"""The protocol that is shown first wherever it has a result."""


@dataclass
class Entry:
    """One model of the first table."""

    row: Row
    value: Estimate | None
    """The average, or the score in the only column."""
    rank: int | None = None
    speed: float | None = None
    """Training steps per second."""
    memory: float | None = None
    """Bytes."""
    distance: Distance | None = None
    """The largest distance that it solves."""
    best: set[str] = field(default_factory=set)
    """Columns, and '' for the average, in which it is ahead of every other entry by more than the errors explain."""


@dataclass(frozen=True)
class Measure:
    """Where the numbers of a column of speed or memory come from."""

    source: str
    """'bench' or 'training'; empty where there are none."""
    columns: tuple[str, ...]
    """The tasks over which they are taken."""


@dataclass
class Headline:
    """The first table, best first."""

    protocol: str
    columns: list[str]
    average: str
    """Name of the average; empty with a single column."""
    entries: list[Entry]
    speed: Measure
    memory: Measure
    method: str
    """How memory was measured: 'device_peak_bytes' or 'compiled_bytes'; empty where no method covers an entry."""
    notes: list[str]
    sweep: str = ""
    """What was tuned, in words, by the same number of trials for all; empty if nothing was."""
    trials: int = 0
    accelerator: str = ""
    """The one that speed and memory are of; empty where neither is known."""

    @property
    def contest(self) -> str:
        """The protocol, and the budget of trials, in words."""
        return contest(self.protocol, self.trials)

    @property
    def distance_seeds(self) -> int:
        """The number of seeds of most distances; 0 where no entry was asked for one."""
        return distance.usual_seeds(entry.distance for entry in self.entries)

    @property
    def value_name(self) -> str:
        """What the entries are ranked by."""
        return self.average or (self.columns[0] if self.columns else "")


def choose(board: Leaderboard, benchmarks: Sequence[Record]) -> Headline | None:
    """The first table of a leaderboard; None where no row has a protocol's own recipe and a result."""
    kinds: dict[tuple[str, int, str], list[Row]] = defaultdict(list)
    for row in board.rows:
        if row.ours_alone:
            kinds[row.protocol, row.trials, row.sweep].append(row)
    scored = {kind: rows for kind, rows in kinds.items() if any(row.results for row in rows)}
    tables = [_table(*kind, rows, board) for kind, rows in sorted(scored.items())]
    if not tables:
        return None
    found = max(tables, key=_preference)
    _measure(found, board.columns, benchmarks)
    return found


def _preference(table: Headline) -> tuple[bool, int, int, int, bool]:
    complete = sum(entry.value is not None for entry in table.entries)
    return table.protocol == FIRST, complete if table.average else 0, complete, len(table.entries), not table.trials


def _table(protocol: str, trials: int, sweep: str, rows: Sequence[Row], board: Leaderboard) -> Headline:
    kept = one_a_model(rows)
    scored = [name for name in board.columns if any(row.estimate(name) for row in kept)]
    columns, rare = _columns(kept, distance.averaged(scored))
    rules = averages.rules_for(columns)
    entries = [
        Entry(row, _value(row, columns, rules[:1]), distance=distance.of_row(row, board.columns)) for row in kept
    ]
    ranked = [entry for entry in entries if not entry.row.reasons] or entries
    for entry in ranked:
        if entry.value is not None:
            mean = entry.value.mean
            entry.rank = 1 + sum(other.value is not None and other.value.mean > mean for other in ranked)
    for name in ("", *columns):
        estimates = [(entry, entry.row.estimate(name) if name else entry.value) for entry in ranked]
        leader = find_leader([(entry, estimate) for entry, estimate in estimates if estimate is not None])
        if leader is not None and not _diverged(leader.row, [name] if name else columns):
            leader.best.add(name)
    entries.sort(key=lambda e: (e.value is None, -e.value.mean if e.value else 0.0, e.row.model))
    notes = _notes(kept, len(ranked), rare) + distance.note(entry.distance for entry in entries)
    none = Measure("", ())
    average = rules[0].name if rules else ""
    return Headline(protocol, columns, average, entries, none, none, "", notes, sweep, trials)


def _value(row: Row, columns: Sequence[str], rules: Sequence[averages.Rule]) -> Estimate | None:
    if not rules:
        return row.estimate(columns[0])
    estimates = {name: score.estimate for name, score in row.scores.items()}
    return rules[0].average(estimates, {name: score.failed for name, score in row.scores.items()})


def _diverged(row: Row, columns: Sequence[str]) -> bool:
    """Whether a mean of the row leaves out seeds that diverged."""
    return any("diverged" in row.scores[name].failures for name in columns if name in row.scores)


def _columns(rows: Sequence[Row], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The columns of the table, and those left to the tables below.

    A task that only a few models ran would cost all others their average.
    """
    counts = {name: sum(row.estimate(name) is not None for row in rows) for name in names}
    most = max(counts.values())
    return [n for n in names if 2 * counts[n] >= most], [n for n in names if 2 * counts[n] < most]


def _notes(rows: Sequence[Row], ranked: int, rare: Sequence[str]) -> list[str]:
    notes = []
    if rare:
        notes.append(f"Fewer than half of the models have a result on {', '.join(rare)}: see the tables below.")
    if ranked < len(rows):
        notes.append(
            "†: free for all, with over 10 % more parameters than the protocol's Transformer; neither ranked nor bold."
        )
    sources = Counter(_accelerator(score) for row in rows for score in row.scores.values() if score.values)
    if len(sources) > 1:
        told = ", ".join(f"{count} on {name}" for name, count in sources.most_common())
        notes.append(
            f"Scores are from several accelerators ({told}): of a model and a task, from the one on which most seeds "
            "ran, of equals the latest. Accuracies are averaged over seeds, never over accelerators."
        )
    return notes


def _accelerator(score: Score) -> str:
    return str(score.records[0]["cell"]["accelerator"])


def mark(entry: Entry, table: Headline) -> str:
    """A dagger behind the name of a model that is not ranked with the others."""
    return " †" if entry.row.reasons and not all(e.row.reasons for e in table.entries) else ""


def _measure(table: Headline, columns: dict[str, Column], benchmarks: Sequence[Record]) -> None:
    """Fills in speed (geometric mean over tasks) and memory (maximum over tasks), all of one accelerator.

    It is the one on which most entries have a speed, of equals the one on which most have a memory.
    """
    measured = _by_cell(table.protocol, benchmarks)
    trained = {_accelerator(score) for entry in table.entries for score in entry.row.scores.values()}
    found = [_collect_all(table, columns, measured, name) for name in sorted(trained | {key[1] for key in measured})]
    best = max(found, key=lambda one: (len(one.speeds), len(one.memories)))
    table.speed, table.memory = best.speed, best.memory
    table.method = best.method if best.memories else ""
    table.accelerator = best.accelerator if best.speeds or best.memories else ""
    for place, entry in enumerate(table.entries):
        if place in best.speeds:
            entry.speed = statistics.geometric_mean(best.speeds[place])
        if place in best.memories:
            entry.memory = max(best.memories[place])


_Measured = dict[tuple[str, str, str, int], list[Record]]
"""Records of `bench` by model, accelerator, task and length."""


def _by_cell(protocol: str, benchmarks: Sequence[Record]) -> _Measured:
    """The measurements of the protocol's own recipe, on one device without a limit of memory."""
    measured: _Measured = defaultdict(list)
    for record in benchmarks:
        cell, device = record["cell"], record.get("device")
        alone = not isinstance(device, dict) or device.get("used", 1) == 1
        plain = not (record.get("overrides") or record.get("max_batch") or record.get("memory_limit_bytes"))
        if cell["protocol"] == protocol and record["status"] == "ok" and plain and alone:
            measured[cell["model"], cell["accelerator"], cell["task"], cell["length"]].append(record)
    return measured


_Numbers = dict[int, list[float]]
"""One number a task, by an entry's place in the table."""


@dataclass(frozen=True)
class _Found:
    """Speeds and memory of the entries on one accelerator."""

    accelerator: str
    speed: Measure
    speeds: _Numbers
    memory: Measure
    memories: _Numbers
    method: str


def _collect_all(table: Headline, columns: dict[str, Column], measured: _Measured, accelerator: str) -> _Found:
    """Speeds, and memory by the method that covers most entries."""
    speed, speeds = _collect(table, columns, measured, accelerator, load.solo_speed)
    by_method = {}
    for method in MEMORY_METHODS:
        read = functools.partial(load.solo_memory, method=method)
        by_method[method] = _collect(table, columns, measured, accelerator, read)
    method = max(by_method, key=lambda name: len(by_method[name][1]))
    return _Found(accelerator, speed, speeds, *by_method[method], method)


def _collect(
    table: Headline,
    columns: dict[str, Column],
    measured: _Measured,
    accelerator: str,
    read: Callable[[Record], float | None],
) -> tuple[Measure, _Numbers]:
    """The numbers of `bench`, or of training where `bench` covers fewer than half as many entries; never of both."""

    def benched(row: Row, name: str) -> list[Record]:
        return measured.get((row.model, accelerator, columns[name].task, columns[name].length), [])

    def trained(row: Row, name: str) -> list[Record]:
        found = row.scores[name].records if name in row.scores else []
        return [record for record in found if record["cell"]["accelerator"] == accelerator]

    tasks, numbers = _numbers(table, benched, read)
    others, more = _numbers(table, trained, read)
    if 2 * len(numbers) < len(more):
        return Measure("training", others), more
    return Measure("bench" if numbers else "", tasks), numbers


def _numbers(
    table: Headline, records_of: Callable[[Row, str], list[Record]], read: Callable[[Record], float | None]
) -> tuple[tuple[str, ...], _Numbers]:
    """The tasks that most entries have a number of, and the numbers of each entry that has them all."""
    values: dict[str, dict[int, float]] = {name: {} for name in table.columns}
    for name in table.columns:
        for place, entry in enumerate(table.entries):
            if found := [number for record in records_of(entry.row, name) if (number := read(record))]:
                values[name][place] = statistics.median(found)
    most = max(map(len, values.values()))
    shared = tuple(name for name in table.columns if most and len(values[name]) == most)
    places = set.intersection(*(set(values[name]) for name in shared)) if shared else set()
    return shared, {place: [values[name][place] for name in shared] for place in sorted(places)}


def compared(table: Headline, measure: str) -> list[Entry]:
    """The entries that have a value and a measure: 'speed' or 'memory'."""
    return [entry for entry in table.entries if entry.value is not None and getattr(entry, measure)]
