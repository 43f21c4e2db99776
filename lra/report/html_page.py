"""The leaderboard as one self-contained HTML file that opens offline: no requests, no libraries.

Python supplies only data, as JSON; `html/` holds the page's frame, style and scripts, which build everything else from
text nodes. So nothing in a record can become markup.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lra.report import published, selection, tables
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
_CURVES = ("train_accuracy", "validation_accuracy", "train_loss", "validation_loss")
_SCRIPTS = ("base.js", "table.js", "charts.js", "detail.js")
_HERE = Path(__file__).with_name("html")


def to_html(leaderboard: Leaderboard, benchmarks: Sequence[Record]) -> str:
    """leaderboard.html: the leaderboard, and the speed and memory of benchmarked cells over length."""
    html = (_HERE / "page.html").read_text(encoding="utf-8")
    parts = {
        "{{style}}": (_HERE / "page.css").read_text(encoding="utf-8"),
        "{{script}}": "\n".join((_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS),
        "{{data}}": embed_json(page_data(leaderboard, benchmarks)),
    }
    for placeholder, part in parts.items():
        html = html.replace(placeholder, part)
    return html


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
    curves = sum(len(record.get("results", [])) for record in records)
    max_points = max(MIN_POINTS, MAX_POINTS // max(curves, 1))
    pool = _Pool()
    rows: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    groups = []
    thinned = False
    for group in leaderboard.groups:
        members = []
        for row in group.rows:
            members.append(len(rows))
            entry = _row(row)
            for name, score in row.scores.items():
                entry["scores"][name] = _score(row, score, leaderboard, name) | {"cells": []}
                for record in score.records:
                    cell, cut = _cell(record, pool, max_points)
                    thinned |= cut
                    entry["scores"][name]["cells"].append(len(cells))
                    cells.append(cell)
                    points.append(_point(record, "training"))
            rows.append(entry)
        groups.append(_group(group) | {"rows": members})
    points += [_point(record, "bench") for record in benchmarks]
    return {
        "metric": selection.METRICS[leaderboard.metric],
        "explained": tables.FOOTNOTE,
        "columns": {name: _column(column) for name, column in leaderboard.columns.items()},
        "groups": groups,
        "rows": rows,
        "cells": cells,
        "pool": pool.values,
        "points": [point for point in points if point["steps"] or point["device"] or point["compiled"]],
        "published": [{name: text for name, text in row.items() if text} for row in published.load_table()],
        "conflicts": leaderboard.conflicts,
        "thinned": max_points if thinned else None,
    }


def _column(column: Column) -> dict[str, Any]:
    return {
        "task": column.task, "length": column.length, "source": column.source, "version": column.version,
        "fingerprint": column.fingerprint, "examples": column.examples, "majority": _digits(column.majority),
        "notes": published.data_notes(column),
    }  # fmt: skip


def _group(group: Group) -> dict[str, Any]:
    return {
        "title": tables.group_title(group), "protocol": group.protocol, "kind": group.kind, "columns": group.columns,
        "averages": group.averages,
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
        "device": score.memory("device_peak_bytes"), "compiled": score.memory("compiled_bytes"), "published": beside,
    }  # fmt: skip


def _point(record: Record, kind: str) -> dict[str, Any]:
    """Speed and memory of one cell, for the figures over length."""
    cell, train = record["cell"], record["recipe"].get("train") or {}
    # Cells that share these settings are points of one line.
    batch = "largest batch" if record.get("max_batch") else f"batch {train.get('batch')}"
    setting = [batch, train.get("precision"), " ".join(record.get("overrides", []))]
    return {
        "kind": kind, "model": cell["model"], "task": cell["task"], "length": cell["length"],
        "protocol": cell["protocol"], "accelerator": cell["accelerator"], "status": record["status"],
        "setting": " · ".join(str(part) for part in setting if part), "steps": _digits(load.solo_speed(record)),
        "device": load.solo_memory(record, "device_peak_bytes"), "compiled": load.solo_memory(record, "compiled_bytes"),
    }  # fmt: skip


def _cell(record: Record, pool: _Pool, max_points: int) -> tuple[dict[str, Any], bool]:
    """One record for the page, and whether any of its curves was thinned."""
    seeds, cut = [], False
    for result in load.seed_results(record):
        curve = result.get("curve") or []
        kept = _thin(curve, max_points)
        cut |= len(kept) < len(curve)
        drawn = {name: values for name in _CURVES if (values := _series(kept, name))}
        numbers = {name: value for name, value in result.items() if name != "curve" and value not in (None, "")}
        seeds.append(numbers | {"curve": {"step": [p.get("step") for p in kept], **drawn}})
    shared = {"recipe": record["recipe"], "data": record["data"]}
    shared |= {name: record[name] for name in ("versions", "device") if record.get(name)}
    known = {*shared, "results", "cell", "overrides", "schema"}
    own = {name: value for name, value in record.items() if name not in known and value not in (None, "", [])}
    return {"seeds": seeds, "own": own, "shared": {name: pool.index(v) for name, v in shared.items()}}, cut


def _thin(curve: list[dict[str, Any]], max_points: int) -> list[dict[str, Any]]:
    """At most `max_points` evenly spaced points of a curve, including the first and last."""
    if len(curve) <= max_points:
        return curve
    return [curve[round(i * (len(curve) - 1) / (max_points - 1))] for i in range(max_points)]


def _series(points: list[dict[str, Any]], name: str) -> list[float | None]:
    """One metric of a curve, to five decimals; empty where it has no numbers."""
    values = [point.get(name) for point in points]
    try:
        return [None if v is None else round(v, 5) for v in values] if any(v is not None for v in values) else []
    except TypeError:
        return []


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
