"""Long runs that are killed, stopped, out of time or out of disk resume with the same bits."""

import os
import signal
import subprocess
import sys

import pytest

from tests.helpers.cli import (
    ROOT,
    TINY,
    alive,
    call,
    checkpoints,
    children_of,
    only_record,
    places,
    start,
)
from tests.helpers.held import HELD, Hold
from tests.helpers.waiting import until, wait_for_a_new_checkpoint

pytestmark = pytest.mark.process

LONG = [*TINY, HELD, "--set=train.steps=120", "--set=train.eval_every=10", "--checkpoint_minutes=0"]


def test_a_run_that_is_killed_and_stopped_again_and_again_ends_with_the_same_bits(tmp_path):
    hold = Hold(tmp_path / "hold")

    def start_and_wait_at(step) -> subprocess.Popen[str]:
        """Starts the run, which goes as far as a step, and returns when it has saved on the way."""
        before = checkpoints(tmp_path)
        hold.at(step)
        parent = start(*LONG, *places(tmp_path), env=hold.env)
        wait_for_a_new_checkpoint(tmp_path, before, parent)
        return parent

    parent = start_and_wait_at(30)
    (child,) = children_of(parent.pid)
    os.kill(child, signal.SIGKILL)
    parent.communicate()
    assert parent.returncode == 1
    assert only_record(tmp_path)["status"] == "failed" and "SIGKILL" in only_record(tmp_path)["error"]

    parent = start_and_wait_at(60)
    (child,) = children_of(parent.pid)
    parent.kill()
    parent.communicate()
    until(lambda: not alive(child))  # which would go on otherwise, beside its successor

    parent = start_and_wait_at(90)
    parent.terminate()
    _, errors = parent.communicate()
    assert parent.returncode == 130 and "the same command goes on from here" in errors
    record = only_record(tmp_path)
    assert record["status"] == "interrupted" and checkpoints(tmp_path)[-1] == record["results"][0]["steps"]

    hold.release()
    done = call(*LONG, "--max_minutes=0.001", *places(tmp_path))
    assert done.returncode == 0 and "1 interrupted" in done.stdout
    assert only_record(tmp_path)["status"] == "interrupted"

    assert call(*LONG, *places(tmp_path)).returncode == 0
    assert call(*LONG, *places(tmp_path / "spared")).returncode == 0
    mended, whole = only_record(tmp_path), only_record(tmp_path / "spared")
    assert mended["status"] == whole["status"] == "ok"
    assert mended["results"] == whole["results"]
    assert mended["resumed"] >= 3 and whole["resumed"] == 0
    assert not checkpoints(tmp_path) and not checkpoints(tmp_path / "spared")


def test_checkpoints_on_a_full_disk_are_missed_but_training_ends(tmp_path):
    """No file may grow past 150 KiB: the records and the page are smaller, the checkpoints' arrays are not."""
    larger = ["--models=fnet", "--set=encoder.dim=256", "--set=train.steps=20", "--checkpoint_minutes=0"]
    # Compiled programs are larger too: they are there already.
    assert call(*TINY, *larger, *places(tmp_path / "before")).returncode == 0
    arguments = " ".join([*TINY, *larger, *places(tmp_path)])
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 150; exec {sys.executable} {ROOT / 'run.py'} {arguments}"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "a checkpoint could not be written" in done.stdout
    record = only_record(tmp_path)
    assert record["status"] == "ok" and record["results"][0]["steps"] == 20
    assert any("a checkpoint could not be written" in line for line in record["warnings"])
