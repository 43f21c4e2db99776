"""A leaderboard's tables: leaderboard.csv and its Markdown, and cells.csv."""

from __future__ import annotations

import csv
import functools
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lra.report import fairness, headline, looks, markdown, published, selection, tuned
from lra.report.charts import bytes_text, counted, short
from lra.report.headline import MEMORY_METHODS, Entry, Headline
from lra.report.leaderboard import Leaderboard
from lra.report.rows import Group, Row, Score
from lra.report.shared_parts import once_per_object
from lra.report.stats import Estimate
from lra.report.styles import FAMILY_NAMES, family_of
from lra.results.load import SHARED, reach, seed_results
from lra.results.records import Record

FOOTNOTE = (
    "± is a 95 % interval: over seeds (Student's t) where there are several, the test set's binomial error (Wilson) "
    "where there is one. Bold: ahead of every other row of its table by more than the errors explain (Welch's test, "
    "5 %). Accuracies may be compared across accelerators, speed only on the same one."
)
"""Note under every table."""


@dataclass(frozen=True)
class TableCell:
    """Text of a table's cell, and whether it is the best of its column."""

    text: str
    best: bool = False
    seen: str = ""
    """How far the model looks, behind the score."""


def to_frame(leaderboard: Leaderboard) -> pd.DataFrame:
    """leaderboard.csv: the rows of all groups in the leaderboard's order.

    For each column: the mean (%), the interval's ends, the spread over seeds, the number of seeds, the statuses of
    seeds without a score, steps per second, whether it is best, the published accuracy under the same protocol and the
    difference from it, and remarks on the data.
    """
    frame = pd.DataFrame([_csv_line(row, group, leaderboard) for group in leaderboard.groups for row in group.rows])
    averages = [name for group in leaderboard.groups for name in group.averages]
    parts = {name: [c for c in frame.columns if c == name or c.startswith(f"{name} ")] for name in averages}
    ordered = dict.fromkeys([name for name in _IDENTITY if name in frame])
    ordered |= dict.fromkeys(c for name in averages for c in parts[name])
    for name in leaderboard.columns:
        ordered |= dict.fromkeys(f"{name}{suffix}" for suffix in _SUFFIXES if f"{name}{suffix}" in frame)
    return frame.reindex(columns=list(ordered))


_IDENTITY = ("rank", "model", "protocol", "comparison", "why", "overrides", "variant", "accelerator", "parameters")
_SUFFIXES = (
    "", " low", " high", " ± seeds", " n", " status", " best", " steps/s", " r50", " r90", " published",
    " − published", " notes",
)  # fmt: skip


def _csv_line(row: Row, group: Group, leaderboard: Leaderboard) -> dict[str, object]:
    line: dict[str, object] = {
        "rank": row.rank, "model": row.model, "protocol": row.protocol, "comparison": row.kind,
        "why": "; ".join(row.reasons), "overrides": row.overrides, "variant": row.variant,
        "accelerator": row.accelerator, "parameters": row.parameters,
    }  # fmt: skip
    for name in group.averages:
        line |= _estimate_fields(name, row.averages.get(name), name in row.best)
    for name, score in row.scores.items():
        line |= _estimate_fields(name, score.estimate, score.best)
        line[f"{name} n"] = len(score.values)
        line[f"{name} status"] = failures_text(score)
        line[f"{name} steps/s"] = score.steps_per_second
        if look := looks.of_score(score):
            line |= {f"{name} r50": look.r50, f"{name} r90": look.r90}
        notes = published.data_notes(leaderboard.columns[name])
        if notes:
            line[f"{name} notes"] = "; ".join(notes)
        theirs = published.published_for(row, leaderboard.columns[name])
        if theirs is not None:
            line[f"{name} published"] = theirs.value
            if score.estimate is not None:
                line[f"{name} − published"] = score.estimate.mean - theirs.value
    return line


def _estimate_fields(name: str, estimate: Estimate | None, best: bool) -> dict[str, object]:
    if estimate is None:
        return {name: math.nan}
    low, high = estimate.interval or (math.nan, math.nan)
    spread = {f"{name} ± seeds": estimate.spread} if estimate.count > 1 and not name.startswith("average") else {}
    return {name: estimate.mean, f"{name} low": low, f"{name} high": high, **spread, f"{name} best": best}


def failures_text(score: Score) -> str:
    """'1 diverged', '2 oom', and so on; empty where every seed has a score."""
    return ", ".join(f"{count} {status}" for status, count in score.failures.items())


def estimate_text(estimate: Estimate | None) -> str:
    """'44.30 ± 2.18', without ± where the error is unknown."""
    if estimate is None:
        return "–"
    return f"{estimate.mean:.2f}" + (f" ± {estimate.margin:.2f}" if estimate.margin is not None else "")


