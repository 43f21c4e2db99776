"""A leaderboard's tables: leaderboard.csv and its Markdown, and cells.csv."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lra.report import fairness, markdown, published, selection
from lra.report.leaderboard import Leaderboard
from lra.report.rows import Group, Row, Score
from lra.report.stats import Estimate
from lra.results import records
from lra.results.load import SHARED, seed_results

EXPLAINED = (
    "± is a 95 % interval: over seeds (Student's t) where there are several, the test set's binomial error (Wilson) "
    "where there is one. Bold: ahead of every other row of its table by more than the errors explain (Welch's test, "
    "5 %). Accuracies may be compared across accelerators, speed only on the same one."
)
"""What every table says of its figures."""


@dataclass(frozen=True)
class TableCell:
    """A table's cell: a text, and whether it is the best of its column."""

    text: str
    best: bool = False


def frame(board: Leaderboard) -> pd.DataFrame:
    """leaderboard.csv: a row a line of the board, in its order, with every group in one frame.

    For each column: the mean (%), the interval's ends, the spread over seeds, the number of seeds, what the others
    ended as, steps per second, whether it is best, the published figure under the same protocol and the difference.
    """
    rows = []
    for group in board.groups:
        for row in group.rows:
            line: dict[str, object] = {
                "rank": row.rank, "model": row.model, "protocol": row.protocol, "comparison": row.kind,
                "why": "; ".join(row.reasons), "overrides": row.overrides, "variant": row.variant,
                "accelerator": row.accelerator, "parameters": row.parameters,
            }  # fmt: skip
            for name in group.averages:
                line |= _numbers(name, row.averages.get(name), name in row.best)
            for name, score in row.scores.items():
                line |= _numbers(name, score.estimate, score.best)
                line[f"{name} n"] = len(score.values)
                line[f"{name} status"] = _lost(score)
                line[f"{name} steps/s"] = score.steps_per_second
                theirs = published.of(row, board.columns[name])
                if theirs is not None:
                    line[f"{name} published"] = theirs.value
                    if score.estimate is not None:
                        line[f"{name} − published"] = score.estimate.mean - theirs.value
            rows.append(line)
    made = pd.DataFrame(rows)
    names = [name for name in _identity() if name in made]
    averages = [name for group in board.groups for name in group.averages]
    parts = {name: [c for c in made.columns if c == name or c.startswith(f"{name} ")] for name in averages}
    ordered = dict.fromkeys([*names, *(c for name in averages for c in parts[name])])
    for name in board.columns:
        ordered |= dict.fromkeys(f"{name}{end}" for end in _ENDS if f"{name}{end}" in made)
    return made.reindex(columns=list(ordered))


_ENDS = ("", " low", " high", " ± seeds", " n", " status", " best", " steps/s", " published", " − published")


def _identity() -> tuple[str, ...]:
    return "rank", "model", "protocol", "comparison", "why", "overrides", "variant", "accelerator", "parameters"


def _numbers(name: str, made: Estimate | None, best: bool) -> dict[str, object]:
    if made is None:
        return {name: math.nan}
    low, high = made.interval or (math.nan, math.nan)
    spread = {f"{name} ± seeds": made.spread} if made.count > 1 and not name.startswith("average") else {}
    return {name: made.mean, f"{name} low": low, f"{name} high": high, **spread, f"{name} best": best}


def _lost(score: Score) -> str:
    """'1 diverged', '2 oom', and so on; empty where every seed has a score."""
    return ", ".join(f"{count} {status}" for status, count in score.lost.items())


def figure(made: Estimate | None) -> str:
    """'44.30 ± 2.18', without ± where no error is known."""
    if made is None:
        return "–"
    return f"{made.mean:.2f}" + (f" ± {made.half:.2f}" if made.half is not None else "")


def words(score: Score | None) -> str:
    """A score for people: the figure with its seeds, or why there is none."""
    if score is None:
        return "–"
    if score.estimate is None:
        return ", ".join(score.lost)
    count = score.estimate.count
    lost = f", {_lost(score)}" if score.lost else ""
    return f"{figure(score.estimate)} ({count} seed{'s' if count > 1 else ''}{lost})"


def table(group: Group) -> tuple[list[str], list[list[TableCell]]]:
    """A group's header and lines, as Markdown and LaTeX show them."""
    shown = [name for name in ("overrides", "variant", "accelerator") if any(getattr(row, name) for row in group.rows)]
    header = ["#", "model", *shown]
    for name in group.columns:
        header += [f"{name} (%)", f"{name} steps/s"]
    header += group.averages
    return header, [_line(row, group, shown) for row in group.rows]


