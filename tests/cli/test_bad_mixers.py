"""Mixers and folders that misbehave: each costs its own cell and no other, and the record says what it did."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from lra.launch.process import LOG_BYTES, Watchdog
from tests.helpers.cli import ROOT, TINY, call, places, saved_records

BAD = '''
import os
import signal
import time

import jax.numpy as jnp
import numpy as np
from flax import nnx


class Raises(nnx.Module):
    """Raises."""

    def __init__(self, dim: int, length: int, *, rngs: nnx.Rngs):
        pass

    def __call__(self, x, mask, rngs=None):
        raise ZeroDivisionError("one by nothing")


class Nan(Raises):
    """Returns no numbers."""

    def __call__(self, x, mask, rngs=None):
        return x * jnp.nan


class Shape(Raises):
    """Returns too little."""

    def __call__(self, x, mask, rngs=None):
        return x[:, :-1, :3]


class Prints(Raises):
    """Prints a gigabyte."""

    def __call__(self, x, mask, rngs=None):
        return x

    def __init__(self, dim: int, length: int, *, rngs: nnx.Rngs):
        for output in (1, 2):
            for _ in range(512):
                os.write(output, b"x" * 2**20)
        os.write(2, b"the last words")


class Leaves(Raises):
    """Ends its process as if all were well."""

    def __init__(self, dim: int, length: int, *, rngs: nnx.Rngs):
        os._exit(0)


class Crashes(Raises):
    """Is ended by the system."""

    def __call__(self, x, mask, rngs=None):
        os.kill(os.getpid(), signal.SIGSEGV)


class Hangs(Raises):
    """Does not end."""

    def __init__(self, dim: int, length: int, *, rngs: nnx.Rngs):
        time.sleep(1e6)


class Allocates(Raises):
    """Allocates without end."""

    def __init__(self, dim: int, length: int, *, rngs: nnx.Rngs):
        kept = []
        while True:
            kept.append(np.empty(2**30, np.uint8))
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bad.py").write_text(BAD)
    return tmp_path


def by_model(folder) -> dict[str, dict]:
    return {record["cell"]["model"]: record for record in saved_records(folder)}


@pytest.mark.process
def test_each_bad_mixer_costs_its_own_cell_and_its_log_stays_small(folder):
    models = "--models=bad:Raises,bad:Nan,bad:Shape,bad:Prints,bad:Leaves,bad:Crashes"
    done = call(*TINY, models, *places(folder), cwd=folder)
    assert done.returncode == 1, done.stderr
    records = by_model(folder)
    statuses = {name.removeprefix("bad:"): record["status"] for name, record in records.items()}
    failed = dict.fromkeys(["Raises", "Shape", "Leaves", "Crashes"], "failed")
    assert statuses == failed | {"Nan": "diverged", "Prints": "ok"}
    assert records["bad:Raises"]["error"] == "ZeroDivisionError: one by nothing"
    assert records["bad:Shape"]["error"]
    assert records["bad:Leaves"]["error"] == "the cell's process ended with exit code 0 and without a record"
    assert records["bad:Crashes"]["error"] == "the cell's process was ended by SIGSEGV"
    (log,) = (folder / "results" / "logs").glob("*Prints*")
    assert LOG_BYTES < log.stat().st_size < 1.1 * LOG_BYTES
    assert b"bytes left out" in log.read_bytes() and b"the last words" in log.read_bytes()


@pytest.mark.process
def test_a_cell_that_hangs_is_stopped(folder):
    done = call(*TINY, "--models=bad:Hangs", "--stall_minutes=0.05", *places(folder), cwd=folder)
    assert done.returncode == 1, done.stderr
    record = by_model(folder)["bad:Hangs"]
    assert record["status"] == "timeout" and record["error"] == "stopped after 0.05 minutes without progress"


class PassingTime:
    """Replaces the event that a watchdog waits for: the clock goes on while it is waited for, and only then."""

    def __init__(self, heartbeats, monkeypatch):
        self.now, self.heartbeats = 0.0, heartbeats
        monkeypatch.setattr("lra.launch.process.time", SimpleNamespace(monotonic=lambda: self.now))

    def wait(self, seconds):
        if self.heartbeats:  # a second before the limit
            self.now += seconds - 1
            self.heartbeats.pop()()
        else:
            self.now += seconds
        return False


def test_signs_of_life_keep_a_process_from_being_stopped(monkeypatch):
    kills = []
    watchdog = Watchdog(lambda: kills.append(1), None, None)
    time = PassingTime(10 * [watchdog.heartbeat], monkeypatch)
    watchdog.last_heartbeat, watchdog.silent_minutes, watchdog.stopped = 0.0, 1, time
    watchdog._watch()
    assert kills == [1] and "without progress" in watchdog.reason and time.now == 10 * 59 + 60


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process's memory so")
def test_allocating_without_end_is_out_of_memory(folder):
    """The address space is bounded, as memory is in the end."""
    arguments = " ".join([*TINY, "--models=bad:Allocates,ff_only", *places(folder)])
    done = subprocess.run(
        ["bash", "-c", f"ulimit -v 40000000; exec {sys.executable} {ROOT / 'run.py'} {arguments}"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {name: r["status"] for name, r in by_model(folder).items()} == {"bad:Allocates": "oom", "ff_only": "ok"}


@pytest.mark.process
def test_results_that_cannot_be_written_are_told_in_one_line(tmp_path):
    """Root may write anywhere, unless it has laid that right down."""
    bound = ["setpriv", "--bounding-set=-dac_override"] if os.getuid() == 0 else []
    if bound and not shutil.which("setpriv"):
        pytest.skip("root cannot lay down its rights without setpriv")
    results = tmp_path / "results"
    results.mkdir(mode=0o555)
    done = subprocess.run(
        [*bound, sys.executable, str(ROOT / "run.py"), *TINY, "--models=ff_only", *places(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"cannot write {results}: Permission denied" in done.stderr


EDITED = """
from flax import nnx


class Mix(nnx.Module):
    def __init__(self, dim: int, length: int, *, rngs: nnx.Rngs):
        self.out = nnx.Linear(dim, dim, rngs=rngs)

    def __call__(self, x, mask, rngs=None):
        return self.out(x)
"""


@pytest.mark.process
def test_an_edited_mixer_is_run_again_and_one_with_another_comment_is_not(tmp_path):
    command = [*TINY, "--models=edited:Mix", *places(tmp_path)]
    for text, made in ((EDITED, 1), (EDITED + "# the end", 1), (EDITED.replace("(x)\n", "(-x)\n"), 2)):
        (tmp_path / "edited.py").write_text(text)
        done = call(*command, cwd=tmp_path)
        assert done.returncode == 0 and [r["status"] for r in saved_records(tmp_path)] == ["ok"] * made, done.stderr
    assert "two records have a score by different code of the mixer" in done.stderr
