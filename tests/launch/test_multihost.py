"""One cell on several hosts, here processes of this machine: the numbers of one process, one writer, no run lost."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lra.errors import UsageError
from lra.grid import expand
from lra.grid.cell import split_seeds
from lra.grid.spec import TrainOptions, WorkerSpec
from lra.launch import multihost
from lra.launch.multihost_follower import Follower
from lra.launch.multihost_leader import Leader
from lra.results import runs
from lra.train.checkpoint import Checkpoints
from tests.helpers.cli import ROOT, TINY, checkpoints, children_of, cli, free_port, only_record, record_files
from tests.helpers.training import train, with_train

pytestmark = pytest.mark.process

RECIPE = with_train(steps=12, eval_every=4)

PROGRAM = """
import dataclasses, json, sys
from pathlib import Path
import jax
jax.config.update("jax_compilation_cache_dir", sys.argv[1] + "/compiled")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
from lra.train import distributed
process = int(sys.argv[3])
distributed.join("127.0.0.1:" + sys.argv[2], 2, process, 1)
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# What only process 0 has comes to all bit for bit, and random keys can be placed too.
shared = NamedSharding(Mesh(np.array(distributed.devices(1)), ("batch",)), PartitionSpec())
like = distributed.put_replicated({"key": jax.random.key(3), "x": np.zeros(2, np.float32)}, shared)
mine = {"key": jax.random.key(4), "x": np.array([-0.0, 1.5], np.float32)}
arrays, told = distributed.broadcast_checkpoint((mine, {"step": 7}) if process == 0 else None, like)
assert np.asarray(arrays["x"]).tobytes() == mine["x"].tobytes() and told == {"step": 7}
assert jax.random.key_data(arrays["key"]).tolist() == jax.random.key_data(jax.random.key(3)).tolist()
assert distributed.broadcast_checkpoint(None, like) is None and distributed.first_reason("late" * process) == "late"

import lra.train.loop
from tests.launch.test_multihost import RECIPE, session
from tests.helpers.training import train, with_train

