"""Models whose cells do not go beyond a step until the test lets them, however fast the machine is.

A test starts `run.py` with one of these models and the environment of a `Hold`, waits for what it needs (such as a
checkpoint), acts, and moves the step on or lets the cells go. A cell that waits is between two chunks of its training,
where it still saves and stops when it is asked to. After a run is killed, wait for the end of its cell's process before
another step is allowed: it ends by itself a moment later, and could use the moment to end its training.

    hold = Hold(tmp_path / "hold")
    hold.at(40)
    run = start(*TINY, HELD, "--set=train.steps=120", "--set=train.eval_every=20", ..., env=hold.env)
    until(lambda: checkpoints(tmp_path))
    ...
    hold.release()
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from tasks.io.files import write_whole

HELD = "--models=tests.helpers.held_models:FNet"
"""The option with which a run's cells look at a `Hold`. They compute what `--models=fnet` does."""
FF_ONLY = "tests.helpers.held_models:FFOnly"
"""Another model for `--models`."""
FILE = "LRA_TESTS_HOLD"
"""The environment variable with the path of the file that says at which step cells wait."""


class Hold:
    """Keeps all cells of the runs that have `env` from going beyond a step.

    Args:
        file: a path of its own.
    """

    def __init__(self, file: Path):
        self.file = file
        self.env = os.environ | {FILE: str(file)}

    def at(self, step: int) -> None:
        """Lets cells go on as far as a step, a multiple of those of a chunk, such as `train.eval_every`."""
        write_whole(self.file, str(step).encode())

    def release(self) -> None:
        """Lets cells go on to their end."""
        self.file.unlink()


def wait(steps: int) -> bool:
    """In a cell: sleeps a moment if it may not go beyond the steps that it has taken; returns whether it had to."""
    with contextlib.suppress(KeyError, FileNotFoundError):
        if steps >= int(Path(os.environ[FILE]).read_text()):
            time.sleep(0.02)
            return True
    return False
