"""A table of a page of the docs, and where it stands."""

from __future__ import annotations

import re
from typing import NamedTuple


class Table(NamedTuple):
    """A table of a page."""

    page: str
    heading: str
    header: tuple[str, ...]
    rows: list[list[str]]

    @property
    def lines(self) -> list[str]:
        """The table in Markdown, without padding; all columns but the first are numbers."""
        rule = ["---", *("---:" for _ in self.header[1:])]
        body = (f"| {' | '.join(row)} |".replace("|  |", "| |") for row in self.rows)
        return [_first_line(self), f"|{'|'.join(rule)}|", *body]


def rewritten(text: str, table: Table) -> str:
    """A page with this table in place of the one under the same heading with the same first line.

    Raises:
        ValueError: there is no such heading, or no such table under it.
    """
    lines = text.split("\n")
    marks = [place for place, line in enumerate(lines) if re.fullmatch(rf"#+ {re.escape(table.heading)}", line)]
    if not marks:
        raise ValueError(f"{table.page} has no heading '{table.heading}'")
    first = _first_line(table)
    start = next((place for place in range(marks[0] + 1, len(lines)) if lines[place] == first), None)
    if start is None or any(line.startswith("#") for line in lines[marks[0] + 1 : start]):
        raise ValueError(f"{table.page} has no table under '{table.heading}' that begins with {first}")
    end = next(
        place for place in range(start, len(lines) + 1) if place == len(lines) or not lines[place].startswith("|")
    )
    return "\n".join([*lines[:start], *table.lines, *lines[end:]])


def _first_line(table: Table) -> str:
    return f"| {' | '.join(table.header)} |"
