"""Long runs that are killed, stopped, out of time or out of disk resume with the same bits."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.cli import ROOT, TINY, checkpoints, children_of, cli, only_record, places

pytestmark = pytest.mark.process

LONG = [*TINY, "--models=fnet", "--set=train.steps=12000", "--set=train.eval_every=300", "--checkpoint_minutes=0"]
COMMAND = [sys.executable, str(ROOT / "run.py"), *LONG]


def start_and_wait_for_a_new_checkpoint(folder, *more) -> subprocess.Popen:
    before = checkpoints(folder)
    parent = subprocess.Popen(
        [*COMMAND, *more, *places(folder)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while checkpoints(folder)[-1:] <= before[-1:]:
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.02)
    return parent


def test_a_run_that_is_killed_and_stopped_again_and_again_ends_with_the_same_bits(tmp_path):
    rng = random.Random(os.getpid())
    hurt, spared = tmp_path / "hurt", tmp_path / "spared"

    parent = start_and_wait_for_a_new_checkpoint(hurt)
    (child,) = children_of(parent.pid)
    time.sleep(rng.uniform(0, 1))
    os.kill(child, signal.SIGKILL)
    _, told = parent.communicate(timeout=60)
    assert parent.returncode == 0
    assert only_record(hurt)["status"] == "failed" and "SIGKILL" in only_record(hurt)["error"]

    parent = start_and_wait_for_a_new_checkpoint(hurt)
    time.sleep(rng.uniform(0, 1))
    parent.kill()
    parent.communicate()

    parent = start_and_wait_for_a_new_checkpoint(hurt)
    time.sleep(rng.uniform(0, 0.5))
    parent.terminate()
    _, told = parent.communicate(timeout=90)
    assert parent.returncode == 130 and "the same command goes on from here" in told
    record = only_record(hurt)
    assert record["status"] == "interrupted" and checkpoints(hurt)[-1] == record["results"][0]["steps"]

    done = cli(*LONG, "--max_minutes=0.001", *places(hurt))
    assert done.returncode == 0 and "1 interrupted" in done.stdout
    assert only_record(hurt)["status"] == "interrupted"

    assert cli(*LONG, *places(hurt)).returncode == 0
    assert cli(*LONG, f"--data={hurt}/data", *places(spared)[1:]).returncode == 0
    mended, whole = only_record(hurt), only_record(spared)
    assert mended["status"] == whole["status"] == "ok"
    assert mended["results"] == whole["results"]
    assert mended["resumed"] >= 3 and whole["resumed"] == 0
    assert not checkpoints(hurt) and not checkpoints(spared)


def test_checkpoints_on_a_full_disk_are_missed_but_training_ends(tmp_path):
    """No file may grow past 150 KiB: the records and the page are smaller, the checkpoints' arrays are not."""
    larger = ["--set=encoder.dim=256", "--set=train.steps=600"]
    prepared = cli("prepare", "--tasks=listops_short", *[a for a in TINY if "data." in a], f"--data={tmp_path}/data")
    assert prepared.returncode == 0, prepared.stderr
    arguments = " ".join([*LONG, *larger, *places(tmp_path)])
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 150; exec {sys.executable} {ROOT / 'run.py'} {arguments}"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "a checkpoint could not be written" in done.stdout
    record = only_record(tmp_path)
    assert record["status"] == "ok" and record["results"][0]["steps"] == 600
    assert any("a checkpoint could not be written" in line for line in record["warnings"])