def score_text(score: Score | None) -> str:
    """A score for people: the estimate with its number of seeds, or the seeds' statuses if none has a score."""
    if score is None:
        return "–"
    if score.estimate is None:
        return ", ".join(score.failures)
    count = score.estimate.count
    failures = f", {failures_text(score)}" if score.failures else ""
    return f"{estimate_text(score.estimate)} ({counted(count, 'seed')}{failures})"


def group_table(group: Group) -> tuple[list[str], list[list[TableCell]]]:
    """Header and lines of a group's table."""
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
            TableCell(score_text(score), score is not None and score.best),
            TableCell("–" if rate is None else f"{rate:.3g}"),
        ]
    return line + [TableCell(estimate_text(row.averages.get(name)), name in row.best) for name in group.averages]


def group_title(group: Group) -> str:
    """Title of a group's table."""
    if group.kind == fairness.EXTERNAL:
        return "External results"
    return f"Protocol {group.protocol}, {group.kind}"


def headline_title(table: Headline) -> str:
    """Title of the first table."""
    return f"Protocol {table.contest}"


def headline_notes(table: Headline) -> list[str]:
    """Footnotes of the first table."""
    notes = [f"A{table.average[1:]}."] if table.average else []
    if table.trials:
        notes.append(f"{table.sweep[0].upper()}{table.sweep[1:]}. {fairness.TUNED}")
    if table.speed.source:
        over = ", ".join(table.speed.columns)
        mean = f"the geometric mean over {over}" if len(table.speed.columns) > 1 else f"of {over}"
        notes.append(f"Training steps/s: {mean}, measured in {table.speed.source} on {table.accelerator}.")
    else:
        notes.append(headline.NO_SPEED)
    if table.method:
        over = ", ".join(table.memory.columns)
        notes.append(f"Memory: {MEMORY_METHODS[table.method]} on {table.accelerator}, the largest over {over}.")
    if any(looks.of_score(score) for entry in table.entries for score in entry.row.scores.values()):
        notes.append(looks.NOTE)
    return [*notes, *table.notes]


def headline_table(table: Headline) -> tuple[list[str], list[list[TableCell]]]:
    """Header and lines of the first table: one row a model, a column a task."""
    average, usual = ["average (%)"] if table.average else [], table.distance_seeds
    distance = ["distance"] if usual else []
    scores = [f"{name} (%)" for name in table.columns]
    header = ["#", "model", "family", *scores, *average, *distance, "steps/s", "memory"]
    return header, [_headline_line(entry, table, usual) for entry in table.entries]


def _headline_line(entry: Entry, table: Headline, usual: int) -> list[TableCell]:
    row = entry.row
    line = [
        TableCell("–" if entry.rank is None else str(entry.rank)),
        TableCell(row.model + headline.mark(entry, table)),
        TableCell(FAMILY_NAMES[family_of(row.model)]),
    ]
    for name in table.columns:
        score = row.scores.get(name)
        failed = score is not None and score.estimate is None
        text = ", ".join(score.failures) if score and failed else estimate_text(row.estimate(name))
        look = looks.of_score(score)
        seen = f" · {look.text}" if look and look.text else ""
        line.append(TableCell(text, name in entry.best, seen))
    line += [TableCell(estimate_text(entry.value), "" in entry.best)] if table.average else []
    if usual:
        line.append(TableCell(entry.distance.text(usual) if entry.distance else "–"))
    return [*line, TableCell("–" if entry.speed is None else short(entry.speed)), TableCell(bytes_text(entry.memory))]


def to_markdown(leaderboard: Leaderboard, benchmarks: Sequence[Record] = ()) -> str:
    """leaderboard.md: the first table, one per group, the data sets, our accuracies beside published ones."""
    if not leaderboard.groups:
        return "No cell was trained.\n"
    parts = []
    table = headline.choose(leaderboard, benchmarks)
    if table is not None:
        header, rows = headline_table(table)
        parts.append(f"## {markdown.escape(headline_title(table))}\n")
        parts.append(markdown.make_table(header, [[_bold(cell) for cell in row] for row in rows]))
        parts.append(markdown.escape(" ".join(headline_notes(table))) + "\n")
        parts.append("## All results\n")
    for group in leaderboard.groups:
        header, rows = group_table(group)
        parts.append(f"### {markdown.escape(group_title(group))}\n")
        parts.append(markdown.make_table(header, [[_bold(cell) for cell in row] for row in rows]))
        parts += _reasons_list(group)
        if group.kind not in (fairness.APPLES, fairness.FREE):
            parts.append(f"{fairness.explain(group.kind)}\n")
    parts.append(f"{selection.METRICS[leaderboard.metric]}. {FOOTNOTE}\n")
    parts.append(_data_table(leaderboard))
    parts += _notes_list(leaderboard)
    comparisons = published.comparisons(leaderboard)
    if comparisons:
        lines = [
            [c.row.model, c.row.protocol, c.column, estimate_text(c.estimate), f"{c.published.value:.2f}",
             f"{c.difference:+.2f}", c.published.name, c.published.source]
            for c in comparisons
        ]  # fmt: skip
        header = ["model", "protocol", "task", "ours (%)", "published (%)", "difference", "their row", "source"]
        parts.append(f"## Beside published results\n\n{markdown.make_table(header, lines)}")
    if leaderboard.conflicts:
        parts.append("".join(f"- {markdown.escape(line)}\n" for line in leaderboard.conflicts))
    return "\n".join(parts)


