"""`status` and `retry`: what runs were asked for is kept, and what has become of it is told."""

import json

import pytest

from lra import grids, lease, records
from lra.recipe import UsageError
from tests.test_cli import TINY, cli, places, record_files
from tests.test_lease import elsewhere


def asked(folder, **cells):
    """A grid of cells of 100 steps each, with records of the given statuses and speeds."""
    made = []
    for name, (status, speed) in cells.items():
        made.append({"name": name, "key": name, "task": "t", "model": name[0], "length": 8, "seeds": [0], "steps": 100})
        if status:
            told = {"schema": 1, "status": status, "error": "", "key": name, "cell": {}, "recipe": {}, "data": {}}
            told |= {"train_speed": {"steps_per_second": speed}}
            records.write(folder / "records" / f"{name}.json", told)
    records.write(folder / "grids" / "0.json", {"arguments": [], "cells": made})


def test_status_tells_states_and_the_time_left(tmp_path):
    asked(tmp_path, a0=("ok", 10.0), a1=("", None), b0=("failed", None), c0=("oom", None), d0=("", None))
    running = elsewhere(tmp_path / "leases", "d0")
    running.progress = {"step": 50, "steps_per_second": 5.0}
    assert running.renew()
    rows, line = grids.status(tmp_path)
    assert {r["name"]: r["state"] for r in rows} == {
        "a0": "done", "a1": "left", "b0": "failed", "c0": "oom", "d0": "running",
    }  # fmt: skip
    # a1 at a's speed: 10 s; b0 at the mean of all: 15 s; d0 at its own: 10 s.
    assert line == "1 done, 1 oom, 1 running, 1 failed, 1 left, about 35 s left with 1 at once"
    assert "50/100" in grids.table(rows)


def test_a_run_that_has_died_here_is_not_running(tmp_path):
    asked(tmp_path, a0=("", None))
    elsewhere(tmp_path / "leases", "a0", machine=lease.machine(), started="0")
    rows, line = grids.status(tmp_path)
    assert rows[0]["state"] == "left" and line == "1 left, time left unknown"


def test_no_grid_and_a_damaged_one_are_told(tmp_path):
    with pytest.raises(UsageError, match="no grids in"):
        grids.status(tmp_path)
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "0.json").write_text('{"cells": [{}]}')
    with pytest.raises(UsageError, match="not a grid"):
        grids.status(tmp_path)
    for arguments, words in ((["status"], "no grids"), (["retry"], "retry takes --failed, --timeout or both")):
        done = cli(*arguments, f"--results={tmp_path}/none")
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


RAISES_ONCE = '''
from pathlib import Path

from flax import nnx


class Once(nnx.Module):
    """Raises until a file is there."""

    def __init__(self, dim: int, length: int, *, rngs: nnx.Rngs):
        if not Path("mended").exists():
            raise RuntimeError("not yet")

    def __call__(self, x, mask, rngs=None):
        return x
'''


def test_retry_runs_what_failed_and_nothing_else(tmp_path):
    (tmp_path / "theirs.py").write_text(RAISES_ONCE)
    done = cli(*TINY, "--models=theirs:Once,ff_only", *places(tmp_path), cwd=tmp_path)
    assert done.returncode == 0 and "failed: RuntimeError: not yet" in done.stdout
    told = cli("status", f"--results={tmp_path}/results")
    assert "1 done, 1 failed, about" in told.stdout and "RuntimeError: not yet" in told.stdout
    before = {f.name: f.stat().st_mtime_ns for f in record_files(tmp_path) if "ff_only" in f.name}
    (tmp_path / "mended").touch()
    retry = ["retry", "--failed", f"--results={tmp_path}/results"]
    done = cli(*retry, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count(": test ") == 1, done.stderr
    assert [json.loads(f.read_text())["status"] for f in record_files(tmp_path)] == ["ok", "ok"]
    assert before.items() <= {f.name: f.stat().st_mtime_ns for f in record_files(tmp_path)}.items()
    assert cli("status", f"--results={tmp_path}/results").stdout.endswith("\n2 done\n")
    assert "nothing to retry" in cli(*retry, cwd=tmp_path).stdout
