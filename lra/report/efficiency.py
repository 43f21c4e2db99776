"""From records of measurements to the table of efficiency.csv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lra.report import markdown
from lra.results import records

COLUMNS = {
    "model": "cell.model",
    "task": "cell.task",
    "length": "cell.length",
    "batch": "recipe.train.batch",
    "precision": "recipe.train.precision",
    "protocol": "cell.protocol",
    "overrides": "overrides",
    "accelerator": "cell.accelerator",
    "devices": "device.used",
    "status": "status",
    "searched": "max_batch",
    "memory limit bytes": "memory_limit_bytes",
    "training steps/s": "train_speed.steps_per_second",
    "training steps/s quartile 1": "train_speed.quartile_1",
    "training steps/s quartile 3": "train_speed.quartile_3",
    "training examples/s": "train_speed.examples_per_second",
    "training tokens/s": "train_speed.tokens_per_second",
    "inference steps/s": "inference_speed.steps_per_second",
    "inference steps/s quartile 1": "inference_speed.quartile_1",
    "inference steps/s quartile 3": "inference_speed.quartile_3",
    "inference examples/s": "inference_speed.examples_per_second",
    "inference tokens/s": "inference_speed.tokens_per_second",
    "compile s": "compile_seconds",
    "device peak bytes": "memory.device_peak_bytes",
    "compiled bytes": "memory.compiled_bytes",
    "host peak bytes": "memory.host_peak_bytes",
    "FLOPs a step": "flops_per_step",
    "FLOPs a step, compiler": "flops_compiler",
    "MFU": "mfu",
    "energy J/step": "energy_per_step_joules",
    "parameters": "parameters",
    "error": "error",
    "key": "key",
    "commit": "commit",
    "created": "created",
}
"""Columns of efficiency.csv, and where a record holds what stands in them."""
SETTING = (
    "task", "length", "batch", "precision", "protocol", "overrides", "accelerator", "devices", "memory limit bytes",
)  # fmt: skip
"""Two models' figures are compared where all of these are equal."""
BASELINE = "transformer"
SPEEDUPS = {
    "training speed-up vs transformer": "training steps/s",
    "inference speed-up vs transformer": "inference steps/s",
}
_TEXT_COLUMNS = {"model", "task", "precision", "protocol", "overrides", "accelerator", "status", "error", "key", "commit",
          "created"}  # fmt: skip


def to_frame(found: Sequence[records.Record]) -> pd.DataFrame:
    """A row a measured cell with the columns of `COLUMNS`, and its speed over the Transformer's at the same setting.

    'searched' says that the largest batch was looked for; 'max batch' is then what was found. A speed-up is empty where
    the Transformer has not been measured at the same task, length, batch, precision, protocol, overrides and
    accelerator.
    """
    rows = [{column: _lookup(record, path) for column, path in COLUMNS.items()} for record in found]
    board = pd.DataFrame(rows, columns=list(COLUMNS))
    for column in board:
        if column not in _TEXT_COLUMNS:
            board[column] = board[column].astype(float)
    board["overrides"] = [" ".join(words) for words in board["overrides"]]
    board["searched"] = board["searched"].fillna(0) > 0
    board["max batch"] = board["batch"].where(board["searched"] & (board["status"] == "ok"))
    board["devices"] = board["devices"].fillna(1)
    setting = pd.Series([str(row) for row in board[list(SETTING)].itertuples(index=False)], board.index, dtype=object)
    for column, speed in SPEEDUPS.items():
        baseline = board[(board["model"] == BASELINE) & board[speed].notna()].groupby(setting)[speed].median()
        board[column] = board[speed] / setting.map(baseline).astype(float)
    whole = {name: "Int64" for name in ("length", "batch", "devices", "max batch", "memory limit bytes", "parameters")}
    board = board.astype(whole | {name: "Int64" for name in board if str(name).endswith(" bytes")})
    by = ["task", "protocol", "accelerator", "length", "model", "batch", "created"]
    return board.sort_values(by, kind="stable", ignore_index=True)


def _lookup(record: records.Record, path: str) -> Any:
    value: Any = record
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def to_markdown(board: pd.DataFrame) -> str:
    """The table for people."""
    if board.empty:
        return "No measurements yet.\n"
    names = ["task", "length", "model", "protocol", "accelerator", "batch", "status"]
    shown = board[[n for n in names if n in ("length", "model", "status") or board[n].nunique() > 1]].astype(str)
    if board["max batch"].notna().any():
        shown["largest batch"] = ["–" if pd.isna(n) else f"{n:,}" for n in board["max batch"]]
    columns = {
        "training steps/s": ("training steps/s", "{:.3g}", 1.0),
        "× transformer": ("training speed-up vs transformer", "{:.2f}", 1.0),
        "inference steps/s": ("inference steps/s", "{:.3g}", 1.0),
        "inference × transformer": ("inference speed-up vs transformer", "{:.2f}", 1.0),
        "MFU %": ("MFU", "{:.1f}", 0.01),
        "J/step": ("energy J/step", "{:.3g}", 1.0),
        "device MB": ("device peak bytes", "{:,.0f}", 1e6),
        "compiled MB": ("compiled bytes", "{:,.0f}", 1e6),
    }
    for title, (column, form, unit) in columns.items():
        if board[column].notna().any():
            shown[title] = [markdown.format_number(None if pd.isna(v) else v, form, unit) for v in board[column]]
    return markdown.from_frame(shown)
