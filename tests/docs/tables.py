"""The tables of docs/ and results/README.md that follow from the records of results/mini and results/reach.

    python -m tests.docs.tables

writes them anew into their pages; a test says when that has to be done. A table is known by the heading that it stands
under and by its own first line.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from lra.report import calibration, headline, leaderboard
from lra.report.correlation import Correlation
from lra.results import load
from lra.results.provenance import ROOT
from lra.results.records import Record
from tests.docs import reach_tables
from tests.docs.table import Table, rewritten

RESULTS = ROOT / "results" / "mini"
WINDOWED = ROOT / "results" / "reach"
"""Cells of the arena that were trained on windows."""
ARENA = {
    "listops_mini": "ListOps", "text_mini": "Text", "retrieval_mini": "Retrieval", "image_mini": "Image",
    "pathfinder_mini": "Pathfinder",
}  # fmt: skip
"""The arena's tasks, with their names in tables."""


def tables() -> list[Table]:
    """All tables."""
    records, _ = load.load_records([RESULTS])
    windowed, _ = load.load_records([WINDOWED])
    board = leaderboard.build(records)
    first = headline.choose(board, ())
    assert first is not None, "no results"
    seen = {task: list(reach_tables.seen(records, task)) for task in (*ARENA, "ordered_pair_16")}
    return [
        _cost(records),
        _scores(first),
        _calibration(board),
        *(reach_tables.frozen(task, name, seen[task]) for task, name in ARENA.items()),
        reach_tables.ordered(records, seen["ordered_pair_16"], first),
        reach_tables.trained(windowed, seen, ARENA),
        _counts(records),
    ]


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


def _scores(table: headline.Headline) -> Table:
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


def _counts(records: Sequence[Record]) -> Table:
    """How many models each task has records of, by device, and how many tell how far they look."""
    by_task: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: str(record["cell"]["task"])):
        by_task.setdefault(record["cell"]["task"], []).append(record)
    total = [record for task in ARENA for record in by_task[task]]
    rows = [
        [ARENA.get(task, f"`{task}`"), *_models(by_task[task])] for task in (*ARENA, *sorted({*by_task} - {*ARENA}))
    ]
    rows.insert(len(ARENA), ["the five", *_models(total)])
    header = ("task", "models", "on the CPU", "on the H200", "with reach")
    return Table("results/README.md", "The mini arena", header, rows)


def _models(records: Iterable[Record]) -> list[str]:
    """Numbers of pairs of a model and a task, as in the header of `_counts`."""
    gpu, cpu, seen = set(), set(), set()
    for record in records:
        pair = record["cell"]["task"], record["cell"]["model"]
        (cpu if record["device"]["platform"] == "cpu" else gpu).add(pair)
        if record.get("reach"):
            seen.add(pair)
    return [str(len(pairs)) for pairs in (gpu | cpu, cpu, gpu, seen)]


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
