"""Waiting for a condition, with an end that only a test that hangs reaches."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.helpers.cli import checkpoints

Found = TypeVar("Found")
SECONDS = 900
"""Far more than anything here takes beside other work."""


def until(condition: Callable[[], Found], describe: Callable[[], object] = lambda: "") -> Found:
    """Waits until `condition` returns something true, and returns it; `describe` says what there is instead."""
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, describe()
        time.sleep(0.02)
    return found


def wait_for_a_new_checkpoint(folder: Path, before: list[int], *runs: subprocess.Popen[str]) -> None:
    """Waits until a results folder has a checkpoint later than the steps `before`; no run may end meanwhile."""

    def saved() -> bool:
        assert all(run.poll() is None for run in runs), [run.communicate() for run in runs]
        return checkpoints(folder)[-1:] > before[-1:]

    until(saved)
