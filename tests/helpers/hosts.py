"""Runs on several hosts, here processes of this machine: a leader and a follower."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cli import places, start
from tests.helpers.held import Hold
from tests.helpers.waiting import SECONDS

QUICK = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
"""Variables with which compiling takes less time: JAX keeps the programs of the first process alone, so the others
compile each anew."""


@contextlib.contextmanager
def run_of(
    folder: Path, port: int, process: int, *more: str, hold: Hold | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A run that is one of two processes, with a results folder of its own; killed at the block's end."""
    env = (hold.env if hold else os.environ) | QUICK
    where = [word for word in places(folder) if not (process and word.startswith("--results="))]
    where += [f"--results={folder}/other"] * bool(process)
    which = [f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={process}"]
    with start("run", *more, *where, *which, env=env) as run:
        try:
            yield run
        finally:
            run.kill()


def ended(run: subprocess.Popen[str], code: int = 0) -> str:
    """Waits for a run, checks its exit code, and returns its output."""
    out, err = run.communicate(timeout=SECONDS)
    assert run.returncode == code, (out, err)
    return out + err


def assert_alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two records have the same results but for rounding."""
    assert one["status"] == other["status"] == "ok"
    for a, b in zip(one["results"], other["results"], strict=True):
        assert len(a["curve"]) == len(b["curve"]) > 0
        for p, q in zip(a["curve"], b["curve"], strict=True):
            assert p == pytest.approx(q, rel=1e-4, abs=1e-6)
        assert (a["test_best"], a["test_last"]) == pytest.approx((b["test_best"], b["test_last"]), abs=1e-6)
