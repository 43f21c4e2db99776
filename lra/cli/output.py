"""Lines for the user: progress on standard output, problems on standard error."""

from __future__ import annotations

import sys

from lra.errors import one_line, printable


def print_line(text: str) -> None:
    """Prints a line that is seen at once, even if the output is a file or a pipe; what it names may be untrusted."""
    print(printable(text), flush=True)


def print_problem(verb: str, problem: object) -> None:
    """Prints one line that says which verb has a problem, and which."""
    print(f"run.py {verb}: {one_line(problem)}", file=sys.stderr)
