"""The command line as a user meets it: what is refused, what is printed, what survives."""

import os
import platform
import re
import signal
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest

from lra.cli import parsing
from lra.cli.main import console, main, verbs
from lra.cli.overview import summaries
from lra.results import provenance
from tests.helpers.cli import (
    ROOT,
    TINY,
    alive,
    call,
    children_of,
    cli,
    places,
    record_files,
    saved_records,
    start,
    without_jax,
)
from tests.helpers.waiting import until


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
        (["--pairs", "--noreach"], "leave out --noreach"),
        (["--models=lru:bidirectional=false"], "listops_short, lru:bidirectional=false: it reads from left to right"),
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
    done = call(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr and done.stderr.count("\n") == 1
    assert not any(tmp_path.rglob("*.json"))


def test_an_error_of_the_system_gets_one_line_and_exit_code_2(monkeypatch, capsys):
    def fail(options):
        raise OSError(24, "Too many open files", "/a/file")

    monkeypatch.setattr("lra.cli.report.status", fail)
    assert main(["status"]) == 2
    assert capsys.readouterr().err == "run.py status: Too many open files: /a/file\n"


def test_help_and_lists_come_without_jax():
    words = {
        "--help": "leaderboard", "run --help": "--protocol", "list tasks": "listops_short", "list models": "fnet",
        "list protocols": "quick",
    }  # fmt: skip
    for word, output in zip(words.values(), without_jax(*words), strict=True):
        assert word in output


def test_help_names_every_verb_and_the_program_as_it_was_started(capsys):
    for program in ("lra", "python run.py"):
        assert main(["--help"], program) == 0 == main(["list", "--help"], program)
        shown = capsys.readouterr().out
        assert f"\n{program} [VERB]" in shown and f"{program} list: Prints the known" in shown
    assert list(summaries()) == list(verbs()) and all(summaries().values())


def test_help_lists_all_flags_of_a_verb_in_order_and_no_module():
    for verb, how in verbs().items():
        shown = call(verb, "--help").stdout
        found = re.findall(r"^  --(?:\[no\])?(\w+): ", shown, re.MULTILINE)
        assert found == sorted(flag.name for flag in parsing.summaries(how.define)), verb
        assert "lra.cli" not in shown, verb
        assert all(len(line) <= 80 for line in shown.splitlines() if line.startswith(("  --", "    "))), verb
    shown = " ".join(call("run", "--help").stdout.split())
    assert "--[no]reach: Measure how far each trained model looks, after its test. (default: true) --" in shown
    assert "--set optimizer.learning_rate=0.01 (can be repeated) --" in shown


def test_version_is_one_line_and_comes_without_jax(monkeypatch):
    (shown,) = without_jax("--version")
    python, jax = platform.python_version(), metadata.version("jax")
    assert re.fullmatch(rf"lra-suite \d+\.\d+\.\d+, commit \S+, Python {python}, jax {jax}\n", shown)
    monkeypatch.setattr("lra.results.provenance.commit", lambda: None)
    assert ", commit unknown, " in call("--version").stdout


def test_the_installed_command_is_named_in_records_without_its_path(monkeypatch):
    for program, named in (("/home/a/bin/lra", "lra"), ("run.py", "python run.py")):
        monkeypatch.setattr(sys, "argv", [program, "run", "--models=a b"])
        assert provenance.current_origin()["command"] == f"{named} run '--models=a b'"


def test_the_installed_command_is_this_one():
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["lra"]
    assert found == f"{console.__module__}:{console.__name__}"


def test_dry_run_prints_cells_and_steps_and_does_nothing(tmp_path):
    done = call("--dry_run", "--models=all", "--seeds=0,1", "--tasks=listops_short", *places(tmp_path))
    assert done.returncode == 0
    assert done.stdout.count("2,000 steps of 32") >= 4
    assert not any(tmp_path.iterdir())


@pytest.mark.process
def test_a_grid_runs_is_skipped_the_second_time_and_survives_a_broken_cell(tmp_path):
    grid = [*TINY, "--seeds=0,1", "--models=fnet,transformer", *places(tmp_path)]
    done = cli(*grid)
    assert done.returncode == 0, done.stderr
    records = saved_records(tmp_path)
    assert [record["status"] for record in records] == ["ok"] * 4
    for record in records:
        assert record["cell"]["accelerator"].startswith("CPU")
        assert record["recipe"]["train"]["precision"] == "float32"
        assert [point["step"] for point in record["results"][0]["curve"]] == [3, 6]
        assert record["parameters"] > 0 and record["memory"]["compiled_bytes"] > 0
        assert record["train_speed"]["tokens_per_second"] == 8 * 64 * record["train_speed"]["steps_per_second"]
        assert 0 <= record["idle_share"] < 1 and 0 < record["first_chunk_seconds"] < record["wall_seconds"] + 60
        assert record["flops_per_step"] > 0 and record["mfu"] is None and record["warnings"] == []
    assert "listops_short@64" in done.stdout and "(2 seeds)" in done.stdout
    # What the runner writes, the tables take.
    assert "left out" not in done.stderr
    assert (tmp_path / "out" / "leaderboard.csv").exists() and (tmp_path / "out" / "cells.csv").exists()

    times = {f: f.stat().st_mtime_ns for f in record_files(tmp_path)}
    again = call(*grid)
    assert "4 already done" in again.stdout
    assert {f: f.stat().st_mtime_ns for f in record_files(tmp_path)} == times

    # Too large for any memory: this cell is lost, the next one is not.
    broken = call(*TINY, "--set=encoder.mlp=100000000000", "--models=transformer", *places(tmp_path))
    assert broken.returncode == 0, broken.stderr
    assert sorted(record["status"] for record in saved_records(tmp_path)) == ["ok", "ok", "ok", "ok", "oom"]


@pytest.mark.process
def test_killing_the_parent_loses_no_finished_cell(tmp_path):
    grid = [*TINY, "--models=ff_only", "--seeds=0,1,2", *places(tmp_path)]
    parent = start(*grid)
    until(lambda: record_files(tmp_path) or parent.poll() is not None)
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    survivors = {f: f.stat().st_mtime_ns for f in record_files(tmp_path)}
    assert 1 <= len(survivors) <= 2
    done = call(*grid)
    assert done.returncode == 0, done.stderr
    assert "already done" in done.stdout
    assert len(record_files(tmp_path)) == 3
    assert {f: f.stat().st_mtime_ns for f in survivors} == survivors


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_keeps_what_is_finished_and_leaves_no_process(tmp_path, number):
    steps = ["--set=train.steps=1000000", "--set=train.eval_every=1000"]
    command = [sys.executable, str(ROOT / "run.py"), *TINY, *steps, "--models=fnet", *places(tmp_path)]
    # What a shell starts in the background ignores Ctrl-C, and so does all that it starts: undone here.
    heed = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", heed, *command]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: any((tmp_path / "results").rglob("*.log")) or parent.poll() is not None)
    children = until(lambda: children_of(parent.pid))
    parent.send_signal(number)
    _, errors = parent.communicate()
    assert parent.returncode == 130 and "Finished cells and checkpoints are kept" in errors
    assert all(record["status"] == "interrupted" for record in saved_records(tmp_path))
    # A cell that was only just being started ends by itself, when it finds its parent gone.
    until(lambda: not any(map(alive, children)))


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


@pytest.mark.process
def test_someone_else_s_mixer_runs_from_outside_the_project(tmp_path):
    (tmp_path / "theirs.py").write_text(MIXER)
    model = "--models=theirs:Mean:scale=0.5,performer:features=8,kernel=relu"
    # Their code need not be strict about types and ranks, as ours is in tests.
    env = os.environ | {"JAX_NUMPY_DTYPE_PROMOTION": "standard", "JAX_NUMPY_RANK_PROMOTION": "allow"}
    done = cli(*TINY, model, *places(tmp_path), cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    records = {record["cell"]["model"]: record for record in saved_records(tmp_path)}
    assert set(records) == {"theirs:Mean:scale=0.5", "performer:features=8,kernel=relu"}
    assert all(record["status"] == "ok" for record in records.values())
    assert records["theirs:Mean:scale=0.5"]["recipe"]["mixer"] == [["scale", 0.5]]
    assert records["performer:features=8,kernel=relu"]["recipe"]["mixer"] == [["features", 8], ["kernel", "relu"]]


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
    done = call("--dry_run", f"--models={models}", *places(tmp_path), cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr and done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_prepare_tells_what_it_made_and_list_shows_it(tmp_path):
    data = f"--data={tmp_path}/data"
    counts = ["--set=data.train=40", "--set=data.validation=10", "--set=data.test=10"]
    done = call("prepare", "--workers=1", data, *counts, f"--preview={tmp_path}/pages")
    assert done.returncode == 0, done.stderr
    assert "listops_short, length 64: 40 / 10 / 10 examples, generated (seed 0)" in done.stdout
    assert list((tmp_path / "pages").glob("*.png"))
    shown = call("list", "tasks", "--details", data)
    assert shown.returncode == 0 and "listops_short" in shown.stdout and "generated" in shown.stdout


def test_list_models_with_details_shows_papers_and_options():
    done = call("list", "models", "--details")
    assert done.returncode == 0, done.stderr
    assert "performer" in done.stdout and "features=" in done.stdout and "arXiv:2009.14794" in done.stdout
    # The figures of the official code's models.
    assert done.stdout.count("3,487,490 at") >= 6 and "3,551,554 at" in done.stdout


@pytest.mark.process
def test_a_full_disk_ends_the_grid_with_one_line_and_keeps_what_is_finished(tmp_path, finished):
    kept = {f: f.read_text() for f in record_files(tmp_path)}
    # No file of this process tree may grow past 1,024 bytes: records are larger, as on a disk that is full.
    limit = f"ulimit -f 1; exec {sys.executable} {ROOT / 'run.py'} "
    arguments = [*finished, "--seeds=1"]
    full = subprocess.run(["bash", "-c", limit + " ".join(arguments)], cwd=ROOT, capture_output=True, text=True)
    assert full.returncode == 2
    assert full.stderr.count("\n") == 1 and "finished cells are kept" in full.stderr
    assert {f: f.read_text() for f in record_files(tmp_path)} == kept
