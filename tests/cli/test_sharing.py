"""Several runs on one results folder: the work is shared, nothing is done twice, and the dead are succeeded."""

import os
import signal

import pytest

from tests.helpers.cli import TINY, alive, call, children_of, only_record, places, saved_records, start
from tests.helpers.held import HELD, Hold
from tests.helpers.waiting import until, wait_for_a_new_checkpoint

pytestmark = pytest.mark.process

CELLS = [*TINY, "--models=ff_only", "--seeds=0,1,2"]


def test_two_runs_at_once_do_each_cell_once(tmp_path):
    runs = [start(*CELLS, *places(tmp_path)[:2], f"--out={tmp_path}/out{number}") for number in range(2)]
    outputs = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert [record["status"] for record in saved_records(tmp_path)] == ["ok"] * 3
    done = [line for out, _ in outputs for line in out.splitlines() if line.startswith("[") and ": test " in line]
    assert len({line.partition("]")[2].partition(":")[0] for line in done}) == len(done) == 3
    assert not list((tmp_path / "results" / "leases").iterdir())


def test_the_cell_of_a_killed_run_is_taken_over_from_its_checkpoint(tmp_path):
    hold = Hold(tmp_path / "hold")
    hold.at(40)
    long = [*TINY, HELD, "--set=train.steps=80", "--set=train.eval_every=10", "--checkpoint_minutes=0"]
    first = start(*long, *places(tmp_path), env=hold.env)
    wait_for_a_new_checkpoint(tmp_path, [], first)
    second = start(*long, *places(tmp_path), env=hold.env)
    while (line := second.stdout.readline()) and "waiting for cells that other runs are at: 1" not in line:
        pass
    assert first.poll() is None
    (child,) = children_of(first.pid)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    until(lambda: not alive(child))  # which would go on otherwise, beside its successor
    hold.release()
    output, errors = second.communicate()
    assert second.returncode == 0, errors
    assert "taken over from" in output
    record = only_record(tmp_path)
    assert record["status"] == "ok" and record["resumed"] == 1
    assert call(*long, *places(tmp_path)).stdout.count("1 already done") == 1
