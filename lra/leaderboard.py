"""From folders of records to the leaderboard's files. Imports no JAX."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

from lra import board, export, page, records, tables, tidy
from lra.latex import latex
from lra.recipe import UsageError, nearest


def write(
    folders: Sequence[Path], out: Path, choice: tidy.Choice = tidy.EVERYTHING, plots: bool = False
) -> tuple[str, list[str]]:
    """Writes leaderboard.csv, .md, .tex and .html and cells.csv to `out`, and efficiency.csv where cells were measured.

    With `plots` also `out`/plots (lra.figures). Returns the Markdown, and a line for each file that was left out,
    each duplicate and each conflict.

    Raises:
        OSError: `out` cannot be written. What stood there before is then whole.
        UsageError: the choice names something that no record has.
    """
    with _without_collector():
        return _write_all(folders, out, choice, plots)


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


def _write_all(folders: Sequence[Path], out: Path, choice: tidy.Choice, plots: bool) -> tuple[str, list[str]]:
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
    tables.write(out, files)
    lines += made.lines
    if any((folder / records.BENCH).is_dir() for folder in folders):
        from lra import efficiency

        lines += efficiency.write(folders, out, plots)[1]
    if plots:
        from lra import figures  # matplotlib takes seconds to import

        figures.draw(made, out / "plots")
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
