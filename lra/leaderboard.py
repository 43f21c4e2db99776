"""From records to tables: a pure function of a folder of records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lra import records, tables

ROW = ("model", "protocol", "overrides", "source", "accelerator")
"""What a row of the leaderboard is of. Results that differ in any of it are never averaged."""


def cells(found: Sequence[records.Record]) -> pd.DataFrame:
    """A row a record and seed, every field: nested names are joined by dots; the learning curve stays in the record."""
    rows = []
    for record in found:
        base = {
            **record["cell"],
            "status": record["status"],
            "error": record.get("error", ""),
            "overrides": " ".join(record["overrides"]),
            "source": record["data"]["source"],
        }
        rest = {k: record.get(k) for k in ("parameters", "flops_per_step", "compile_seconds", "wall_seconds")}
        nested = {
            k: record.get(k) or {}
            for k in ("train_speed", "inference_speed", "memory", "data", "device", "versions", "recipe")
        }
        base["seed"] = None
        base.pop("seeds")
        for result in record["results"] or [{}]:
            score = {k: v for k, v in result.items() if k != "curve"}
            tail = {k: record.get(k) for k in ("key", "commit", "created", "command")}
            rows.append(base | score | rest | _flat(nested) | tail)
    return pd.DataFrame(rows)


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, part in value.items():
        if isinstance(part, dict):
            flat |= _flat(part, f"{prefix}{name}.")
        else:
            flat[prefix + name] = "; ".join(map(str, part)) if isinstance(part, list) else part
    return flat


def table(tidy: pd.DataFrame) -> pd.DataFrame:
    """The leaderboard: a row a model × protocol × overrides × source × accelerator, best average first.

    A task's column is named task@length. It holds the mean over seeds of test accuracy (%, at the best validation
    step); 'task@length ±' the sample standard deviation over seeds, empty for one seed; 'task@length n' the number
    of seeds. Where no seed has a result, 'task@length status' says why. The average is over the tasks its name
    lists, and empty in rows that lack one of them. Within a row and task, results of different settings (another
    recipe, data fingerprint or task version) are not averaged: the later settings make a row of their own, whose
    'variant' counts from 2.
    """
    if tidy.empty:
        return pd.DataFrame(columns=[*ROW, "variant"])
    tidy = tidy.assign(column=tidy["task"] + "@" + tidy["length"].astype(str), setting=_setting(tidy))
    tidy = tidy.sort_values(["created", "key"], kind="stable")
    first = tidy.groupby([*ROW, "column"], sort=False)["setting"]
    tidy["variant"] = first.transform(lambda s: pd.factorize(s)[0] + 1)
    columns = sorted(tidy["column"].unique())
    rows = []
    for identity, group in tidy.groupby([*ROW, "variant"], sort=True):
        row: dict[str, Any] = dict(zip([*ROW, "variant"], identity, strict=True))
        for column in columns:
            row |= _column(column, group[group["column"] == column])
        means = [row[column] for column in columns]
        row[_average_name(columns)] = math.nan if any(map(math.isnan, means)) else sum(means) / len(means)
        rows.append(row)
    board = pd.DataFrame(rows)
    board = board.drop(columns=[c for c in board if str(c).endswith(" status") and board[c].isna().all()])
    order = [*ROW, "variant", _average_name(columns)]
    order += [name for column in columns for name in _column(column, tidy[:0]) if name in board]
    by = [_average_name(columns), *columns]
    return board[order].sort_values(by, ascending=False, kind="stable", ignore_index=True)


def _setting(tidy: pd.DataFrame) -> pd.Series:
    """What must be equal for two seeds' results to be averaged."""
    names = ["recipe.", "fingerprint", "task_version"]
    chosen = [c for c in tidy.columns if any(n in c for n in names)]
    return tidy[chosen].astype(str).agg("|".join, axis=1)


def _average_name(columns: Sequence[str]) -> str:
    return f"average ({', '.join(columns)})"


def _column(column: str, group: pd.DataFrame) -> dict[str, Any]:
    done = group[group["status"] == "ok"] if len(group) else group
    scores = 100 * done["test_best"].astype(float) if len(done) else pd.Series(dtype=float)
    missing = "; ".join(sorted(set(group["status"]))) if len(group) and not len(done) else None
    speeds = done["train_speed.steps_per_second"].astype(float) if len(done) else pd.Series(dtype=float)
    return {
        column: scores.mean(),
        f"{column} ±": scores.std(),
        f"{column} n": len(scores) or math.nan,
        f"{column} steps/s": speeds.median(),
        f"{column} status": missing,
    }


def markdown(board: pd.DataFrame) -> str:
    """The table for people: accuracies in % with the spread over seeds, and training steps a second."""
    if board.empty:
        return "No records yet.\n"
    columns = [c for c in board.columns if "@" in c and " " not in c]
    shown = pd.DataFrame({name: board[name].map(str) for name in ROW if board[name].astype(bool).any()})
    if (board["variant"] > 1).any():
        shown["variant"] = board["variant"].map(str)
    for column in columns:
        shown[f"{column} (%)"] = [_score(row, column) for _, row in board.iterrows()]
        shown[f"{column} steps/s"] = [
            tables.number(row.get(f"{column} steps/s"), "{:.3g}") for _, row in board.iterrows()
        ]
    if len(columns) > 1:
        shown[_average_name(columns)] = board[_average_name(columns)].map(lambda v: tables.number(v, "{:.2f}"))
    return tables.markdown(shown)


def notes(tidy: pd.DataFrame) -> str:
    """What the table's numbers are, and what always answering the most frequent class would give."""
    if "data.majority.test" not in tidy:
        return ""
    tidy = tidy.assign(column=tidy["task"] + "@" + tidy["length"].astype(str))
    share = 100 * tidy.groupby("column")["data.majority.test"].max()
    known = ", ".join(f"{column} {value:.2f}" for column, value in share.dropna().items())
    told = "\nTest accuracy at the best validation step; ± is the standard deviation over seeds."
    return f"{told} Most frequent class: {known} %.\n" if known else f"{told}\n"


def _score(row: pd.Series, column: str) -> str:
    if math.isnan(row[column]):
        status = row.get(f"{column} status")
        return status if isinstance(status, str) else "–"
    seeds, spread = int(row[f"{column} n"]), row.get(f"{column} ±", math.nan)
    if seeds == 1:
        return f"{row[column]:.2f} (1 seed)"
    return f"{row[column]:.2f} ± {spread:.2f} ({seeds} seeds)"


def write(results: Path, out: Path) -> tuple[str, list[str]]:
    """Writes leaderboard.csv, cells.csv and leaderboard.md to `out`; returns the Markdown and what was left out.

    Raises:
        OSError: `out` cannot be written. What stood there before is then whole.
    """
    found, problems = records.read_all(results)
    tidy = cells(found)
    board = table(tidy)
    text = markdown(board) + notes(tidy)
    csv = board.to_csv(index=False, float_format="%.6g")
    tables.write(out, {"cells.csv": tidy.to_csv(index=False), "leaderboard.csv": csv, "leaderboard.md": text})
    return text, problems
