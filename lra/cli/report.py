"""The verbs that read results: status, leaderboard, show, compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lra.cli.arguments import ReportArguments
from lra.cli.output import print_problem
from lra.errors import UsageError, write_error

_MAX_LINES = 20
"""Damaged files, duplicates and conflicts that are printed; further ones are only counted."""


def status(results: Path) -> int:
    """Prints which cells of a results folder are done, running, failed or left, and the estimated time left."""
    from lra.results import runs

    rows, line = runs.status(results)
    print(f"{runs.format_table(rows)}\n\n{line}")
    return 0


def leaderboard(args: ReportArguments) -> int:
    """Writes the tables, the page and the figures of results folders, and prints the leaderboard."""
    from lra.report import write  # pandas takes a second to import

    _require_folders(args.folders)
    try:
        text, lines = write.write_leaderboard(args.folders, args.out, args.selection, args.plots)
    except OSError as error:
        raise write_error(f"--out={args.out}", error) from None
    _print_problems("leaderboard", lines)
    names = ", ".join(f"{args.out}/leaderboard.{ending}" for ending in ("csv", "md", "tex", "html"))
    print(f"\n{text}\n{names}, {args.out}/cells.csv{f', {args.out}/plots' if args.plots else ''}")
    return 0


def show(args: ReportArguments, names: Sequence[str]) -> int:
    """Prints one record: `show CELL`, with a file, or any unique part of its name or key."""
    from lra.report import show as show_text

    if len(names) != 1:
        raise UsageError("show takes one cell: a file, or any unique part of its name or key")
    print(show_text.record_text(show_text.find_record(args.folders, names[0])))
    return 0


def compare(args: ReportArguments, names: Sequence[str]) -> int:
    """Prints two models side by side for each task, with a test of their difference: `compare A B`."""
    from lra.report import selection
    from lra.report import show as show_text
    from lra.results import load

    if len(names) != 2 or names[0] == names[1]:
        raise UsageError("compare takes two models: compare fnet transformer")
    _require_folders(args.folders)
    records, lines = load.load_records(args.folders)
    selection.check(args.selection, records)
    _print_problems("compare", lines)
    print(show_text.comparison_text(records, names[0], names[1], args.selection))
    return 0


def _require_folders(folders: Sequence[Path]) -> None:
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"no records in {folder}: run cells first, or give their folder with --results")


def _print_problems(verb: str, lines: Sequence[str]) -> None:
    for line in lines[:_MAX_LINES]:
        print_problem(verb, line)
    if len(lines) > _MAX_LINES:
        print_problem(verb, f"and {len(lines) - _MAX_LINES} more such lines")
