"""What the command line's verbs about results do: leaderboard, show, compare. Imports no JAX."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lra import inspect, tidy
from lra import leaderboard as tables
from lra.recipe import UsageError
from lra.text import one_line

MOST_LINES = 20
"""Damaged files, duplicates and conflicts that are named one by one; the rest is counted."""


def choice(f: Any) -> tidy.Choice:
    """The choice of cells that flags ask for; `f` may lack --models and --sort."""
    return tidy.Choice(
        tuple(f.tasks), tuple(f.models if "models" in f else ()), tuple(f.protocol), f.accelerator, f.metric,
        f.sort if "sort" in f else "average",
    )  # fmt: skip


def leaderboard(folders: Sequence[Path], out: Path, choice: tidy.Choice, plots: bool) -> int:
    """Writes the tables, the page and (if `plots`) the figures to `out`, and prints the leaderboard."""
    _exist(folders)
    try:
        text, lines = tables.write(folders, out, choice, plots)
    except OSError as error:
        raise UsageError(f"cannot write --out={out}: {error.strerror}") from None
    _tell("leaderboard", lines)
    names = ", ".join(f"{out}/leaderboard.{ending}" for ending in ("csv", "md", "tex", "html"))
    print(f"\n{text}\n{names}, {out}/cells.csv{f', {out}/plots' if plots else ''}")
    return 0


def show(folders: Sequence[Path], names: Sequence[str]) -> int:
    """Prints one cell's record."""
    if len(names) != 1:
        raise UsageError("show takes one cell: a file, or any part of its name or key that fits only one")
    print(inspect.show(inspect.find(folders, names[0])))
    return 0


def compare(folders: Sequence[Path], names: Sequence[str], choice: tidy.Choice) -> int:
    """Prints two models side by side."""
    if len(names) != 2 or names[0] == names[1]:
        raise UsageError("compare takes two models: compare fnet transformer")
    _exist(folders)
    found, lines = tidy.gather(folders)
    tables.check(choice, found)
    _tell("compare", lines)
    print(inspect.compare(found, names[0], names[1], choice))
    return 0


def _exist(folders: Sequence[Path]) -> None:
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"no records in {folder}: run cells first, or give their folder with --results")


def _tell(verb: str, lines: Sequence[str]) -> None:
    for line in lines[:MOST_LINES]:
        print(f"run.py {verb}: {one_line(line)}", file=sys.stderr)
    if len(lines) > MOST_LINES:
        print(f"run.py {verb}: and {len(lines) - MOST_LINES} more such lines", file=sys.stderr)
