"""One cell on several hosts, here processes of this machine: the numbers of one process, one writer, no run lost."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from lra.errors import UsageError
from lra.grid import expand, names
from lra.grid.cell import split_seeds
from lra.grid.spec import TrainOptions, WorkerSpec
from lra.launch import multihost
from lra.launch.multihost_follower import Follower
from lra.launch.multihost_leader import Leader
from lra.results import runs
from tests.helpers import two_processes
from tests.helpers.cli import ROOT, TINY, call, cli, free_port, places, saved_records
from tests.helpers.hosts import QUICK, assert_alike, ended, run_of
from tests.helpers.training import train
from tests.helpers.waiting import SECONDS

SPEC = WorkerSpec(started=0.0, record={}, entry=None, path="", compilation_cache="", train=TrainOptions())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--process=1"], "need --coordinator"),
        (["--coordinator=host:1", "--processes=2", "--process=2"], "one of 0 to 1"),
        (["--coordinator=host:1", "--process=0"], "needs --processes=N"),
        (["--coordinator=host", "--processes=2", "--process=0"], "takes HOST:PORT"),
        (["--coordinator=host:99999", "--processes=2", "--process=0"], "takes HOST:PORT"),
        (["--coordinator=host:1", "--processes=2", "--process=0", "--launcher=slurm"], "--launcher=slurm"),
        (["--coordinator=host:1", "--processes=2", "--process=0", "--jobs=2"], "--jobs=2"),
        (["--coordinator=127.0.0.1:1", "--processes=2", "--process=1", "--wait_minutes=0.001"], "no leader at"),
        (["bench", "--coordinator=host:1"], "coordinator"),
    ],
)
def test_what_is_wrong_gets_one_line_and_exit_code_2(flags, words, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    done = call(*flags)
    assert done.returncode == 2
    assert words in done.stderr and done.stderr.count("\n") == 1


def test_slurm_says_which_process_this_is():
    slurm = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3"}
    assert multihost.host_group("a:1", None, None, 1.0, slurm) == multihost.HostGroup("a:1", 4, 3, 1.0)
    assert multihost.host_group("a:1", 2, 0, 1.0, slurm) == multihost.HostGroup("a:1", 2, 0, 1.0)
    assert multihost.host_group(None, None, None, 1.0, slurm) is None
    assert multihost.HostGroup("[::1]:80", 2, 0).address == ("::1", 80)


def follow(group, tmp_path, commit=None) -> str:
    """The error that a follower ends with; '' if the leader has finished."""
    try:
        Follower(group, commit, tmp_path, tmp_path, {}, lambda line: None).run()
    except UsageError as wrong:
        return str(wrong)
    return ""


def test_a_follower_that_does_not_belong_to_the_leader_is_told_why(tmp_path):
    group = multihost.HostGroup(f"127.0.0.1:{free_port()}", 2, 0, 0.02)
    one = dataclasses.replace(group, process=1)
    answers = []
    with Leader(group, None, lambda line: None) as leader:
        first = threading.Thread(target=lambda: answers.append(follow(one, tmp_path)))
        first.start()
        with leader.changed:
            assert leader.changed.wait_for(lambda: 1 in leader.followers, 60)
        assert "is already there" in follow(one, tmp_path)
        assert follow(one, tmp_path, "abc") == "--process=1: commit abc here, None at the leader"
        assert "processes 3 here, 2 at the leader" in follow(
            multihost.HostGroup(group.coordinator, 3, 1, 1.0), tmp_path
        )
        with socket.create_connection(group.address) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert stranger.recv(100) == b""
        leader.finish()
        first.join()
    assert answers == [""]


def test_a_leader_does_not_wait_for_ever():
    group = multihost.HostGroup(f"127.0.0.1:{free_port()}", 3, 0, 0.001)
    with (
        Leader(group, None, lambda line: None) as leader,
        pytest.raises(UsageError, match="processes 1, 2 of 3 did not come"),
        leader.start_cell(SPEC, threading.Event()),
    ):
        pass


def test_any_number_of_processes_has_the_same_lease_and_checkpoint():
    plan = expand.make_plans(names.find_protocol("quick"), [], ["fnet"], [], [0, 1], [])
    (plan,) = expand.group_seeds(plan, "on", {})
    device = {"platform": "gpu", "kind": "NVIDIA H200", "count": 8}
    one, two = (expand.make_cell(plan, None, device, 4, processes=n) for n in (1, 2))
    assert two.accelerator == "4 × NVIDIA H200 in each of 2 processes"
    assert two.single_process == one.single_process == one != two and two.key != one.key
    assert [cell.single_process for cell in split_seeds(two)] == split_seeds(one)
    assert runs.cell_entry(two)["lease"] == one.name != runs.cell_entry(two)["name"]


@pytest.mark.process
def test_two_processes_give_the_losses_of_one_and_go_on_from_each_other_s_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr("lra.train.loop.chunk_length", lambda *_: two_processes.STEPS_OF_A_CHUNK)
    assert two_processes.session(tmp_path / "one", 3).status == "interrupted"
    port = str(free_port())
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.two_processes", str(tmp_path), port, str(process)],
            cwd=ROOT, env=os.environ | QUICK, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for process in (0, 1)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=SECONDS) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in outputs)
    # Decisions and numbers are everyone's, so that no process ever waits for another in vain.
    assert all(first[name]["results"] == second[name]["results"] for name in first)
    assert first["stopped"]["status"] == second["stopped"]["status"] == "interrupted"
    assert first["stopped"]["error"] == "enough" and first["stopped"]["steps"] == 6
    assert (first["from one"]["resumed"], first["from one"]["steps"], len(first["from one"]["blocks"])) == (1, 12, 2)
    assert (first["kept"]["devices"], first["kept"]["processes"]) == (2, 2)
    assert first["streamed in parts"]["streamed"] and not first["kept"]["streamed"]

    one = dataclasses.asdict(train(two_processes.RECIPE, (0, 5)))
    back = dataclasses.asdict(two_processes.session(tmp_path / "two"))
    assert (back["status"], back["resumed"], back["devices"], len(back["blocks"])) == ("ok", 1, 1, 2)
    # All devices' are counted, and each takes the optimizer's step.
    assert one["flops_per_step"] < first["kept"]["flops_per_step"] < 1.05 * one["flops_per_step"]
    for name, run in {**first, "back": back}.items():
        for got, want in zip(run["results"], one["results"], strict=True):
            assert len(got["curve"]) == (1 if name == "stopped" else 3)
            for a, b in zip(got["curve"], want["curve"], strict=name != "stopped"):
                assert a == pytest.approx(b, rel=1e-5), name
            if name != "stopped":
                assert got["test_best"] == pytest.approx(want["test_best"])


@pytest.mark.process
def test_two_runs_leave_one_record_like_that_of_one(tmp_path):
    few = [*TINY, "--models=fnet,ff_only", "--tensorboard"]
    port = free_port()
    with run_of(tmp_path, port, 1, *few) as follower, run_of(tmp_path, port, 0, *few) as leader:
        output = ended(leader)
        assert "2 cells on CPU" in output and "in each of 2 processes" in output
        assert ended(follower).count("\nat listops_short-") == 2
    assert {file.suffix for file in (tmp_path / "other").rglob("*") if file.is_file()} == {".log"}
    assert len(list((tmp_path / "results" / "tensorboard").rglob("*tfevents*"))) == 2
    together = {record["cell"]["model"]: record for record in saved_records(tmp_path)}
    again = cli(*few, *places(tmp_path / "alone"))
    assert again.returncode == 0, again.stderr
    alone = {record["cell"]["model"]: record for record in saved_records(tmp_path / "alone")}
    for model in ("fnet", "ff_only"):
        assert_alike(together[model], alone[model])
        assert together[model].keys() == alone[model].keys()
        assert (together[model]["device"]["processes"], together[model]["device"]["used"]) == (2, 2)
        assert (alone[model]["device"]["processes"], alone[model]["device"]["used"]) == (1, 1)
        assert together[model]["key"] != alone[model]["key"]


@pytest.mark.process
def test_a_batch_that_cannot_be_shared_and_a_port_that_is_taken_are_reported(tmp_path):
    port = free_port()
    with run_of(tmp_path, port, 0, *TINY, "--set=train.batch=7") as leader:
        output = ended(leader, 2)
    assert "train.batch (7) must be a multiple of processes × devices × train.accumulate (2 × 1 × 1)" in output
    with socket.create_server(("", port)), run_of(tmp_path, port, 0, *TINY) as leader:
        assert "cannot listen there" in ended(leader, 2)
