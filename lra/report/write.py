"""Writes the leaderboard's and benchmark's files from folders of records."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

from lra.errors import UsageError
from lra.report import (
    calibration_figure,
    calibration_text,
    charts,
    efficiency,
    figures,
    html_page,
    leaderboard,
    mixer_code,
    selection,
    styles,
    tables,
)
from lra.report.calibration import calibrate
from lra.report.latex import to_latex
from lra.results import load, records
from tasks.io.files import write_whole


def write_leaderboard(
    folders: Sequence[Path], out: Path, choice: selection.Selection = selection.ALL, plots: bool = False
) -> tuple[str, list[str]]:
    """Writes leaderboard.csv, .md, .tex and .html and cells.csv, and efficiency.csv if there are benchmarks.

    Args:
        folders: results folders.
        out: folder to write to.
        choice: the records to show; benchmarks are always shown in full.
        plots: whether to write figures to `out`/plots as well.

    Returns:
        The Markdown, and one line for each file left out, each duplicate and each conflict. Without a record to show,
        the Markdown is empty and nothing is written: good tables are not replaced by empty ones.

    Raises:
        OSError: `out` cannot be written. Each file there is then still complete.
        UsageError: no record has what the choice names.
    """
    with _without_collector():
        return _write_all(folders, out, choice, plots)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Pauses the garbage collector: its repeated walks over 10,000 records would take a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _write_all(folders: Sequence[Path], out: Path, choice: selection.Selection, plots: bool) -> tuple[str, list[str]]:
    loaded, lines = load.load_records(folders)
    selection.check(choice, loaded)
    chosen = [record for record in loaded if choice.includes(record)]
    benchmarks, problems = _load_measurements(folders)
    if loaded and not chosen:
        raise UsageError("no record fits all of --tasks, --models, --protocol and --accelerator together")
    if not chosen and not benchmarks:
        return "", lines
    built = leaderboard.build(loaded, choice)
    built.conflicts += mixer_code.outdated(chosen)
    text = tables.to_markdown(built, benchmarks)
    files = {"leaderboard.html": html_page.to_html(built, benchmarks)}
    if chosen:
        files |= {
            "cells.csv": tables.cells_csv(chosen),
            "leaderboard.csv": tables.to_frame(built).to_csv(index=False, float_format="%.6g"),
            "leaderboard.md": text,
            "leaderboard.tex": to_latex(built),
        }
    write_files(out, files)
    lines += built.conflicts
    lines += problems
    if benchmarks:
        _write_measurements(benchmarks, out, plots)
    if plots:
        _draw(figures.of_leaderboard(built, benchmarks), out / "plots")
    return text, lines


def write_efficiency(folders: Sequence[Path], out: Path, draw: bool = True) -> tuple[str, list[str]]:
    """Writes efficiency.csv and, if `draw`, the benchmark's figures.

    Args:
        folders: results folders.
        out: folder to write to.
        draw: whether to write figures to `out`/plots as well.

    Returns:
        A Markdown table, and one line for each file left out and each duplicate. Without a record, nothing is written.

    Raises:
        OSError: `out` cannot be written.
    """
    benchmarks, problems = _load_measurements(folders)
    return _write_measurements(benchmarks, out, draw) if benchmarks else "", problems


def write_calibration(folders: Sequence[Path], out: Path, protocol: str) -> tuple[str, list[str]]:
    """Writes calibration.csv and .md and the figure: a protocol's scores beside published ones of the full-size tasks.

    Args:
        folders: results folders.
        out: folder to write to.
        protocol: of the records that count.

    Returns:
        The Markdown, and one line for each file left out, each duplicate and each conflict.

    Raises:
        OSError: `out` cannot be written. Each file there is then still complete.
        UsageError: there are too few scores to compare; nothing is written.
    """
    loaded, lines = load.load_records(folders)
    choice = selection.Selection(protocols=(protocol,))
    selection.check(choice, loaded)
    built = leaderboard.build(loaded, choice)
    calibration = calibrate(built)
    text = calibration_text.to_markdown(calibration, protocol)
    frame = calibration_text.to_frame(calibration)
    write_files(out, {"calibration.csv": frame.to_csv(index=False, float_format="%.6g"), "calibration.md": text})
    from lra.report import canvas  # matplotlib takes seconds to import

    canvas.save(calibration_figure.make(calibration, protocol), out)
    return text, lines + built.conflicts


def _load_measurements(folders: Sequence[Path]) -> tuple[list[records.Record], list[str]]:
    """The measurements that count, and one line for each file left out and each duplicate."""
    loaded, problems = load.load_records(folders, records.BENCH)
    current = efficiency.latest(loaded)
    if len(current) < len(loaded):
        problems.append(f"left out: {len(loaded) - len(current)} measurements that were made again later")
    return current, problems


def _write_measurements(benchmarks: Sequence[records.Record], out: Path, draw: bool) -> str:
    frame = efficiency.to_frame(benchmarks)
    write_files(out, {"efficiency.csv": frame.to_csv(index=False, float_format="%.6g")})
    if draw:
        _draw(figures.over_length(frame, styles.assign_styles(frame["model"])), out / "plots")
    return efficiency.to_markdown(frame)


def _draw(made: Sequence[charts.Figure], folder: Path) -> None:
    from lra.report import canvas  # matplotlib takes seconds to import

    for figure in made:
        canvas.save(figure, folder)


def write_files(out: Path, files: dict[str, str]) -> None:
    """Writes files to the folder `out`, each atomically. Raises `OSError`."""
    for name, content in files.items():
        write_whole(out / name, content.encode())