def _reasons_list(group: Group) -> list[str]:
    """A list of why rows are free for all; reasons that their overrides already state are left out."""
    lines = []
    for row in group.rows:
        reasons = [reason for reason in row.reasons if reason not in row.overrides.split()]
        if reasons:
            name = " ".join(filter(None, [row.model, row.overrides, row.variant]))
            lines.append(f"- {markdown.escape(name + ': ' + '; '.join(reasons))}\n")
    return ["".join(lines)] if lines else []


def _bold(cell: TableCell) -> str:
    return (f"**{cell.text}**" if cell.best else cell.text) + cell.seen


def _data_table(leaderboard: Leaderboard) -> str:
    """The columns' data sets, and the accuracy of always answering the most frequent class."""
    lines = [
        [c.name, c.source, c.version, c.fingerprint[:8], "–" if c.examples is None else f"{c.examples:,}",
         "–" if c.majority is None else f"{c.majority:.2f}"]
        for c in leaderboard.columns.values()
    ]  # fmt: skip
    return markdown.make_table(["task", "data", "version", "fingerprint", "examples", "most frequent class (%)"], lines)


def _notes_list(leaderboard: Leaderboard) -> list[str]:
    """A list of the remarks on the columns' data."""
    lines = [
        f"- {markdown.escape(f'{name}: {note}')}\n"
        for name, column in leaderboard.columns.items()
        for note in published.data_notes(column)
    ]
    return ["".join(lines)] if lines else []


_OPTIONAL = (
    "flops_compiler", "mfu", "energy_per_step_joules", "idle_share", "max_batch", "memory_limit_bytes",
    "timeout_minutes", "resumed", "streamed", "first_chunk_seconds", "sharing",
    "attention_kernels", "evaluated",
)  # fmt: skip
"""Fields that only some versions and devices write: a column only if a record has the field."""


def cells_csv(records: Sequence[Record]) -> str:
    """cells.csv: one row per seed. Written without pandas, which takes three times as long for ten thousand cells."""
    names, rows = _cells(records)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return text.getvalue()


def _cells(records: Sequence[Record]) -> tuple[list[str], list[list[Any]]]:
    rows = []
    flatten_shared = {name: once_per_object(functools.partial(_flatten, prefix=f"{name}.")) for name in SHARED}
    for record in records:
        cell = {name: value for name, value in record["cell"].items() if name != "seeds"}
        base = {**cell, "overrides": " ".join(record.get("overrides", [])), "source": record["data"].get("source")}
        fields = {k: record.get(k) for k in ("parameters", "flops_per_step", "compile_seconds", "wall_seconds")}
        for name in ("train_speed", "inference_speed", "memory"):
            fields |= _flatten(record.get(name) or {}, f"{name}.")
        for name, flatten in flatten_shared.items():
            fields |= flatten(record.get(name) or _EMPTY)
        fields |= _flatten({name: record[name] for name in _OPTIONAL if name in record})
        if "external" in record:
            fields |= _flatten(record["external"], "external.")
        if trials := tuned.budget(record):
            fields |= {"trials": trials, "sweep": tuned.sweep_text(record), "chosen": " ".join(tuned.chosen(record))}
        fields |= {name: record.get(name) for name in ("key", "commit", "created", "command")}
        looks = {found["seed"]: _reach(found) for found in reach(record)}
        for result in seed_results(record):
            own = {name: value for name, value in result.items() if name != "curve"}
            rows.append(base | own | fields | looks.get(result["seed"], _EMPTY))
    first: dict[str, Any] = {}
    for row in rows:
        first.update(row)  # a name stays where it first appeared
    names = list(first)
    # Most rows have every name, in the same order.
    return names, [list(row.values()) if list(row) == names else list(map(row.get, names)) for row in rows]


_EMPTY: dict[str, Any] = {}


def _reach(found: dict[str, Any]) -> dict[str, Any]:
    """How far a seed's model looks (docs/reach.md), in tokens; `at_0` is a share, `r50_initial` before training."""
    numbers = {**found, **found["jacobian"], "r50_initial": found["jacobian_initial"].get("r50")}
    names = ("range_50", "range_90", "at_0", "r50", "r90", "r50_initial")
    return {f"reach.{name}": numbers.get(name) for name in names}


def _flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, part in value.items():
        if isinstance(part, dict):
            flat |= _flatten(part, f"{prefix}{name}.")
        else:
            flat[prefix + name] = "; ".join(map(str, part)) if isinstance(part, list) else part
    return flat
