"""Text of others on a terminal: what it would obey is shown instead. Imports nothing."""

from __future__ import annotations

_LONGEST = 1000


class UsageError(Exception):
    """Something asked for that can't be done: one line for the user, exit code 2."""


def printable(text: str) -> str:
    r"""The text with control characters, line ends and half characters written out, as '\x1b' and '\n'."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: object) -> str:
    """A message as one printable line, cut where it is too long to be read."""
    line = printable(str(text).strip())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} … ({len(line):,} characters)"
