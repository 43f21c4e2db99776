"""The tables of docs/ and results/README.md that follow from the records of results/mini.

    python -m tests.docs.tables

writes them anew into their pages; a test says when that has to be done. A table is known by the heading that it stands
under and by its own first line.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lra.report import calibration, distance, headline, leaderboard
from lra.report.correlation import Correlation
from lra.results import load
from lra.results.provenance import ROOT
from lra.results.records import Record

RESULTS = ROOT / "results" / "mini"
ARENA = {
    "listops_mini": "ListOps", "text_mini": "Text", "retrieval_mini": "Retrieval", "image_mini": "Image",
    "pathfinder_mini": "Pathfinder",
}  # fmt: skip
"""The arena's tasks, with their names in tables."""


class Table(NamedTuple):
    """A table of a page."""

    page: str
    heading: str
    header: tuple[str, ...]
    rows: list[list[str]]

    @property
    def lines(self) -> list[str]:
        """The table in Markdown, without padding; all columns but the first are numbers."""
        rule = ["---", *("---:" for _ in self.header[1:])]
        body = (f"| {' | '.join(row)} |".replace("|  |", "| |") for row in self.rows)
        return [_first_line(self), f"|{'|'.join(rule)}|", *body]


class Seen(NamedTuple):
    """A record's one seed that tells how far its model looks."""

    model: str
    test: float
    """%."""
    record: Record
    reach: dict[str, Any]

    def windows(self, *sizes: int) -> list[str]:
        """Accuracy in windows of these sizes, and of the whole input."""
        found = dict(zip(self.reach["k"], self.reach["windows"], strict=True)) if self.reach["windows"] else {}
        return [_percent(found.get(k)) for k in (*sizes, self.reach["k"][-1])]

    def coarse(self, measure: str, k: int) -> str:
        """A measure that is taken at few sizes, at k."""
        values = self.reach[measure]
        return _percent(values[self.reach["coarse_k"].index(k)] if values else None)

    def ranges(self) -> list[str]:
        """r50/r90 of the trained model, and of it before training."""
        return [_range(self.reach["jacobian"]), _range(self.reach["jacobian_initial"])]


def tables(results: Path = RESULTS) -> list[Table]:
    """All tables, of the records in a folder."""
    records, _ = load.load_records([results])
    board = leaderboard.build(records)
    seen = {task: list(_seen(records, task)) for task in (*ARENA, "ordered_pair_16")}
    return [
        _cost(records),
        _scores(board),
        _calibration(board),
        *(_reach(task, seen[task]) for task in ARENA),
        _ordered(seen["ordered_pair_16"]),
        _counts(records),
    ]


def rewritten(text: str, table: Table) -> str:
    """A page with this table in place of the one under the same heading with the same first line.

    Raises:
        ValueError: there is no such heading, or no such table under it.
    """
    lines = text.split("\n")
    marks = [place for place, line in enumerate(lines) if re.fullmatch(rf"#+ {re.escape(table.heading)}", line)]
    if not marks:
        raise ValueError(f"{table.page} has no heading '{table.heading}'")
    first = _first_line(table)
    start = next((place for place in range(marks[0] + 1, len(lines)) if lines[place] == first), None)
    if start is None or any(line.startswith("#") for line in lines[marks[0] + 1 : start]):
        raise ValueError(f"{table.page} has no table under '{table.heading}' that begins with {first}")
    end = next(
        place for place in range(start, len(lines) + 1) if place == len(lines) or not lines[place].startswith("|")
    )
    return "\n".join([*lines[:start], *table.lines, *lines[end:]])


def _first_line(table: Table) -> str:
    return f"| {' | '.join(table.header)} |"


def _cost(records: Sequence[Record]) -> Table:
    """Minutes on a CPU's core of the cells that ran in one go: the others' records tell of their last part only."""
    minutes: dict[str, list[float]] = {task: [] for task in ARENA}
    for record in records:
        cell = record["cell"]
        if cell["task"] in ARENA and record["device"]["platform"] == "cpu" and not record.get("resumed"):
            minutes[cell["task"]].append(record["wall_seconds"] / 60)

    def row(name: str, taken: list[float], hours: float) -> list[str]:
        return [name, str(len(taken)), f"{statistics.median(taken):.1f}", f"{max(taken):.0f}", f"{hours:.0f}"]

    models = len({record["cell"]["model"] for record in records})
    hours = {task: models * statistics.fmean(taken) / 60 for task, taken in minutes.items()}
    rows = [row(name, minutes[task], hours[task]) for task, name in ARENA.items()]
    rows.append(row("the five", [each for taken in minutes.values() for each in taken], sum(hours.values())))
    header = ("task", "cells", "half take at most", "the longest", f"all {models}, hours")
    return Table("docs/mini.md", "Cost", header, rows)


def _scores(board: leaderboard.Leaderboard) -> Table:
    table = headline.choose(board, ())
    assert table is not None, "no results"
    columns = {name.partition("@")[0]: name for name in table.columns}
    rows = []
    for entry in table.entries:
        assert entry.value is not None, f"{entry.row.model} has no average"
        scores = [entry.row.scores[columns[task]] for task in ARENA]
        cells = [f"{s.estimate.mean:.1f}{'°' if len(s.values) == 1 else ''}" for s in scores if s.estimate]
        rows.append([entry.row.model + headline.mark(entry, table), *cells, f"{entry.value.mean:.1f}"])
    return Table("docs/mini.md", "Results", ("model", *ARENA.values(), "average"), rows)


