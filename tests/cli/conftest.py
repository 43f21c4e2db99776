"""A run that has ended, for tests of what happens next."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from tests.helpers.cli import SHARED, TINY, call, places

FINISHED = [*TINY, "--models=ff_only", "--checkpoint_minutes=0"]


@pytest.fixture(scope="session")
def finished_once() -> Path:
    """The folder of a run of one cell, made by the first worker that asks for it."""
    folder = Path(os.environ[SHARED]) / "finished"
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            done = call(*FINISHED, *places(folder))
            assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def finished(finished_once, tmp_path) -> list[str]:
    """The command of that run, with a copy of its results below `tmp_path`."""
    shutil.copytree(finished_once / "results", tmp_path / "results")
    return [*FINISHED, *places(tmp_path)]
