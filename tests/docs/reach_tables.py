"""The tables of docs/reach.md: how far the models of the mini arena look, and what they reach in windows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lra.report import distance, headline
from lra.results import load
from lra.results.records import Record
from tests.docs.table import Table

PAGE = "docs/reach.md"
_SHUFFLES = (("shuffled within 16", "within", 16), ("blocks of 16 shuffled", "blocks", 16))
_ENDS = (("first 64", "first", 64), ("last 64", "last", 64))
_SHOWN = {
    "retrieval_mini": ((8, 16, 64), _SHUFFLES),
    "text_mini": ((8, 16, 64), _SHUFFLES),
    "image_mini": ((16, 64, 128), _SHUFFLES),
    "pathfinder_mini": ((16, 64, 128), _SHUFFLES),
    "listops_mini": ((4, 16, 32, 64), _ENDS),
}
"""Of each task, the sizes of windows and the other measures that its table has."""
_LEARNT = 55
"""Test accuracy (%) on Pathfinder from which a model is in its table; guessing gives 50."""


class Seen(NamedTuple):
    """A record's first seed, with how far its model looks."""

    model: str
    test: float
    """%."""
    record: Record
    reach: dict[str, Any]

    def window(self, k: int) -> str:
        """Accuracy in windows of k."""
        found = dict(zip(self.reach["k"], self.reach["windows"], strict=True)) if self.reach["windows"] else {}
        return _percent(found.get(k))

    def coarse(self, measure: str, k: int) -> str:
        """A measure that is taken at few sizes, at k."""
        values = self.reach[measure]
        return _percent(values[self.reach["coarse_k"].index(k)] if values else None)

    @property
    def length(self) -> int:
        """The largest size: that of the whole input."""
        return int(self.reach["k"][-1])


def seen(records: Sequence[Record], task: str) -> Iterable[Seen]:
    """The records of a task that tell how far their models look."""
    for record in records:
        if record["cell"]["task"] == task and record["status"] == "ok" and (found := load.reach(record)):
            yield Seen(record["cell"]["model"], statistics.fmean(_tests(record)), record, found[0])


def frozen(task: str, heading: str, seen: Sequence[Seen]) -> Table:
    """What the models of a task keep in windows and of shuffled inputs, and where their dependence lies."""
    sizes, parts = _SHOWN[task]
    shown = [one for one in seen if task != "pathfinder_mini" or one.test > _LEARNT]
    rows = []
    for one in sorted(shown, key=lambda one: (-one.test, one.model)):
        windows = [one.window(k) for k in (*sizes, one.length)]
        ranges = [_range(one.reach[name]) for name in ("jacobian", "jacobian_initial")]
        rows.append([one.model, f"{one.test:.1f}", *windows, *(one.coarse(m, k) for _, m, k in parts), *ranges])
    windows = [f"windows of {sizes[0]}", *(f"of {k}" for k in sizes[1:]), "whole"]
    header = ("model", "test", *windows, *(name for name, _, _ in parts), "r50/r90", "before training")
    return Table(PAGE, heading, header, rows)


def ordered(records: Sequence[Record], seen: Sequence[Seen], first: headline.Headline) -> Table:
    """Up to which distance the models find two tokens and their order; the scores of all seeds, the lowest first."""
    distances = {entry.row.model: entry.distance for entry in first.entries}
    scores: dict[tuple[str, str], list[float]] = {}
    for record in records:
        cell = record["cell"]
        if distance.asked(cell["task"]):
            scores.setdefault((cell["task"], cell["model"]), []).extend(_tests(record))

    def listed(task: str, model: str) -> str:
        return ", ".join(f"{score:.1f}" for score in sorted(scores.get((task, model), ())))

    found = []
    for one in seen:
        if 0 not in one.record["cell"]["seeds"]:
            continue
        solved = distances[one.model]
        assert solved is not None
        steps = solved.steps if solved.steps is not None else math.inf
        row = [one.model, solved.reached, listed("ordered_pair_4", one.model), listed("ordered_pair_16", one.model)]
        row += ["" if steps == math.inf else f"{steps:.0f}", one.window(16), one.window(32)]
        mean = statistics.fmean(scores["ordered_pair_16", one.model])
        found.append(((-solved.solved, steps, -round(mean, 1), one.model), [*row, _range(one.reach["jacobian"])]))
    header = ("model", "distance", "at 4", "at 16", "90 % after steps", "windows of 16", "of 32", "r50/r90")
    return Table(PAGE, "Ordered pairs", header, [row for _, row in sorted(found)])


def trained(windowed: Sequence[Record], seen: Mapping[str, Sequence[Seen]], tasks: Mapping[str, str]) -> Table:
    """What models reach that were trained on windows, beside those that never saw one."""
    whole = {(task, one.model): one for task in tasks for one in seen[task]}
    found = []
    for record in windowed:
        task, model = record["cell"]["task"], record["cell"]["model"]
        k = int(dict(each.split("=") for each in record["overrides"])["data.window"])
        one = whole[task, model]
        row = [tasks[task], model, str(k), one.window(k), f"{statistics.fmean(_tests(record)):.1f}", f"{one.test:.1f}"]
        found.append(((list(tasks).index(task), model, k), row))
    header = ("task", "model", "windows of", "frozen", "trained on them", "whole inputs")
    return Table(PAGE, "Trained on windows", header, [row for _, row in sorted(found)])


def _tests(record: Record) -> list[float]:
    """The test accuracies of a record's seeds, in %."""
    return [100 * result["test_best"] for result in load.seed_results(record)]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f}"


def _range(jacobian: dict[str, Any]) -> str:
    if not jacobian:
        return ""
    return "none" if jacobian.get("r50") is None else f"{jacobian['r50']}/{jacobian['r90']}"
