"""The leaderboard as one self-contained HTML file that opens offline: no requests, no libraries.

Python supplies only data, as JSON; `html/` holds the page's frame, style and scripts, which build everything else from
text nodes. So nothing in a record can become markup; and the page's content policy lets no other script or style run.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lra.report import (
    efficiency,
    fairness,
    figures,
    headline,
    layout,
    looks,
    published,
    selection,
    styles,
    tables,
    tuned,
)
from lra.report.charts import Figure
from lra.report.leaderboard import Leaderboard
from lra.report.rows import Column, Group, Row, Score
from lra.report.shared_parts import once_per_object
from lra.report.stats import Estimate
from lra.results import load
from lra.results.records import Record

MAX_POINTS = 80_000
"""Maximum number of learning-curve points on a page, over all seeds."""
MIN_POINTS = 8
"""Minimum number of points of a thinned curve."""
_SCRIPTS = ("base.js", "figures.js", "first.js", "table.js", "detail.js")
_HERE = Path(__file__).with_name("html")


def to_html(leaderboard: Leaderboard, benchmarks: Sequence[Record]) -> str:
    """leaderboard.html: the leaderboard, and the speed and memory of benchmarked cells over length."""
    html, style = (_read(name) for name in ("page.html", "page.css"))
    style = _colours() + style
    script = "\n".join(['"use strict";', "(() => {", *map(_read, _SCRIPTS), "})();"])
    parts = {
        "{{style hash}}": _content_hash(style),
        "{{script hash}}": _content_hash(script),
        "{{style}}": style,
        "{{script}}": script,
        "{{data}}": embed_json(page_data(leaderboard, benchmarks)),
    }
    for placeholder, part in parts.items():
        html = html.replace(placeholder, part)
    return html


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _content_hash(text: str) -> str:
    """The source that the page's content policy allows: this text, and no other (W3C's CSP 3, hash-source)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _colours() -> str:
    """The families' colours as CSS, on a light and on a dark ground."""
    light, dark = (
        "".join(f"--family-{place}: {colour}; " for place, colour in enumerate(colours))
        for colours in (styles.COLOURS, styles.DARK_COLOURS)
    )
    own = "".join(f".family-{place} {{ --own: var(--family-{place}); }}\n" for place in range(len(styles.COLOURS)))
    return f":root {{ {light}}}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}\n{own}"


