"""From folders of records to the leaderboard's files. Imports no JAX."""

from __future__ import annotations

import contextlib
import gc
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lra import board, export, page, records, tidy
from lra.latex import latex
from lra.recipe import UsageError, nearest
from lra.tidy import cells


def write(
    folders: Sequence[Path], out: Path, choice: tidy.Choice = tidy.EVERYTHING, figures: bool = False
) -> tuple[str, list[str]]:
    """Writes leaderboard.csv, .md, .tex and .html and cells.csv to `out`, and efficiency.csv where cells were measured.

    With `figures` also `out`/figures (lra.figures). Returns the Markdown, and a line for each file that was left out,
    each duplicate and each conflict.

    Raises:
        OSError: `out` cannot be written. What stood there before is then whole.
        UsageError: the choice names something that no record has.
    """
    with _without_collector():
        return _write_all(folders, out, choice, figures)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Python's garbage collector would walk the records again and again: a third of the time for 10,000 of them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _write_all(folders: Sequence[Path], out: Path, choice: tidy.Choice, figures: bool) -> tuple[str, list[str]]:
    found, lines = tidy.gather(folders)
    check(choice, found)
    made = board.build(found, choice)
    text = export.markdown(made)
    files = {
        "cells.csv": tidy.cells_csv([record for record in found if choice.takes(record)]),
        "leaderboard.csv": export.frame(made).to_csv(index=False, float_format="%.6g"),
        "leaderboard.md": text,
        "leaderboard.tex": latex(made),
        "leaderboard.html": page.page(made, tidy.gather(folders, records.BENCH)[0]),
    }
    _write(out, files)
    lines += made.lines
    if any((folder / records.BENCH).is_dir() for folder in folders):
        lines += write_efficiency(folders, out)[1]
    if figures:
        from lra.figures import draw  # matplotlib takes seconds to import

        draw(made, out / "figures")
    return text, lines


def check(choice: tidy.Choice, found: Sequence[records.Record]) -> None:
    """Raises `UsageError` on a choice that fits no record, naming the nearest that would."""
    cell = [record["cell"] for record in found]
    known = {
        "task": (choice.tasks, {c["task"] for c in cell}),
        "model": (choice.models, {c["model"] for c in cell} | {c.get("mixer", c["model"]) for c in cell}),
        "protocol": (choice.protocols, {c["protocol"] for c in cell}),
    }
    for what, (wanted, there) in known.items():
        for name in wanted:
            if name not in there:
                raise UsageError(f"no record has it: {nearest(what, name, sorted(there))}")
    accelerators = sorted({c["accelerator"] for c in cell})
    if not any(choice.accelerator.lower() in name.lower() for name in accelerators or [""]):
        raise UsageError(f"no record's accelerator contains '{choice.accelerator}': {'; '.join(accelerators)}")
    columns = {f"{c['task']}@{c['length']}" for c in cell} | {c["task"] for c in cell}
    if choice.sort not in (*SORTS, *columns):
        raise UsageError(f"--sort: {nearest('column', choice.sort, [*SORTS, *sorted(columns)])}")


SORTS = ("average", "model", "parameters")
"""What rows can be ordered by beside tasks and columns."""


def _number(value: Any, form: str, unit: float = 1.0) -> str:
    return "–" if value is None or math.isnan(value) else form.format(value / unit)


def _write(out: Path, files: dict[str, str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        beside = out / f".{name}.{os.getpid()}"
        beside.write_text(content, encoding="utf-8")
        os.replace(beside, out / name)


EFFICIENCY = {
    "model": "model",
    "task": "task",
    "length": "length",
    "recipe.train.batch": "batch",
    "recipe.train.precision": "precision",
    "accelerator": "accelerator",
    "status": "status",
    "train_speed.steps_per_second": "training steps/s",
    "train_speed.quartile_1": "training steps/s quartile 1",
    "train_speed.quartile_3": "training steps/s quartile 3",
    "inference_speed.steps_per_second": "inference steps/s",
    "compile_seconds": "compile s",
    "memory.device_peak_bytes": "device peak bytes",
    "memory.compiled_bytes": "compiled bytes",
    "memory.host_peak_bytes": "host peak bytes",
    "flops_per_step": "FLOPs a step",
    "parameters": "parameters",
}
"""Columns of cells.csv and their names in efficiency.csv."""


def efficiency(tidy: pd.DataFrame) -> pd.DataFrame:
    """A row a measured cell: speed and memory, by task, length and model."""
    shown = tidy.reindex(columns=list(EFFICIENCY)).rename(columns=EFFICIENCY)
    return shown.sort_values(["task", "length", "model", "accelerator"], kind="stable", ignore_index=True)


def write_efficiency(folders: Sequence[Path], out: Path) -> tuple[str, list[str]]:
    """Writes efficiency.csv of the folders' measurements; returns a Markdown table and what was left out."""
    found, problems = tidy.gather(folders, records.BENCH)
    board = efficiency(cells(found))
    _write(out, {"efficiency.csv": board.to_csv(index=False)})
    shown = board[["task", "length", "model", "accelerator", "batch", "status"]].astype(str)
    for name in ("training steps/s", "inference steps/s"):
        shown[name] = board[name].map(lambda v: _number(v, "{:.3g}"))
    shown["compiled MB"] = board["compiled bytes"].map(lambda v: _number(v, "{:,.0f}", 1e6))
    return export.grid(list(shown.columns), shown.values.tolist()), problems
