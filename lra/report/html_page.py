"""The leaderboard as one HTML file that opens offline: everything in it, no request, no library.

Python gives data alone, as JSON; `html/` holds the page's frame, style and scripts, which build everything else
with text nodes. So nothing a record says can become markup.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lra.report import published, selection, tables
from lra.report.leaderboard import Leaderboard
from lra.report.rows import Group, Row, Score
from lra.report.stats import Estimate
from lra.results import load
from lra.results.records import Record

POINTS = 80_000
"""Points of learning curves that a page holds at most, all seeds together."""
LEAST = 8
"""Points that a curve keeps at least."""
_CURVES = ("train_accuracy", "validation_accuracy", "train_loss", "validation_loss")
_SCRIPTS = ("base.js", "table.js", "charts.js", "detail.js")
_HERE = Path(__file__).with_name("html")


def page(board: Leaderboard, measured: Sequence[Record]) -> str:
    """leaderboard.html: the board, and the speed and memory of `measured` cells against length."""
    html = (_HERE / "page.html").read_text(encoding="utf-8")
    parts = {
        "{{style}}": (_HERE / "page.css").read_text(encoding="utf-8"),
        "{{script}}": "\n".join((_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS),
        "{{data}}": embedded(content(board, measured)),
    }
    for place, part in parts.items():
        html = html.replace(place, part)
    return html


def embedded(value: Any) -> str:
    r"""JSON that may stand in a script element: nothing in it can end the element ('<' is written \u003c)."""
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:  # a record edited by hand, or of a runner of one's own, may hold NaN
        text = json.dumps(_finite(value), separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


class _Pool:
    """Values that many cells share (recipes, versions, devices), each stored once and named by its place."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[int, int] = {}

    def place(self, value: Any) -> int:
        """Where `value` lies in `values`; equal values of `tidy.gather`'s records are one object."""
        if id(value) not in self._places:
            self._places[id(value)] = len(self.values)
            self.values.append(value)
        return self._places[id(value)]


def content(board: Leaderboard, measured: Sequence[Record]) -> dict[str, Any]:
    """What the page shows, as plain values."""
    curves = sum(1 for row in board.rows for s in row.scores.values() for r in s.found for _ in r.get("results", []))
    most = max(LEAST, POINTS // max(curves, 1))
    pool = _Pool()
    rows: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    groups = []
    thinned = False
    for group in board.groups:
        members = []
        for row in group.rows:
            members.append(len(rows))
            made = _row(row)
            for name, score in row.scores.items():
                made["scores"][name] = _score(row, score, board, name) | {"cells": []}
                for record in score.found:
                    cell, cut = _cell(record, pool, most)
                    thinned |= cut
                    made["scores"][name]["cells"].append(len(cells))
                    cells.append(cell)
                    points.append(_point(record, "training"))
            rows.append(made)
        groups.append(_group(group) | {"rows": members})
    points += [_point(record, "bench") for record in measured]
    return {
        "metric": selection.METRICS[board.metric],
        "explained": tables.EXPLAINED,
        "columns": {
            c.name: {"task": c.task, "length": c.length, "source": c.source, "version": c.version,
                     "fingerprint": c.fingerprint, "examples": c.examples, "majority": _digits(c.majority)}
            for c in board.columns.values()
        },
        "groups": groups,
        "rows": rows,
        "cells": cells,
        "pool": pool.values,
        "points": [point for point in points if point["steps"] or point["device"] or point["compiled"]],
        "published": [{name: text for name, text in row.items() if text} for row in published.rows()],
        "conflicts": board.lines,
        "thinned": most if thinned else None,
    }  # fmt: skip


def _group(group: Group) -> dict[str, Any]:
    return {
        "title": tables.title(group), "protocol": group.protocol, "kind": group.kind, "columns": group.columns,
        "averages": group.averages,
    }  # fmt: skip


def _row(row: Row) -> dict[str, Any]:
    return {
        "model": row.model, "protocol": row.protocol, "kind": row.kind, "overrides": row.overrides,
        "accelerator": row.accelerator, "variant": row.variant, "reasons": row.reasons, "rank": row.rank,
        "parameters": row.parameters, "scores": {},
        "averages": {name: _estimate(made) | {"best": name in row.best} for name, made in row.averages.items()},
    }  # fmt: skip


def _estimate(made: Estimate | None) -> dict[str, Any]:
    if made is None:
        return {}
    low, high = made.interval or (None, None)
    return {"mean": _digits(made.mean), "low": _digits(low), "high": _digits(high), "seeds": made.count}


def _score(row: Row, score: Score, board: Leaderboard, name: str) -> dict[str, Any]:
    theirs = published.of(row, board.columns[name])
    beside = None if theirs is None else {"value": theirs.value, "name": theirs.name, "source": theirs.source}
    return _estimate(score.estimate) | {
        "best": score.best, "lost": score.lost, "steps": _digits(score.steps_per_second),
        "device": score.memory("device_peak_bytes"), "compiled": score.memory("compiled_bytes"), "published": beside,
    }  # fmt: skip


def _point(record: Record, kind: str) -> dict[str, Any]:
    """Speed and memory of one cell, for the figures over length."""
    cell, train = record["cell"], record["recipe"].get("train") or {}
    # What two cells must share for their speed and memory to be points of one line.
    batch = "largest batch" if record.get("max_batch") else f"batch {train.get('batch')}"
    setting = [batch, train.get("precision"), " ".join(record.get("overrides", []))]
    return {
        "kind": kind, "model": cell["model"], "task": cell["task"], "length": cell["length"],
        "protocol": cell["protocol"], "accelerator": cell["accelerator"], "status": record["status"],
        "setting": " · ".join(str(part) for part in setting if part), "steps": _digits(load.solo_speed(record)),
        "device": load.solo_memory(record, "device_peak_bytes"), "compiled": load.solo_memory(record, "compiled_bytes"),
    }  # fmt: skip


def _cell(record: Record, pool: _Pool, most: int) -> tuple[dict[str, Any], bool]:
    """One record for the page, and whether a curve of it was thinned."""
    seeds, cut = [], False
    for result in load.seed_results(record):
        curve = result.get("curve") or []
        kept = _thin(curve, most)
        cut |= len(kept) < len(curve)
        drawn = {name: values for name in _CURVES if (values := _series(kept, name))}
        numbers = {name: value for name, value in result.items() if name != "curve" and value not in (None, "")}
        seeds.append(numbers | {"curve": {"step": [p.get("step") for p in kept], **drawn}})
    shared = {"recipe": record["recipe"], "data": record["data"]}
    shared |= {name: record[name] for name in ("versions", "device") if record.get(name)}
    known = {*shared, "results", "cell", "overrides", "schema"}
    own = {name: value for name, value in record.items() if name not in known and value not in (None, "", [])}
    return {"seeds": seeds, "own": own, "shared": {name: pool.place(v) for name, v in shared.items()}}, cut


def _thin(curve: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most `most` points of a curve, evenly over it, the first and last among them."""
    if len(curve) <= most:
        return curve
    return [curve[round(i * (len(curve) - 1) / (most - 1))] for i in range(most)]


def _series(points: list[dict[str, Any]], name: str) -> list[float | None]:
    """One line of a curve, to five decimals; empty where it holds no numbers."""
    values = [point.get(name) for point in points]
    try:
        return [None if v is None else round(v, 5) for v in values] if any(v is not None for v in values) else []
    except TypeError:
        return []


def _digits(value: Any) -> float | None:
    """Five significant digits: what a screen can show."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")


def _finite(value: Any) -> Any:
    """The same value with None for NaN and infinities, which JSON has not."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