def _line(row: Row, group: Group, shown: Sequence[str]) -> list[TableCell]:
    line = [TableCell("–" if row.rank is None else str(row.rank)), TableCell(row.model)]
    line += [TableCell(getattr(row, name)) for name in shown]
    for name in group.columns:
        score = row.scores.get(name)
        rate = score.steps_per_second if score else None
        line += [
            TableCell(words(score), score is not None and score.best),
            TableCell("–" if rate is None else f"{rate:.3g}"),
        ]
    return line + [TableCell(figure(row.averages.get(name)), name in row.best) for name in group.averages]


def title(group: Group) -> str:
    """What a group's table is of."""
    return f"Protocol {group.protocol}, {group.kind}"


def to_markdown(board: Leaderboard) -> str:
    """leaderboard.md: a table a group, what it is measured on, and the published figures beside ours."""
    if not board.groups:
        return "No records yet.\n"
    parts = []
    for group in board.groups:
        header, lines = table(group)
        parts.append(f"## {markdown.escape(title(group))}\n")
        parts.append(markdown.grid(header, [[_bold(cell) for cell in line] for line in lines]))
        if group.kind == fairness.FREE:
            parts += _why(group)
    parts.append(f"{selection.METRICS[board.metric]}. {EXPLAINED}\n")
    parts.append(_data(board))
    beside = published.beside(board)
    if beside:
        told = [
            [b.row.model, b.row.protocol, b.column, figure(b.estimate), f"{b.published.value:.2f}",
             f"{b.difference:+.2f}", b.published.name, b.published.source]
            for b in beside
        ]  # fmt: skip
        header = ["model", "protocol", "task", "ours (%)", "published (%)", "difference", "their row", "source"]
        parts.append(f"## Beside published results\n\n{markdown.grid(header, told)}")
    return "\n".join(parts)


def _why(group: Group) -> list[str]:
    """A list of why rows are free for all, save where their overrides say so already."""
    lines = []
    for row in group.rows:
        more = [reason for reason in row.reasons if reason not in row.overrides.split()]
        if more:
            told = f"{' '.join(filter(None, [row.model, row.overrides, row.variant]))}: {'; '.join(more)}"
            lines.append(f"- {markdown.escape(told)}\n")
    return ["".join(lines)] if lines else []


def _bold(cell: TableCell) -> str:
    return f"**{cell.text}**" if cell.best else cell.text


def _data(board: Leaderboard) -> str:
    """The data sets of the columns, and what always answering the most frequent class would give."""
    lines = [
        [c.name, c.source, c.version, c.fingerprint[:8], "–" if c.examples is None else f"{c.examples:,}",
         "–" if c.majority is None else f"{c.majority:.2f}"]
        for c in board.columns.values()
    ]  # fmt: skip
    return markdown.grid(["task", "data", "version", "fingerprint", "examples", "most frequent class (%)"], lines)


_OWN = (
    "flops_compiler", "mfu", "energy_per_step_joules", "idle_share", "max_batch", "memory_limit_bytes",
    "timeout_minutes", "resumed", "streamed", "first_chunk_seconds", "sharing",
    "attention_kernels",
)  # fmt: skip
"""Fields that not every version and device writes: columns only where a record has them."""


def cells_csv(found: Sequence[records.Record]) -> str:
    """cells.csv. Written without pandas, which takes three times as long for ten thousand cells."""
    names, rows = _cells(found)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return text.getvalue()


def _cells(found: Sequence[records.Record]) -> tuple[list[str], list[list[Any]]]:
    rows = []
    flat: dict[int, dict[str, Any]] = {}
    for record in found:
        cell = {name: value for name, value in record["cell"].items() if name != "seeds"}
        base = {**cell, "overrides": " ".join(record.get("overrides", [])), "source": record["data"].get("source")}
        rest = {k: record.get(k) for k in ("parameters", "flops_per_step", "compile_seconds", "wall_seconds")}
        for name in ("train_speed", "inference_speed", "memory"):
            rest |= _flat(record.get(name) or {}, f"{name}.")
        for name in SHARED:
            part = record.get(name) or {}
            if id(part) not in flat:
                flat[id(part)] = _flat(part, f"{name}.")
            rest |= flat[id(part)]
        rest |= _flat({name: record[name] for name in _OWN if name in record})
        rest |= {name: record.get(name) for name in ("key", "commit", "created", "command")}
        for result in seed_results(record):
            rows.append(base | {name: value for name, value in result.items() if name != "curve"} | rest)
    first: dict[str, Any] = {}
    for row in rows:
        first.update(row)  # keeps the place that a name had first
    names = list(first)
    # Most rows have every name, in the same order.
    return names, [list(row.values()) if list(row) == names else list(map(row.get, names)) for row in rows]


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, part in value.items():
        if isinstance(part, dict):
            flat |= _flat(part, f"{prefix}{name}.")
        else:
            flat[prefix + name] = "; ".join(map(str, part)) if isinstance(part, list) else part
    return flat
