"""Speed and memory: benchmark records as the table of efficiency.csv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lra.report import markdown
from lra.results.records import Record

COLUMNS = {
    "model": "cell.model",
    "task": "cell.task",
    "length": "cell.length",
    "positions": "recipe.encoder.pool",
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
"""Columns of efficiency.csv, and the path of each in a record. 'positions' are those that mixers see: the length, and
one more where the recipe pools by a CLS token."""
SETTING = (
    "task", "length", "batch", "precision", "protocol", "overrides", "accelerator", "devices", "memory limit bytes",
)  # fmt: skip
"""Two models are compared only where all of these are equal."""
BASELINE = "transformer"
SPEEDUPS = {
    "training speed-up vs transformer": "training steps/s",
    "inference speed-up vs transformer": "inference steps/s",
}
_NUMBERS = (int, float)
_LARGEST = 1e18
"""Numbers from there on are junk, and as bytes would not fit into 64 bits."""
_TEXT_COLUMNS = {
    "model", "task", "precision", "protocol", "overrides", "accelerator", "status", "error", "key", "commit", "created",
}  # fmt: skip


def latest(records: Sequence[Record]) -> list[Record]:
    """The records without those of a measurement that was made again later, after its code or recipe had changed."""
    columns = [COLUMNS[name] for name in ("model", *SETTING, "searched")]
    kept: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: str(record.get("created"))):
        kept[str([_lookup(record, path) for path in columns])] = record
    current = {id(record) for record in kept.values()}
    return [record for record in records if id(record) in current]


def to_frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row per benchmarked cell: the columns of `COLUMNS`, and speed-ups over the Transformer at the same `SETTING`.

    'searched' marks cells that searched for the largest batch that fits; 'max batch' is the result. A speed-up is empty
    where the Transformer was not benchmarked at the same setting.
    """
    rows = [{column: _read(record, column) for column in COLUMNS} for record in records]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    for column in frame:
        if column not in _TEXT_COLUMNS:
            frame[column] = frame[column].astype(float)
    frame["overrides"] = [" ".join(words) for words in frame["overrides"]]
    frame["searched"] = frame["searched"].fillna(0) > 0
    frame["max batch"] = frame["batch"].where(frame["searched"] & (frame["status"] == "ok"))
    frame["devices"] = frame["devices"].fillna(1)
    setting = pd.Series([str(row) for row in frame[list(SETTING)].itertuples(index=False)], frame.index, dtype=object)
    for column, speed in SPEEDUPS.items():
        baseline = frame[(frame["model"] == BASELINE) & frame[speed].notna()].groupby(setting)[speed].median()
        frame[column] = frame[speed] / setting.map(baseline).astype(float)
    integers = {
        name: "Int64"
        for name in ("length", "positions", "batch", "devices", "max batch", "memory limit bytes", "parameters")
    }
    frame = frame.astype(integers | {name: "Int64" for name in frame if str(name).endswith(" bytes")})
    by = ["task", "protocol", "accelerator", "length", "model", "batch", "created"]
    return frame.sort_values(by, kind="stable", ignore_index=True)


def _read(record: Record, column: str) -> Any:
    """A column's text or number; None for what is neither, or no such number, in a record that was edited by hand."""
    value = _lookup(record, COLUMNS[column])
    if column == "overrides":
        return value or []
    if column == "positions":
        length = _read(record, "length")
        return None if length is None else length + (value == "cls")
    if column in _TEXT_COLUMNS:
        return None if value is None else str(value)
    return value if isinstance(value, _NUMBERS) and abs(value) < _LARGEST else None


def _lookup(record: Record, path: str) -> Any:
    value: Any = record
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def to_markdown(frame: pd.DataFrame) -> str:
    """The table for people: columns that vary and have values."""
    if frame.empty:
        return "No measurements yet.\n"
    names = ["task", "length", "positions", "model", "protocol", "accelerator", "batch", "status"]
    always = ("length", "positions", "model", "status")
    shown = frame[[n for n in names if n in always or frame[n].nunique() > 1]].astype(str)
    if frame["max batch"].notna().any():
        shown["largest batch"] = ["–" if pd.isna(n) else f"{n:,}" for n in frame["max batch"]]
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
        if frame[column].notna().any():
            shown[title] = [markdown.format_number(None if pd.isna(v) else v, form, unit) for v in frame[column]]
    return markdown.from_frame(shown)