def _calibration(board: leaderboard.Leaderboard) -> Table:
    found = calibration.calibrate(board)
    rho = {each.task: each.rho for each in found.agreements if each.kind == calibration.KINDS[0]}
    published = {each.task: each.published for each in found.reruns}
    names = {calibration.AVERAGE: "average"} | dict(zip(calibration.COUNTED, ARENA.values(), strict=True))
    rows = [[name, *map(_correlation, (rho[t], found.without.get(t), published[t]))] for t, name in names.items()]
    count = found.reruns[0].count
    header = ("task", "Spearman's ρ", "average without it", f"publications with one another, {count} models")
    return Table("docs/mini.md", "Calibration", header, rows)


def _reach(task: str, seen: Sequence[Seen]) -> Table:
    shuffles = (("shuffled within 16", "within", 16), ("blocks of 16 shuffled", "blocks", 16))
    ends = (("first 64", "first", 64), ("last 64", "last", 64))
    sizes, parts = {
        "retrieval_mini": ((8, 16, 64), shuffles),
        "text_mini": ((8, 16, 64), shuffles),
        "image_mini": ((16, 64, 128), shuffles),
        "pathfinder_mini": ((16, 64, 128), shuffles),
        "listops_mini": ((4, 16, 32, 64), ends),
    }[task]
    shown = [one for one in seen if task != "pathfinder_mini" or one.test > 55]
    rows = [
        [one.model, f"{one.test:.1f}", *one.windows(*sizes), *(one.coarse(m, k) for _, m, k in parts), *one.ranges()]
        for one in sorted(shown, key=lambda one: (-one.test, one.model))
    ]
    windows = [f"windows of {sizes[0]}", *(f"of {k}" for k in sizes[1:]), "whole"]
    header = ("model", "test", *windows, *(name for name, _, _ in parts), "r50/r90", "before training")
    return Table("docs/reach.md", ARENA[task], header, rows)


def _ordered(seen: Sequence[Seen]) -> Table:
    found = [(distance.first_step(load.seed_results(one.record)[0]), one) for one in seen]
    found.sort(key=lambda pair: (pair[0], -round(pair[1].test, 1), pair[1].model))
    rows = []
    for step, one in found:
        solved = f"{step:.0f}" if step < math.inf else ""
        rows.append([one.model, f"{one.test:.1f}", solved, *one.windows(16, 32)[:-1], one.ranges()[0]])
    header = ("model", "test at 16", "90 % after steps", "windows of 16", "of 32", "r50/r90")
    return Table("docs/reach.md", "Ordered pairs", header, rows)


def _counts(records: Sequence[Record]) -> Table:
    """How many models each task has records of, by number of seeds, and how many tell how far they look."""
    by_task: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: str(record["cell"]["task"])):
        by_task.setdefault(record["cell"]["task"], []).append(record)
    total = [record for task in ARENA for record in by_task[task]]
    rows = [
        [ARENA.get(task, f"`{task}`"), *_models(by_task[task])] for task in (*ARENA, *sorted({*by_task} - {*ARENA}))
    ]
    rows.insert(len(ARENA), ["the five", *_models(total)])
    header = ("task", "models", "three seeds on the H200", "one seed on the CPU", "on both", "with reach")
    return Table("results/README.md", "The mini arena", header, rows)


def _models(records: Iterable[Record]) -> list[str]:
    """Numbers of pairs of a model and a task, as in the header of `_counts`."""
    gpu, cpu, seen = set(), set(), set()
    for record in records:
        pair = record["cell"]["task"], record["cell"]["model"]
        (gpu if len(record["cell"]["seeds"]) > 1 else cpu).add(pair)
        if record.get("reach"):
            seen.add(pair)
    return [str(len(pairs)) for pairs in (gpu | cpu, gpu, cpu, gpu & cpu, seen)]


def _seen(records: Sequence[Record], task: str) -> Iterable[Seen]:
    for record in records:
        if record["cell"]["task"] == task and record["status"] == "ok" and (found := load.reach(record)):
            test = 100 * statistics.fmean(result["test_best"] for result in load.seed_results(record))
            yield Seen(record["cell"]["model"], test, record, found[0])


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f}"


def _range(jacobian: dict[str, Any]) -> str:
    if not jacobian:
        return ""
    return "none" if jacobian.get("r50") is None else f"{jacobian['r50']}/{jacobian['r90']}"


def _correlation(found: Correlation | None) -> str:
    if found is None:
        return ""
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]".replace("-", "−")


def update(root: Path = ROOT) -> list[str]:
    """Writes the tables into their pages under `root`; returns the pages that changed."""
    changed = []
    for table in tables():
        path = root / table.page
        old = path.read_text(encoding="utf-8")
        if (new := rewritten(old, table)) != old:
            path.write_text(new, encoding="utf-8")
            changed.append(f"{table.page}: {table.heading}")
    return changed


if __name__ == "__main__":
    print("\n".join(update()) or "All tables are as the records are.")
