"""`UsageError`, and untrusted text made safe to print."""

from __future__ import annotations

_MAX_CHARACTERS = 1000


class UsageError(Exception):
    """A request that cannot be carried out: the user sees one line, and the exit code is 2."""


def write_error(place: object, error: OSError) -> UsageError:
    """The error to raise when `place`, a path or a flag with its path, cannot be written."""
    return UsageError(f"cannot write {place}: {error.strerror or error}")


def printable(text: str) -> str:
    r"""Escapes control characters, line ends and lone surrogates, as '\x1b' and '\n'."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: object) -> str:
    """A message as one printable line, cut after 1,000 characters."""
    line = printable(str(text).strip())
    return line if len(line) <= _MAX_CHARACTERS else f"{line[:_MAX_CHARACTERS]} … ({len(line):,} characters)"
