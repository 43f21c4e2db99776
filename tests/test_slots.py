"""`--jobs`: cells at once, each with devices or cores of its own."""

import json
import os

import pytest

from lra.recipe import UsageError
from lra.slots import Slot, divide, in_turns
from tests.test_cli import TINY, cli, places, record_files

GPUS = {"platform": "gpu", "count": 4, "host_cores": 8}
CPU = {"platform": "cpu", "count": 1, "host_cores": 6}


def test_gpus_are_shared_out_among_the_jobs(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def shares(*arguments):
        return [slot.env.get("CUDA_VISIBLE_DEVICES") for slot in divide(GPUS, *arguments)[0]]

    assert shares(1, None) == ["0", "1", "2", "3"]
    assert shares(2, None) == ["0,1", "2,3"]
    assert shares(1, 2) == ["0", "1"]
    assert shares(4, None) == [None] and shares(1, 1) == ["0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-a")
    assert shares(1, None) == ["5", "GPU-a"]
    with pytest.raises(UsageError, match=r"--devices=3: there are 2"):
        divide(GPUS, 3, 2)


def test_more_jobs_than_gpus_share_them_and_take_memory_as_they_need_it(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    slots, _ = divide(GPUS | {"count": 2}, 1, 4)
    assert [slot.env["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "1", "0", "1"]
    assert all(s.env["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false" and s.sharing == 2 for s in slots)
    assert all(s.sharing == 1 and len(s.env) == 1 for s in divide(GPUS, 1, 4)[0])
    assert {s.sharing for s in in_turns(3)} == {3} and in_turns(1) == [Slot()]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot bind processes to cores")
def test_cores_are_shared_out_among_the_jobs(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {1, 2, 4, 5, 8, 9})
    slots, device = divide(CPU, 1, 2)
    assert [slot.cores for slot in slots] == [(1, 2, 4), (5, 8, 9)] and device["host_cores"] == 3
    assert divide(CPU, 1, None) == divide(CPU, 1, 1) and divide(CPU, 1, None)[1] == CPU
    with pytest.raises(UsageError, match="there are 6 cores"):
        divide(CPU, 1, 7)
    with pytest.raises(UsageError, match="cannot be divided"):
        divide({"platform": "tpu", "count": 4}, 1, 2)


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores to bind to"
)
def test_two_jobs_run_at_once_with_half_the_cores_each(tmp_path):
    done = cli(*TINY, "--models=ff_only", "--seeds=0,1", "--jobs=2", *places(tmp_path))
    assert done.returncode == 0, done.stderr
    found = [json.loads(f.read_text()) for f in record_files(tmp_path)]
    half = len(os.sched_getaffinity(0)) // 2
    assert [(r["status"], r["device"]["host_cores"]) for r in found] == [("ok", half)] * 2
    assert all(r["cell"]["accelerator"].endswith(f" {half} cores") for r in found)
    assert done.stdout.count(": test ") == 2
