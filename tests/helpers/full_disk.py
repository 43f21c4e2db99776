"""A disk that fills up."""

import subprocess
import sys
from pathlib import Path

from tests.helpers.cli import ROOT


def fills_up(program: str, place: Path) -> None:
    """A program that prints an error tells in one line that the disk of `place`, with room for 60 kB, is full."""
    done = _limited(program, 60_000)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"cannot write {place}") and done.stdout.count("\n") == 1
    assert "File too large" in done.stdout


def _limited(program: str, size: int) -> subprocess.CompletedProcess[str]:
    """Runs a program whose files can grow to about `size` bytes: to it, the disk is full then.

    By the shell's limit: forking this process, in which JAX has threads, is not safe. Python ignores the signal.
    """
    shell = ["bash", "-c", 'ulimit -f "$1"; shift; exec "$@"', "bash", str(size // 1024)]
    command = [*shell, sys.executable, "-B", "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