lra.train.loop.chunk_length = lambda steps_between, flops, backend: 2
kept = Path(sys.argv[1]) if process == 0 else None
runs = {
    "kept": train(RECIPE, (0, 5)),
    "streamed in parts": train(with_train(steps=12, eval_every=4, accumulate=2), (0, 5), stream="on"),
    "from one": session(kept and kept / "one"),
    "stopped": session(kept and kept / "two", 3 if process == 1 else None),
}
print(json.dumps({name: dataclasses.asdict(run) for name, run in runs.items()}))
"""


SPEC = WorkerSpec(started=0.0, record={}, entry=None, path="", compilation_cache="", train=TrainOptions())


def session(folder, chunks=None):
    """Trains to the end, or for some chunks; with checkpoints where there is a folder for them."""
    kept = Checkpoints(folder, "k", 0, pytest.fail) if folder else None
    asked = iter(range(10**6))

    def stop():
        return "enough" if chunks is not None and next(asked) >= chunks else ""

    outcome = train(RECIPE, (0, 5), checkpoints=kept, stop=stop)
    if kept:
        kept.close()
    return outcome


def test_two_processes_give_the_losses_of_one_and_go_on_from_each_other_s_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr("lra.train.loop.chunk_length", lambda steps_between, flops, backend: 2)
    assert session(tmp_path / "one", 3).status == "interrupted"
    port = str(free_port())
    both = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path), port, str(process)], cwd=ROOT, text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for process in (0, 1)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=900) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in outputs)
    # Decisions and numbers are everyone's, so that no process ever waits for another in vain.
    assert all(first[name]["results"] == second[name]["results"] for name in first)
    assert first["stopped"]["status"] == second["stopped"]["status"] == "interrupted"
    assert first["stopped"]["error"] == "enough" and first["stopped"]["steps"] == 6
    assert (first["from one"]["resumed"], first["from one"]["steps"], len(first["from one"]["blocks"])) == (1, 12, 2)
    assert (first["kept"]["devices"], first["kept"]["processes"]) == (2, 2)
    assert first["streamed in parts"]["streamed"] and not first["kept"]["streamed"]

    one = dataclasses.asdict(train(RECIPE, (0, 5)))
    back = dataclasses.asdict(session(tmp_path / "two"))
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


# Small steps, so that rounding stays rounding.
LONG = [
    *TINY, "--models=ff_only", "--set=train.steps=3000", "--set=train.eval_every=100", "--checkpoint_minutes=0",
    "--set=optimizer.learning_rate=1e-6",
]  # fmt: skip


@contextlib.contextmanager
def run_of(folder: Path, port: int, process: int, *more: str):
    """A run that is one of two processes, with a results folder of its own; killed at the block's end."""
    places = [f"--data={folder}/data", f"--results={folder}/results", f"--out={folder}/out"]
    if process:
        places[1] = f"--results={folder}/other"
    which = [f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={process}"]
    command = [sys.executable, str(ROOT / "run.py"), "run", *more, *places, *which]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            yield run
        finally:
            run.kill()


def ended(run, code: int = 0) -> str:
    """Waits for a run, checks its exit code, and returns its output."""
    out, err = run.communicate(timeout=600)
    assert run.returncode == code, (out, err)
    return out + err


def wait_for_a_new_checkpoint(folder, before, *runs) -> None:
    deadline = time.monotonic() + 600
    while checkpoints(folder)[-1:] <= before[-1:]:
        assert time.monotonic() < deadline and all(run.poll() is None for run in runs)
        time.sleep(0.02)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with the data, and with what is compiled."""
    folder = tmp_path_factory.mktemp("hosts")
    done = cli("prepare", "--tasks=listops_short", *[a for a in TINY if "data." in a], f"--data={folder}/data")
    assert done.returncode == 0, done.stderr
    return folder / "data"


@pytest.fixture
def folder(tmp_path, prepared):
    (tmp_path / "data").symlink_to(prepared)
    return tmp_path


def assert_alike(one, other):
    assert one["status"] == other["status"] == "ok"
    for a, b in zip(one["results"], other["results"], strict=True):
        assert len(a["curve"]) == len(b["curve"]) > 0
        for p, q in zip(a["curve"], b["curve"], strict=True):
            assert p == pytest.approx(q, rel=1e-4, abs=1e-6)
        assert (a["test_best"], a["test_last"]) == pytest.approx((b["test_best"], b["test_last"]), abs=1e-6)


def test_two_runs_leave_one_record_like_that_of_one(folder):
    few = [*TINY, "--models=fnet,ff_only", "--tensorboard"]
    port = free_port()
    with run_of(folder, port, 1, *few) as follower, run_of(folder, port, 0, *few) as leader:
        output = ended(leader)
        assert "2 cells on CPU" in output and "in each of 2 processes" in output
        assert ended(follower).count("\nat listops_short-") == 2
    assert {file.suffix for file in (folder / "other").rglob("*") if file.is_file()} == {".log"}
    assert len(list((folder / "results" / "tensorboard").rglob("*tfevents*"))) == 2
    together = {r["cell"]["model"]: r for r in (json.loads(f.read_text()) for f in record_files(folder))}
    again = cli(*few, f"--data={folder}/data", f"--results={folder}/alone", f"--out={folder}/out")
    assert again.returncode == 0, again.stderr
    alone = {
        r["cell"]["model"]: r for r in (json.loads(f.read_text()) for f in (folder / "alone" / "records").iterdir())
    }
    for model in ("fnet", "ff_only"):
        assert_alike(together[model], alone[model])
        assert together[model].keys() == alone[model].keys()
        assert (together[model]["device"]["processes"], together[model]["device"]["used"]) == (2, 2)
        assert (alone[model]["device"]["processes"], alone[model]["device"]["used"]) == (1, 1)
        assert together[model]["key"] != alone[model]["key"]


def test_whoever_is_killed_the_same_command_goes_on(folder):
    port = free_port()
    with run_of(folder, port, 1, *LONG) as follower, run_of(folder, port, 0, *LONG) as leader:
        wait_for_a_new_checkpoint(folder, [], follower, leader)
        (part,) = children_of(follower.pid)
        os.kill(part, signal.SIGKILL)
        assert "failed" in ended(leader)
        ended(follower)
    assert only_record(folder)["status"] == "failed" and "SIGKILL" in only_record(folder)["error"]

    before = checkpoints(folder)
    assert before
    with run_of(folder, port, 1, *LONG) as follower, run_of(folder, port, 0, *LONG) as leader:
        wait_for_a_new_checkpoint(folder, before, follower, leader)
        follower.kill()
        ended(leader)
    assert only_record(folder)["status"] == "failed" and "is gone" in only_record(folder)["error"]

    before = checkpoints(folder)
    with run_of(folder, port, 1, *LONG) as follower:
        with run_of(folder, port, 0, *LONG) as leader:
            wait_for_a_new_checkpoint(folder, before, follower, leader)
            leader.kill()
        assert follower.poll() is None
        with run_of(folder, port, 0, *LONG) as leader:
            ended(leader)
            ended(follower)
    mended = only_record(folder)
    assert mended["resumed"] >= 3 and not checkpoints(folder)

    done = cli(*LONG, f"--data={folder}/data", f"--results={folder}/whole", f"--out={folder}/out")
    assert done.returncode == 0, done.stderr
    (file,) = (folder / "whole" / "records").glob("*.json")
    assert_alike(mended, json.loads(file.read_text()))


def test_a_follower_that_is_stopped_stops_all_and_one_process_goes_on(folder):
    port = free_port()
    with run_of(folder, port, 1, *LONG) as follower, run_of(folder, port, 0, *LONG) as leader:
        wait_for_a_new_checkpoint(folder, [], follower, leader)
        follower.terminate()
        assert "Stopped" in ended(follower, 130)
        assert "1 interrupted" in ended(leader)
    stopped = only_record(folder)
    assert (stopped["status"], stopped["error"][:19]) == ("interrupted", "stopped by a signal")
    assert checkpoints(folder)[-1] == stopped["results"][0]["steps"]
    done = cli(*LONG, f"--data={folder}/data", f"--results={folder}/results", f"--out={folder}/out")
    assert done.returncode == 0, done.stderr
    records = {r["device"]["processes"]: r for r in (json.loads(f.read_text()) for f in record_files(folder))}
    assert (records[1]["status"], records[1]["resumed"], records[2]["status"]) == ("ok", 1, "interrupted")
    assert records[1]["results"][0]["curve"][0] == stopped["results"][0]["curve"][0]


def test_a_follower_without_the_data_is_named(folder):
    port, elsewhere = free_port(), ["--data=" + str(folder / "nothing")]
    few = [*TINY, "--models=ff_only"]
    with run_of(folder, port, 0, *few) as leader:
        places = [f"--results={folder}/other", f"--coordinator=127.0.0.1:{port}", "--processes=2", "--process=1"]
        follower = cli(*few, *elsewhere, *places)
        ended(leader)
    assert follower.returncode == 0, follower.stderr
    record = only_record(folder)
    assert record["status"] == "failed" and "run prepare there" in record["error"]
    assert f"{folder}/nothing" in record["error"]


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
def test_what_is_wrong_gets_one_line_and_exit_code_2(flags, words, tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    done = cli(*flags, cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert words in done.stderr and done.stderr.count("\n") == 1


def test_a_batch_that_cannot_be_shared_and_a_port_that_is_taken_are_reported(folder):
    port = free_port()
    with run_of(folder, port, 0, *TINY, "--set=train.batch=7") as leader:
        output = ended(leader, 2)
    assert "train.batch (7) must be a multiple of processes × devices × train.accumulate (2 × 1 × 1)" in output
    with socket.create_server(("", port)), run_of(folder, port, 0, *TINY) as leader:
        assert "cannot listen there" in ended(leader, 2)


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
    plan = expand.make_plans(expand.find_protocol("quick"), [], ["fnet"], [], [0, 1], [])
    (plan,) = expand.group_seeds(plan, "on", {})
    device = {"platform": "gpu", "kind": "NVIDIA H200", "count": 8}
    one, two = (expand.make_cell(plan, None, device, 4, processes=n) for n in (1, 2))
    assert two.accelerator == "4 × NVIDIA H200 in each of 2 processes"
    assert two.single_process == one.single_process == one != two and two.key != one.key
    assert [cell.single_process for cell in split_seeds(two)] == split_seeds(one)
    assert runs.cell_entry(two)["lease"] == one.name != runs.cell_entry(two)["name"]
