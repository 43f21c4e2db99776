"""Markdown tables."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from lra.errors import printable


def from_frame(frame: pd.DataFrame) -> str:
    """Formats a frame as a Markdown table whose columns line up."""
    return make_table(list(frame.columns), frame.values.tolist())


def make_table(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """Formats a header and lines as a Markdown table whose columns line up."""
    cells = [[escape(str(cell)) for cell in line] for line in [header, *lines]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    rows = [" | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    return "".join(f"| {row} |\n" for row in rows)


def escape(text: str) -> str:
    """Escapes text so that Markdown shows it verbatim, on one line: no markup, link, image or new column."""
    return re.sub(r"[\\|`]|<(?=[A-Za-z/!?])|(?<=\])\(", r"\\\g<0>", printable(" ".join(text.split("\n"))))


def format_number(value: Any, form: str, unit: float = 1.0) -> str:
    """Formats a number in units of `unit`; a dash for None or NaN."""
    return "–" if value is None or math.isnan(value) else form.format(value / unit)
