"""The verbs that read results: status, leaderboard, calibrate, show, compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from lra.cli.arguments import CalibrateArguments, ReportArguments
from lra.cli.output import print_problem
from lra.errors import UsageError, write_error
from lra.results import records

_MAX_LINES = 20
"""Damaged files, duplicates and conflicts that are printed; further ones are only counted."""


def status(results: Path) -> int:
    """Prints which cells of a results folder are done, running, failed or left, and the estimated time left."""
    from lra.results import runs

    rows, line = runs.status(find_results((results,))[0])
    print(f"{runs.format_table(rows)}\n\n{line}")
    return 0


def leaderboard(args: ReportArguments) -> int:
    """Writes the tables, the page and the figures of results folders, and prints the leaderboard."""
    folders = find_records(args.folders)
    if not write_tables(dataclasses.replace(args, folders=folders)):
        raise UsageError(f"no record can be shown: {args.out} is left as it is")
    return 0


def write_tables(args: ReportArguments) -> bool:
    """Writes and prints the leaderboard; returns False, and writes nothing, if there is no record to show."""
    from lra.report import write  # pandas takes a second to import

    try:
        text, lines = write.write_leaderboard(args.folders, args.out, args.selection, args.plots)
    except OSError as error:
        raise write_error(f"--out={args.out}", error) from None
    print_problems("leaderboard", lines)
    if text:
        names = ", ".join(f"{args.out}/leaderboard.{ending}" for ending in ("csv", "md", "tex", "html"))
        print(f"\n{text}\n{names}, {args.out}/cells.csv{f', {args.out}/plots' if args.plots else ''}")
    return bool(text)


def calibrate(args: CalibrateArguments) -> int:
    """Compares a protocol's scores with published ones: rank correlations over models, a table and a figure."""
    from lra.report import write  # pandas takes a second to import

    try:
        text, lines = write.write_calibration(find_records(args.folders), args.out, args.protocol)
    except OSError as error:
        raise write_error(f"--out={args.out}", error) from None
    print_problems("calibrate", lines)
    names = ", ".join(f"{args.out}/calibration.{ending}" for ending in ("csv", "md", "png", "svg", "pdf"))
    print(f"\n{text}\n{names}")
    return 0


def show(args: ReportArguments, names: Sequence[str]) -> int:
    """Prints one record: `show CELL`, with a file, or any unique part of its name or key."""
    from lra.report import show as show_text

    if len(names) != 1:
        raise UsageError("show takes one cell: a file, or any unique part of its name or key")
    folders = args.folders if Path(names[0]).is_file() else find_records(args.folders)
    print(show_text.record_text(show_text.find_record(folders, names[0])))
    return 0


def compare(args: ReportArguments, names: Sequence[str]) -> int:
    """Prints two models side by side for each task, with a test of their difference: `compare A B`."""
    from lra.report import selection
    from lra.report import show as show_text
    from lra.results import load

    if len(names) != 2 or names[0] == names[1]:
        raise UsageError("compare takes two models: compare fnet transformer")
    loaded, lines = load.load_records(find_records(args.folders))
    selection.check(args.selection, loaded)
    print_problems("compare", lines)
    print(show_text.comparison_text(loaded, names[0], names[1], args.selection))
    return 0


def find_results(folders: Sequence[Path]) -> tuple[Path, ...]:
    """The results folders that the user means: a folder within one, such as `records`, stands for it.

    Raises:
        UsageError: a folder is not there or holds no records; names the folders below it that do.
    """
    return tuple(map(_find_results, folders))


def find_records(sources: Sequence[Path]) -> tuple[Path, ...]:
    """The results folders and archives that the user means, as `find_results`.

    Raises:
        UsageError: a folder is not there or holds no records. Archives are looked at when they are read.
    """
    return tuple(source if source.is_file() else _find_results(source) for source in sources)


def _find_results(folder: Path) -> Path:
    if folder.is_file():
        raise UsageError(f"{folder} is a file, and this takes the folder of a run")
    kinds = {records.RESULTS, records.BENCH, "grids"}
    if any((folder / kind).is_dir() for kind in kinds):
        return folder
    if folder.is_dir() and folder.resolve().name in kinds:
        return folder.resolve().parent
    below = [child for child in sorted(folder.glob("*/")) if any((child / kind).is_dir() for kind in kinds)]
    hint = (
        f": --results={','.join(map(str, below))}"
        if below
        else ": run cells first, or give their folder with --results"
    )
    raise UsageError(f"no records in {folder}{', but below it' if below else ''}{hint}")


def print_problems(verb: str, lines: Sequence[str]) -> None:
    """Prints what was left out of tables and archives, and how many more lines there are after the first."""
    for line in lines[:_MAX_LINES]:
        print_problem(verb, line)
    if len(lines) > _MAX_LINES:
        print_problem(verb, f"and {len(lines) - _MAX_LINES} more such lines")
