"""Markdown tables."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from lra.errors import printable


def from_frame(shown: pd.DataFrame) -> str:
    """A Markdown table whose columns line up."""
    return make_table(list(shown.columns), shown.values.tolist())


def make_table(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """The same of a header and lines."""
    every = [[escape(str(cell)) for cell in line] for line in [header, *lines]]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    every.insert(1, ["-" * width for width in widths])
    rows = [" | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in every]
    return "".join(f"| {row} |\n" for row in rows)


def escape(text: str) -> str:
    """Text that Markdown shows as it stands, on one line: no markup, link, picture or new column."""
    return re.sub(r"[\\|`]|<(?=[A-Za-z/!?])|(?<=\])\(", r"\\\g<0>", printable(" ".join(text.split("\n"))))


def format_number(value: Any, form: str, unit: float = 1.0) -> str:
    """A number in units of `unit`, or a dash where there is none."""
    return "–" if value is None or math.isnan(value) else form.format(value / unit)
