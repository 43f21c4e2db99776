"""The command line as a user meets it: what is refused, what is printed, what survives."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.cli import ROOT, TINY, alive, children_of, cli, places, record_files

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models=fnett"], "unknown model 'fnett': did you mean 'fnet'?"),
        (["run", "--tasks=listop"], "unknown task 'listop': did you mean 'listops'?"),
        (["--protocol=quik"], "unknown protocol 'quik': did you mean 'quick'?"),
        (["--set=train.stepz=1"], "unknown setting 'train.stepz': did you mean 'train.steps'?"),
        (["--modles=fnet"], "Did you mean: models"),
        (["runn"], "unknown verb 'runn': did you mean 'run'?"),
        (["--lengths=long"], "--lengths takes whole numbers"),
        (["--lengths=0"], "at least 1"),
        (["--seeds=-1"], "at least 0"),
        (["--device=abacus"], "abacus"),
        (["list", "model"], "did you mean 'models'?"),
        (["run", "now"], "takes flags only"),
        (["leaderboard", "--results=/nowhere"], "no records in /nowhere"),
        (["leaderboard", "--metric=speed"], "speed"),
        (["show"], "show takes one cell"),
        (["show", "fnet", "--results=/nowhere"], "no records in /nowhere"),
        (["compare", "fnet"], "compare takes two models"),
        (["compare", "fnet", "luna", "--results=/nowhere"], "no records in /nowhere"),
        (["--source=/nowhere", "--tasks=listops", "--protocol=lra"], "no source '/nowhere'"),
    ],
)
def test_what_is_wrong_gets_one_line_and_exit_code_2(arguments, words, tmp_path):
    done = cli(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr and done.stderr.count("\n") == 1
    assert not any(tmp_path.rglob("*.json"))


def test_help_and_lists_come_without_jax():
    for arguments, words in (
        (["--help"], "leaderboard"),
        (["run", "--help"], "--protocol"),
        (["list", "tasks"], "listops_short"),
        (["list", "models"], "fnet"),
        (["list", "protocols"], "quick"),
    ):
        program = (
            "import run, sys; code = run.run_process(run.__doc__); assert 'jax' not in sys.modules; sys.exit(code)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20
        )
        assert done.returncode == 0, done.stderr
        assert words in done.stdout


def test_dry_run_prints_cells_and_steps_and_does_nothing(tmp_path):
    done = cli("--dry_run", "--models=all", "--seeds=0,1", "--tasks=listops_short", *places(tmp_path))
    assert done.returncode == 0
    assert done.stdout.count("2,000 steps of 32") >= 4
    assert not any(tmp_path.iterdir())


def test_a_grid_runs_is_skipped_the_second_time_and_survives_a_broken_cell(tmp_path):
    done = cli(*TINY, "--seeds=0,1", "--models=fnet,transformer", *places(tmp_path))
    assert done.returncode == 0, done.stderr
    found = [json.loads(f.read_text()) for f in record_files(tmp_path)]
    assert [r["status"] for r in found] == ["ok"] * 4
    for made in found:
        assert made["cell"]["accelerator"].startswith("CPU")
        assert made["recipe"]["train"]["precision"] == "float32"
        assert [p["step"] for p in made["results"][0]["curve"]] == [3, 6]
        assert made["parameters"] > 0 and made["memory"]["compiled_bytes"] > 0
        assert made["train_speed"]["tokens_per_second"] == 8 * 64 * made["train_speed"]["steps_per_second"]
        assert 0 <= made["idle_share"] < 1 and 0 < made["first_chunk_seconds"] < made["wall_seconds"] + 60
        assert made["flops_per_step"] > 0 and made["mfu"] is None and made["warnings"] == []
    assert "listops_short@64" in done.stdout and "(2 seeds)" in done.stdout
    # What the runner writes, the tables take.
    assert "left out" not in done.stderr
    assert (tmp_path / "out" / "leaderboard.csv").exists() and (tmp_path / "out" / "cells.csv").exists()

    times = {f: f.stat().st_mtime_ns for f in record_files(tmp_path)}
    again = cli(*TINY, "--seeds=0,1", "--models=fnet,transformer", *places(tmp_path))
    assert "4 already done" in again.stdout
    assert {f: f.stat().st_mtime_ns for f in record_files(tmp_path)} == times

    # Too large for any memory: this cell is lost, the next one is not.
    broken = cli(*TINY, "--set=encoder.mlp=100000000000", "--models=transformer", *places(tmp_path))
    assert broken.returncode == 0, broken.stderr
    statuses = sorted(json.loads(f.read_text())["status"] for f in record_files(tmp_path))
    assert statuses == ["ok", "ok", "ok", "ok", "oom"]


def test_killing_the_parent_loses_no_finished_cell(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "run.py"),
        *TINY,
        "--models=fnet",
        "--seeds=0,1,2",
        *places(tmp_path),
    ]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not record_files(tmp_path):
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.05)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    survivors = {f: f.stat().st_mtime_ns for f in record_files(tmp_path)}
    assert 1 <= len(survivors) <= 2
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "already done" in done.stdout
    assert len(record_files(tmp_path)) == 3
    assert {f: f.stat().st_mtime_ns for f in survivors} == survivors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_keeps_what_is_finished_and_leaves_no_process(tmp_path, number):
    steps = ["--set=train.steps=1000000", "--set=train.eval_every=1000"]
    command = [sys.executable, str(ROOT / "run.py"), *TINY, *steps, "--models=fnet", *places(tmp_path)]
    # What a shell starts in the background ignores Ctrl-C, and so does all that it starts: undone here.
    heed = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", heed, *command]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (children := children_of(parent.pid)) or not any((tmp_path / "results").rglob("*.log")):
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(number)
    _, told = parent.communicate(timeout=90)
    assert parent.returncode == 130 and "Finished cells and checkpoints are kept" in told
    assert all(json.loads(f.read_text())["status"] == "interrupted" for f in record_files(tmp_path))
    # A cell that was only just being started ends by itself, when it finds its parent gone.
    deadline = time.monotonic() + 60
    while any(map(alive, children)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


MIXER = '''
import jax.numpy as jnp
from flax import nnx


class Mean(nnx.Module):
    """Every position gets the mean of all real positions, scaled and projected."""

    def __init__(self, dim: int, length: int, *, scale: float = 1.0, rngs: nnx.Rngs):
        self.scale = scale
        self.out = nnx.Linear(dim, dim, rngs=rngs)

    def __call__(self, x, mask, rngs=None):
        weight = mask / jnp.maximum(mask.sum(-1, keepdims=True), 1)
        mean = self.scale * jnp.einsum("bl,bld->bd", weight.astype(x.dtype), x)
        return self.out(jnp.broadcast_to(mean[:, None], x.shape))
'''


def test_someone_else_s_mixer_runs_from_outside_the_project(tmp_path):
    (tmp_path / "theirs.py").write_text(MIXER)
    model = "--models=theirs:Mean:scale=0.5,performer:features=8,kernel=relu"
    done = cli(*TINY, model, *places(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {r["cell"]["model"]: r for r in (json.loads(f.read_text()) for f in record_files(tmp_path))}
    assert set(found) == {"theirs:Mean:scale=0.5", "performer:features=8,kernel=relu"}
    assert all(made["status"] == "ok" for made in found.values())
    assert found["theirs:Mean:scale=0.5"]["recipe"]["mixer"] == [["scale", 0.5]]
    assert found["performer:features=8,kernel=relu"]["recipe"]["mixer"] == [["features", 8], ["kernel", "relu"]]


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ("performer:feature=8", "unknown option 'feature': did you mean 'features'?"),
        ("performer:features=many", "performer:features takes a whole number, not 'many'"),
        ("performer:kernel=relo", "did you mean 'relu'?"),
        ("features=8", "no model precedes the option"),
        ("theirs:Mean", "cannot import the mixer 'theirs:Mean'"),
    ],
)
def test_wrong_options_of_a_model_are_told_before_any_work(tmp_path, models, words):
    done = cli("--dry_run", f"--models={models}", *places(tmp_path), cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr and done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_prepare_tells_what_it_made_and_list_shows_it(tmp_path):
    data = f"--data={tmp_path}/data"
    counts = ["--set=data.train=40", "--set=data.validation=10", "--set=data.test=10"]
    done = cli("prepare", "--workers=1", data, *counts, f"--preview={tmp_path}/pages")
    assert done.returncode == 0, done.stderr
    assert "listops_short, length 64: 40 / 10 / 10 examples, generated (seed 0)" in done.stdout
    assert list((tmp_path / "pages").glob("*.png"))
    shown = cli("list", "tasks", "--details", data)
    assert shown.returncode == 0 and "listops_short" in shown.stdout and "generated" in shown.stdout


def test_list_models_with_details_shows_papers_and_options():
    done = cli("list", "models", "--details")
    assert done.returncode == 0, done.stderr
    assert "performer" in done.stdout and "features=" in done.stdout and "arXiv:2009.14794" in done.stdout
    # The figures of the official code's models.
    assert done.stdout.count("3,487,490 at") >= 6 and "3,551,554 at" in done.stdout


def test_a_full_disk_ends_the_grid_with_one_line_and_keeps_what_is_finished(tmp_path):
    done = cli(*TINY, "--models=fnet", *places(tmp_path))
    assert done.returncode == 0, done.stderr
    kept = {f: f.read_text() for f in record_files(tmp_path)}
    # No file of this process tree may grow past 1,024 bytes: records are larger, as on a disk that is full.
    limit = f"ulimit -f 1; exec {sys.executable} {ROOT / 'run.py'} "
    arguments = [*TINY, "--models=transformer", *places(tmp_path)]
    full = subprocess.run(["bash", "-c", limit + " ".join(arguments)], cwd=ROOT, capture_output=True, text=True)
    assert full.returncode == 2
    assert full.stderr.count("\n") == 1 and "finished cells are kept" in full.stderr
    assert {f: f.read_text() for f in record_files(tmp_path)} == kept
