"""Several runs on one results folder: the work is shared, nothing is done twice, and the dead are succeeded."""

import json
import os
import signal
import time

import pytest

from tests.helpers.cli import TINY, checkpoints, children_of, cli, places, record_files, start

pytestmark = pytest.mark.process

CELLS = [*TINY, "--models=ff_only", "--seeds=0,1,2"]


def test_two_runs_at_once_do_each_cell_once(tmp_path):
    runs = [start(*CELLS, *places(tmp_path)[:2], f"--out={tmp_path}/out{number}") for number in range(2)]
    told = [run.communicate(timeout=300) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told
    assert [json.loads(f.read_text())["status"] for f in record_files(tmp_path)] == ["ok"] * 3
    done = [line for out, _ in told for line in out.splitlines() if line.startswith("[") and ": test " in line]
    assert len({line.partition("]")[2].partition(":")[0] for line in done}) == len(done) == 3
    assert not list((tmp_path / "results" / "leases").iterdir())


def test_the_cell_of_a_killed_run_is_taken_over_from_its_checkpoint(tmp_path):
    long = ["--models=fnet", "--set=train.steps=12000", "--set=train.eval_every=300", "--checkpoint_minutes=0"]
    first = start(*TINY, *long, *places(tmp_path))
    deadline = time.monotonic() + 120
    while not checkpoints(tmp_path):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.02)
    (child,) = children_of(first.pid)
    os.kill(child, signal.SIGSTOP)  # so that it has not finished when the second run looks
    second = start(*TINY, *long, *places(tmp_path))
    while (line := second.stdout.readline()) and "waiting for cells that other runs are at: 1" not in line:
        pass
    assert first.poll() is None
    os.kill(first.pid, signal.SIGKILL)
    os.kill(child, signal.SIGCONT)
    first.communicate()
    told, wrong = second.communicate(timeout=120)
    assert second.returncode == 0, wrong
    assert "taken over from" in told
    (file,) = record_files(tmp_path)
    record = json.loads(file.read_text())
    assert record["status"] == "ok" and record["resumed"] == 1
    assert cli(*TINY, *long, *places(tmp_path)).stdout.count("1 already done") == 1
