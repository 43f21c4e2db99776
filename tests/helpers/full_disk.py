"""A disk that fills up."""

import subprocess
import sys

from tests.helpers.cli import ROOT


def limited(program: str, size: int) -> subprocess.CompletedProcess[str]:
    """Runs a program whose files can grow to about `size` bytes: to it, the disk is full then.

    By the shell's limit: forking this process, in which JAX has threads, is not safe. Python ignores the signal.
    """
    shell = ["bash", "-c", 'ulimit -f "$1"; shift; exec "$@"', "bash", str(size // 1024)]
    command = [*shell, sys.executable, "-B", "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
