"""Runs on several hosts, here processes of this machine: none is lost, whichever process is killed or stopped."""

import os
import signal

import pytest

from tests.helpers.cli import (
    TINY,
    alive,
    checkpoints,
    children_of,
    cli,
    free_port,
    only_record,
    outputs,
    places,
    saved_records,
)
from tests.helpers.held import FF_ONLY, Hold
from tests.helpers.hosts import assert_alike, ended, run_of
from tests.helpers.waiting import until, wait_for_a_new_checkpoint

pytestmark = pytest.mark.process

# Small steps, so that rounding stays rounding.
LONG = [
    *TINY, f"--models={FF_ONLY}", "--set=train.steps=120", "--set=train.eval_every=20", "--checkpoint_minutes=0",
    "--set=optimizer.learning_rate=1e-6",
]  # fmt: skip


@pytest.fixture
def hold(tmp_path):
    """For the follower's cells: the leader's wait for them in the next program that both run."""
    return Hold(tmp_path / "hold")


def test_whoever_is_killed_the_same_command_goes_on(tmp_path, hold):
    port = free_port()
    hold.at(40)
    with run_of(tmp_path, port, 1, *LONG, hold=hold) as follower, run_of(tmp_path, port, 0, *LONG) as leader:
        wait_for_a_new_checkpoint(tmp_path, [], follower, leader)
        (part,) = children_of(follower.pid)
        os.kill(part, signal.SIGKILL)
        assert "failed" in ended(leader, 1)
        ended(follower)
    assert only_record(tmp_path)["status"] == "failed" and "SIGKILL" in only_record(tmp_path)["error"]

    before = checkpoints(tmp_path)
    assert before
    hold.at(80)
    with run_of(tmp_path, port, 1, *LONG, hold=hold) as follower, run_of(tmp_path, port, 0, *LONG) as leader:
        wait_for_a_new_checkpoint(tmp_path, before, follower, leader)
        follower.kill()
        ended(leader, 1)
    assert only_record(tmp_path)["status"] == "failed" and "is gone" in only_record(tmp_path)["error"]

    before = checkpoints(tmp_path)
    hold.at(100)
    with run_of(tmp_path, port, 1, *LONG, hold=hold) as follower:
        with run_of(tmp_path, port, 0, *LONG) as leader:
            wait_for_a_new_checkpoint(tmp_path, before, follower, leader)
            parts = children_of(follower.pid) + children_of(leader.pid)
            assert len(parts) == 2
            leader.kill()
        until(lambda: not any(map(alive, parts)))
        assert follower.poll() is None
        hold.release()
        with run_of(tmp_path, port, 0, *LONG) as leader:
            ended(leader)
            ended(follower)
    mended = only_record(tmp_path)
    assert mended["resumed"] >= 3 and not checkpoints(tmp_path)

    done = cli(*LONG, *places(tmp_path / "whole"))
    assert done.returncode == 0, done.stderr
    assert_alike(mended, only_record(tmp_path / "whole"))


def test_a_follower_that_is_stopped_stops_all_and_one_process_goes_on(tmp_path, hold):
    port = free_port()
    hold.at(40)
    with run_of(tmp_path, port, 1, *LONG, hold=hold) as follower, run_of(tmp_path, port, 0, *LONG) as leader:
        wait_for_a_new_checkpoint(tmp_path, [], follower, leader)
        follower.terminate()
        assert "Stopped" in ended(follower, 130)
        assert "1 interrupted" in ended(leader)
    stopped = only_record(tmp_path)
    assert (stopped["status"], stopped["error"][:19]) == ("interrupted", "stopped by a signal")
    assert checkpoints(tmp_path)[-1] == stopped["results"][0]["steps"]
    done = cli(*LONG, *places(tmp_path))
    assert done.returncode == 0, done.stderr
    records = {record["device"]["processes"]: record for record in saved_records(tmp_path)}
    assert (records[1]["status"], records[1]["resumed"], records[2]["status"]) == ("ok", 1, "interrupted")
    assert records[1]["results"][0]["curve"][0] == stopped["results"][0]["curve"][0]


def test_a_follower_without_the_data_is_named(tmp_path):
    port, few = free_port(), [*TINY, "--models=ff_only"]
    with run_of(tmp_path, port, 0, *few) as leader:
        group = [f"--coordinator=127.0.0.1:{port}", "--processes=2", "--process=1"]
        follower = cli(*few, f"--data={tmp_path}/nothing", *outputs(tmp_path / "other"), *group)
        ended(leader, 1)
    assert follower.returncode == 0, follower.stderr
    record = only_record(tmp_path)
    assert record["status"] == "failed" and "run prepare there" in record["error"]
    assert f"{tmp_path}/nothing" in record["error"]