def embed_json(value: Any) -> str:
    r"""JSON that is safe inside a script element: nothing in it can end the element ('<' is written \u003c)."""
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:  # a record edited by hand or written by another runner may hold NaN
        text = json.dumps(_finite(value), separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


class _Pool:
    """Values that many cells share (recipes, versions, devices), each stored once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.index = once_per_object(self._append)
        """Index of a value in `values`."""

    def _append(self, value: Any) -> int:
        self.values.append(value)
        return len(self.values) - 1


def page_data(leaderboard: Leaderboard, benchmarks: Sequence[Record]) -> dict[str, Any]:
    """Everything the page shows, as plain values."""
    records = [record for row in leaderboard.rows for score in row.scores.values() for record in score.records]
    curves = [result.get("curve") or [] for record in records for result in record.get("results", [])]
    max_points = max(MIN_POINTS, MAX_POINTS // max(len(curves), 1))
    pool = _Pool()
    places = {id(row): place for place, row in enumerate(leaderboard.rows)}
    rows: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    for row in leaderboard.rows:
        rows.append(_row(row))
        for name, score in row.scores.items():
            first = len(cells)
            cells += [_cell(record, pool) for record in score.records]
            rows[-1]["scores"][name] = _score(row, score, leaderboard, name) | {
                "cells": list(range(first, len(cells))),
                "curves": [layout.lay_out(chart) for chart in figures.seed_curves(score, max_points)],
            }
    groups = [_group(group) | {"rows": [places[id(row)] for row in group.rows]} for group in leaderboard.groups]
    return {
        "metric": selection.METRICS[leaderboard.metric],
        "explained": tables.FOOTNOTE,
        "looks": {"families": styles.FAMILY_NAMES, "dashes": styles.DASHES, "shapes": styles.SHAPES,
                  "failures": styles.FAILURES},
        "columns": {name: _column(column) for name, column in leaderboard.columns.items()},
        "groups": groups,
        "rows": rows,
        "cells": cells,
        "pool": pool.values,
        "published": [{name: text for name, text in row.items() if text} for row in published.load_table()],
        "conflicts": leaderboard.conflicts,
        "thinned": max_points if any(len(curve) > max_points for curve in curves) else None,
        **_first_screen(leaderboard, benchmarks),
    }  # fmt: skip


def _first_screen(leaderboard: Leaderboard, benchmarks: Sequence[Record]) -> dict[str, Any]:
    """The first table, and the figures of all models."""
    table = headline.choose(leaderboard, benchmarks)
    style = figures.styles_of(leaderboard, benchmarks)
    overview = figures.overview(table, style) if table else None
    measured = efficiency.to_frame(benchmarks) if benchmarks else pd.DataFrame()
    lengths = figures.over_length(measured, style)
    lengths += figures.over_length(figures.trained_over_length(leaderboard), style, "training")
    return {
        "first": _first_table(table, leaderboard.rows) if table else None,
        "speed": [*([_discs(overview)] if overview else []), *_each_task(figures.accuracy_speed(leaderboard, style))],
        "length": [_lines(figure) for figure in lengths if len(figure.charts[0].x.ticks) > 1],
        "windows": [_lines(figure) for figure in _by_row(looks.figures(leaderboard, style))],
        "curves": [_lines(figure) for figure in _by_row(figures.curves(leaderboard, style))],
    }


def _first_table(table: headline.Headline, rows: Sequence[Row]) -> dict[str, Any]:
    """The first table; its `row` and `scores` are places in `rows`, as an entry may have scores of several."""
    main = {
        (row.model, row.protocol, row.accelerator, row.trials, row.sweep): place
        for place, row in enumerate(rows)
        if row.ours_alone
    }
    usual = table.distance_seeds
    source = {id(score.records): place for place, row in enumerate(rows) for score in row.scores.values()}
    entries = [
        {"row": main[entry.row.model, entry.row.protocol, entry.row.accelerator, table.trials, table.sweep],
         "scores": {name: source[id(score.records)] for name, score in entry.row.scores.items()},
         "seen": {name: look.text for name, score in entry.row.scores.items() if (look := looks.of_score(score))},
         "rank": entry.rank, "family": styles.family_of(entry.row.model), "value": _estimate(entry.value),
         "speed": _digits(entry.speed), "memory": _digits(entry.memory), "best": sorted(entry.best),
         "distance": entry.distance and
         {"text": entry.distance.text(usual), "solved": entry.distance.solved, "told": entry.distance.told},
         "mark": headline.mark(entry, table)}
        for entry in table.entries
    ]  # fmt: skip
    return {
        "title": tables.headline_title(table), "columns": table.columns, "average": table.average, "rows": entries,
        "notes": tables.headline_notes(table), "speed": table.speed.source, "memory": table.method,
        "accelerator": table.accelerator,
    }  # fmt: skip


def _each_task(made: Sequence[Figure]) -> list[dict[str, Any]]:
    """Every chart as a figure of its own, those with most discs first."""
    single = [dataclasses.replace(figure, charts=(chart,)) for figure in made for chart in figure.charts]
    return [_discs(figure) for figure in sorted(single, key=lambda figure: -len(figure.charts[0].series))]


def _by_row(made: Sequence[Figure]) -> list[Figure]:
    """Every row of charts as a figure of its own: a page shows one at a time."""
    rows = []
    for figure in made:
        for name in dict.fromkeys(chart.row for chart in figure.charts):
            charts = tuple(chart for chart in figure.charts if chart.row == name)
            heading = f"{name}. {figure.heading}" if name else figure.heading
            rows.append(dataclasses.replace(figure, charts=charts, heading=heading))
    return rows


def _discs(figure: Figure) -> dict[str, Any]:
    (chart,) = figure.charts
    return _lines(figure) | {
        "title": f"{chart.title}. {figure.heading}", "plots": [layout.lay_out(chart, layout.WIDE)],
        "narrow": [layout.lay_out(chart, layout.NARROW)],
    }  # fmt: skip


def _lines(figure: Figure) -> dict[str, Any]:
    plots = [layout.lay_out(chart) for chart in figure.charts]
    families = [place for place, _ in figures.legend(figure)]
    return {"title": figure.heading, "notes": figure.notes, "families": families, "plots": plots}


def _column(column: Column) -> dict[str, Any]:
    return {
        "task": column.task, "length": column.length, "source": column.source, "version": column.version,
        "fingerprint": column.fingerprint, "examples": column.examples, "majority": _digits(column.majority),
        "notes": published.data_notes(column),
    }  # fmt: skip


def _group(group: Group) -> dict[str, Any]:
    return {
        "title": tables.group_title(group), "protocol": group.protocol, "kind": group.kind, "columns": group.columns,
        "averages": group.averages, "told": fairness.explain(group.kind),
    }  # fmt: skip


def _row(row: Row) -> dict[str, Any]:
    return {
        "model": row.model, "protocol": row.protocol, "kind": row.kind, "overrides": row.overrides,
        "accelerator": row.accelerator, "variant": row.variant, "reasons": row.reasons, "rank": row.rank,
        "parameters": row.parameters, "scores": {},
        "averages": {name: _estimate(average) | {"best": name in row.best} for name, average in row.averages.items()},
    }  # fmt: skip


def _estimate(estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None:
        return {}
    low, high = estimate.interval or (None, None)
    return {"mean": _digits(estimate.mean), "low": _digits(low), "high": _digits(high), "seeds": estimate.count}


def _score(row: Row, score: Score, leaderboard: Leaderboard, name: str) -> dict[str, Any]:
    theirs = published.published_for(row, leaderboard.columns[name])
    beside = None if theirs is None else {"value": theirs.value, "name": theirs.name, "source": theirs.source}
    return _estimate(score.estimate) | {
        "best": score.best, "lost": score.failures, "steps": _digits(score.steps_per_second),
        "published": beside,
    }  # fmt: skip


def _cell(record: Record, pool: _Pool) -> dict[str, Any]:
    """One record for the page, without its curves, which figures show."""
    seeds = []
    for result in load.seed_results(record):
        seeds.append({name: value for name, value in result.items() if name != "curve" and value not in (None, "")})
    shared = {"recipe": record["recipe"], "data": record["data"]}
    shared |= {name: record[name] for name in ("versions", "device") if record.get(name)}
    known = {*shared, "results", "cell", "overrides", "schema", "tuning"}
    own = {name: value for name, value in record.items() if name not in known and value not in (None, "", [])}
    if trials := tuned.lines(record):
        own["trials"] = trials
    return {"seeds": seeds, "own": own, "shared": {name: pool.index(v) for name, v in shared.items()}}


def _digits(value: Any) -> float | None:
    """Rounds to the five significant digits that a plot can show; None for NaN, infinities and non-numbers."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")


def _finite(value: Any) -> Any:
    """The same value with None for NaN and infinities, which JSON cannot represent."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
