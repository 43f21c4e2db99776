"""A run that has ended, for tests of what happens next."""

import os
import shutil
from pathlib import Path

import pytest

from tasks.io.files import locked
from tests.helpers.cli import SHARED, TINY, call, places, record_files

FINISHED = [*TINY, "--models=ff_only", "--checkpoint_minutes=0"]


@pytest.fixture(scope="session")
def finished_once() -> Path:
    """The folder of a run of one cell, made by the first worker that asks for it."""
    folder = Path(os.environ[SHARED]) / "finished"
    with locked(folder.parent, folder.name, print):
        if not record_files(folder):
            done = call(*FINISHED, *places(folder))
            assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def finished(finished_once, tmp_path) -> list[str]:
    """The command of that run, with a copy of its results below `tmp_path`."""
    shutil.copytree(finished_once / "results", tmp_path / "results")
    return [*FINISHED, *places(tmp_path)]
