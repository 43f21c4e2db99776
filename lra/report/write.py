"""From folders of records to the leaderboard's files."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

from lra.report import efficiency, html_page, leaderboard, selection, tables
from lra.report.latex import to_latex
from lra.results import load, records
from tasks.io.files import write_whole


def write_leaderboard(
    folders: Sequence[Path], out: Path, choice: selection.Selection = selection.ALL, plots: bool = False
) -> tuple[str, list[str]]:
    """Writes leaderboard.csv, .md, .tex and .html and cells.csv to `out`, and efficiency.csv where cells were measured.

    With `plots` also `out`/plots (`figures`). Returns the Markdown, and a line for each file that was left out,
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


def _write_all(folders: Sequence[Path], out: Path, choice: selection.Selection, plots: bool) -> tuple[str, list[str]]:
    found, lines = load.load_records(folders)
    selection.check(choice, found)
    made = leaderboard.build(found, choice)
    text = tables.to_markdown(made)
    files = {
        "cells.csv": tables.cells_csv([record for record in found if choice.includes(record)]),
        "leaderboard.csv": tables.to_frame(made).to_csv(index=False, float_format="%.6g"),
        "leaderboard.md": text,
        "leaderboard.tex": to_latex(made),
        "leaderboard.html": html_page.to_html(made, load.load_records(folders, records.BENCH)[0]),
    }
    write_files(out, files)
    lines += made.conflicts
    if any((folder / records.BENCH).is_dir() for folder in folders):
        lines += write_efficiency(folders, out, plots)[1]
    if plots:
        from lra.report import figures  # matplotlib takes seconds to import

        figures.draw_leaderboard(made, out / "plots")
    return text, lines


def write_efficiency(folders: Sequence[Path], out: Path, draw: bool = True) -> tuple[str, list[str]]:
    """Writes efficiency.csv and, if `draw`, the plots of the measurements in several results folders.

    Returns: a Markdown table, and a line for each file left out and each duplicate.

    Raises:
        OSError: `out` cannot be written.
    """
    found, problems = load.load_records(folders, records.BENCH)
    board = efficiency.to_frame(found)
    write_files(out, {"efficiency.csv": board.to_csv(index=False, float_format="%.6g")})
    if draw:
        from lra.report import figures  # matplotlib takes seconds to import

        figures.draw_all_efficiency(board, out / "plots")
    return efficiency.to_markdown(board), problems


def write_files(out: Path, files: dict[str, str]) -> None:
    """Writes files to the folder `out`, each whole or not at all. Raises `OSError`."""
    for name, content in files.items():
        write_whole(out / name, content.encode())
