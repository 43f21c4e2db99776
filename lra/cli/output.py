"""Lines for the user: progress on standard output, problems on standard error."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

from lra.errors import one_line, printable


def print_line(text: str) -> None:
    """Prints a line that is seen at once, even if the output is a file or a pipe; what it names may be untrusted."""
    print(printable(text), flush=True)


def print_problem(verb: str, problem: object) -> None:
    """Prints one line that says which verb has a problem, and which."""
    print(f"run.py {verb}: {one_line(problem)}", file=sys.stderr)


def make_tolerant() -> None:
    """Makes this process's output tolerant: a grid of days must not end because a line cannot be printed.

    Characters that the encoding lacks become '?'. What is printed to a closed pipe or terminal, or a full disk, is
    lost. An output that the process was started without is the null device.
    """
    sys.stdout = _tolerant(sys.stdout)
    sys.stderr = _tolerant(sys.stderr)


def _tolerant(stream: Any) -> Any:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, _Tolerant):
        settings = {name: getattr(stream, name) for name in ("encoding", "line_buffering", "write_through")}
        return _Tolerant(stream.detach(), errors="replace", **settings)
    return stream


_GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO)
"""Errors of an output that will not come back, as of a pipe whose reader has ended, or of a closed terminal."""


class _Tolerant(io.TextIOWrapper):
    """Text output that never fails."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if error.errno in _GONE:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
