"""What breaks runs in the field: outputs and locales, signals of schedulers, noisy interpreters, folders, flags."""

import errno
import io
import json
import os
import signal
import subprocess
import sys

import pytest

from lra.cli import output, parsing
from lra.errors import UsageError
from lra.grid.source import fingerprint
from lra.launch import process
from lra.results import records
from tests.helpers.cli import (
    ROOT,
    TINY,
    call,
    children_of,
    cli,
    only_record,
    places,
    record_files,
    saved_records,
    start,
)
from tests.helpers.held import HELD, Hold
from tests.helpers.records import record
from tests.helpers.waiting import wait_for_a_new_checkpoint

NOISE = "import sys\nprint('welcome to the cluster', end='')\nprint('module loaded', file=sys.stderr)\n"
THEIRS = """
import jax

import models.mixing.ff_only

jax.config.update("jax_enable_x64", True)


class Mix(models.mixing.ff_only.FeedForwardOnly):
    pass
"""


@pytest.mark.process
def test_a_noisy_interpreter_an_ascii_locale_and_jax_s_variables_change_no_number(tmp_path, finished):
    (tmp_path / "sitecustomize.py").write_text(NOISE)
    (tmp_path / "theirs.py").write_text(THEIRS)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {
        "PYTHONPATH": path, "JAX_ENABLE_X64": "1", "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
        "JAX_DEFAULT_PRNG_IMPL": "rbg", "PYTHONIOENCODING": "ascii",
    }  # fmt: skip
    (before,) = saved_records(tmp_path)
    command = [*TINY, "--models=ff_only,theirs:Mix", "--checkpoint_minutes=0", *places(tmp_path / "there")]
    done = cli(*command, env=env)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "listops_short ? theirs:Mix" in done.stdout
    made = saved_records(tmp_path / "there")
    assert [r["results"] for r in made] == [before["results"]] * 2
    assert (tmp_path / "there" / "out" / "leaderboard.csv").stat().st_size > 0


@pytest.mark.process
@pytest.mark.parametrize("output", ["| head -n 1 >/dev/null", "2>&- >&-"])
def test_output_that_cannot_be_written_ends_no_grid(tmp_path, output):
    command = " ".join([sys.executable, str(ROOT / "run.py"), *TINY, "--models=fnet,ff_only", *places(tmp_path)])
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command} {output}"], capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "Broken" not in done.stderr, done.stderr
    assert [r["status"] for r in saved_records(tmp_path)] == ["ok", "ok"]
    assert (tmp_path / "out" / "leaderboard.csv").stat().st_size > 0


@pytest.mark.process
def test_a_list_whose_reader_leaves_is_no_problem():
    command = f"{sys.executable} {ROOT / 'run.py'} list models --details | head -n 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("\n") == 1


@pytest.mark.process
@pytest.mark.parametrize("name", ["SIGUSR2", "SIGHUP"])
def test_a_scheduler_s_warning_to_every_process_saves(tmp_path, name):
    hold = Hold(tmp_path / "hold")
    hold.at(20)
    sizes = ["--set=train.steps=120", "--set=train.eval_every=10", "--checkpoint_minutes=0"]
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # the tests may have been started by nohup
    run = start(*TINY, HELD, *sizes, *places(tmp_path), env=hold.env)
    signal.signal(number, before)
    wait_for_a_new_checkpoint(tmp_path, [], run)
    for pid in (*children_of(run.pid), run.pid, run.pid):  # a terminal's SIGHUP comes twice
        os.kill(pid, number)
    _, errors = run.communicate()
    assert run.returncode == 130 and "the same command goes on from here" in errors
    assert only_record(tmp_path)["status"] == "interrupted"


@pytest.mark.process
def test_a_run_that_is_told_to_ignore_a_hang_up_does(tmp_path):
    hold = Hold(tmp_path / "hold")
    hold.at(20)
    sizes = ["--set=train.steps=40", "--set=train.eval_every=10", "--checkpoint_minutes=0"]
    command = ["nohup", sys.executable, str(ROOT / "run.py"), *TINY, HELD, *sizes, *places(tmp_path)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=hold.env)
    wait_for_a_new_checkpoint(tmp_path, [], run)
    for pid in (*children_of(run.pid), run.pid):
        os.kill(pid, signal.SIGHUP)
    hold.release()
    run.communicate()
    assert run.returncode == 0 and only_record(tmp_path)["status"] == "ok"


@pytest.mark.process
def test_a_cell_with_a_long_name_has_a_record_and_is_found_again(tmp_path):
    package = "a_package_of_the_laboratory_with_a_long_name_" * 4
    (tmp_path / package).mkdir()
    options = ", ".join(f"option_number_{i}_of_this_mixer: float = 1.0" for i in range(4))
    (tmp_path / package / "mixers.py").write_text(
        "import models.mixing.ff_only\nfrom flax import nnx\n\nclass Mix(models.mixing.ff_only.FeedForwardOnly):\n"
        f"    def __init__(self, dim: int, length: int, *, {options}, rngs: nnx.Rngs):\n        pass\n"
    )
    given = ",".join(f"option_number_{i}_of_this_mixer=0.{i}25" for i in range(4))
    command = [*TINY, f"--models={package}.mixers:Mix:{given}", *places(tmp_path)]
    done = call(*command, cwd=tmp_path)
    assert done.returncode == 0 and only_record(tmp_path)["status"] == "ok", done.stderr
    assert "1 already done" in call(*command, cwd=tmp_path).stdout


@pytest.mark.process
def test_a_cell_of_ours_that_other_code_has_trained_is_told(tmp_path, finished):
    assert ", 1 already done (--rerun" in call(*finished).stdout
    (file,) = record_files(tmp_path)
    made = json.loads(file.read_text())
    assert made["code"] == {"fingerprint": fingerprint("models.mixing.ff_only:FeedForwardOnly"), "versions": {}}
    file.write_text(json.dumps(made | {"code": {"fingerprint": "other", "versions": {}}}))
    done = call(*finished)
    assert ", 1 already done, 1 of them before their mixer's code was changed (--rerun" in done.stdout
    assert "code: 1 record is of ff_only from before its mixer's code was changed" in done.stderr


IMPORTS = {
    "broken": ("class Mix(:", "SyntaxError: invalid syntax (broken.py, line 1)"),
    "missing": ("\nimport no_such_library", "No module named 'no_such_library' (", "missing.py, line 2)"),
    "divides": ("x = 1\n1 / 0", "ZeroDivisionError: division by zero (", "divides.py, line 2)"),
    "exits": ("raise SystemExit('not here')", "SystemExit: not here (", "exits.py, line 1)"),
    "empty": ("", "module 'empty' has no attribute 'Mix'"),
}


@pytest.mark.parametrize("module", IMPORTS)
def test_a_mixer_that_cannot_be_imported_is_told_with_its_place(tmp_path, module):
    text, *words = IMPORTS[module]
    (tmp_path / f"{module}.py").write_text(text)
    done = call(*TINY, f"--models={module}:Mix", *places(tmp_path), cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "device" not in done.stderr
    assert all(word in done.stderr for word in (f"cannot import the mixer '{module}:Mix'", *words)), done.stderr


def test_a_missing_accelerator_is_told_with_what_to_install(monkeypatch):
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match=r"no device for --device=gpu: .*pip install -e '\.\[gpu\]'"):
        process.probe("gpu", [])


def test_variables_that_would_change_numbers_are_not_passed_on(monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setenv("JAX_LOG_COMPILES", "1")
    env = process.environment("cpu")
    assert "JAX_ENABLE_X64" not in env and "NVIDIA_TF32_OVERRIDE" not in env and env["JAX_LOG_COMPILES"] == "1"


@pytest.fixture
def results(tmp_path):
    """A folder with results folders, of which one has a comma in its name, and one no records."""
    for name in ("a", "width=64,depth=2"):
        records.write(tmp_path / name / "records" / "r.json", record(score=0.4))
    (tmp_path / "none").mkdir()
    return tmp_path


@pytest.mark.parametrize("folder", ["a", "a/", "a/records", "width=64,depth=2", "a,width=64,depth=2"])
def test_the_results_folder_that_is_meant_is_found(results, folder):
    done = call("leaderboard", f"--results={folder}", "--out=out", "--noplots", cwd=results)
    assert done.returncode == 0 and "40.00" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        (".", "but below it: --results=a,width=64,depth=2"),
        ("none", "run cells first, or give their folder"),
        ("nowhere", "run cells first, or give their folder"),
    ],
)
@pytest.mark.parametrize("verb", [["leaderboard", "--noplots"], ["compare", "fnet", "luna"], ["show", "r"]])
def test_a_folder_without_records_is_one_line_and_overwrites_nothing(results, verb, folder, words):
    call("leaderboard", "--results=a", "--out=leaderboard", "--noplots", cwd=results)
    before = {file: file.read_bytes() for file in (results / "leaderboard").iterdir()}
    done = call(*verb, f"--results={folder}", cwd=results)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    assert {file: file.read_bytes() for file in (results / "leaderboard").iterdir()} == before


def test_a_home_folder_is_expanded_in_every_flag(tmp_path, monkeypatch):
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    records.write(home / "results" / "records" / "r.json", record())
    counts = [word for word in TINY if "data." in word]
    for arguments in (
        ["prepare", "--workers=1", "--data=~/data", "--preview=~/pages", *counts],
        ["leaderboard", "--noplots", "--results=~/results", "--out=~/out"],
        ["show", "r", "--results=~/results"],
        ["list", "tasks", "--details", "--data=~/data"],
    ):
        done = call(*arguments, cwd=here)
        assert done.returncode == 0, done.stderr
    assert "listops_short" in done.stdout
    assert {f.name for f in home.iterdir() if f.name[0] != "."} == {"data", "results", "out", "pages"}
    assert not list(here.iterdir())
    with pytest.raises(UsageError, match="'~nobody_of_this_name/x'"):
        parsing.path("~nobody_of_this_name/x")


@pytest.mark.parametrize("error", [errno.EPIPE, errno.EIO, errno.ENOSPC])
def test_an_output_that_fails_is_done_without(tmp_path, error):
    class Raw(io.FileIO):
        def write(self, text):
            raise OSError(error, "no")

    with open(tmp_path / "file", "wb") as file:
        stream = output._tolerant(io.TextIOWrapper(io.BufferedWriter(Raw(os.dup(file.fileno()), "wb")), "ascii"))
        for _ in range(3):
            print("×" * 10_000, file=stream, flush=True)
        stream.buffer.raw.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--models=fnet", "--models=luna"],
            "--models is given 2 times, and only one value would count: write --models=A,B",
        ),
        (["--protocol=quick", "--protocol=lra"], "--protocol is given 2 times"),
        (["--rerun", "--norerun"], "--rerun is given 2 times"),
        (["--models=fnet,"], "--models=fnet, has an empty item"),
        (["--seeds=0,,1"], "--seeds=0,,1 has an empty item"),
        (["--models=performer:features=64,features=32"], "has the option 'features' twice"),
        (
            ["--models=performer:features=64,fnet,performer:features=8,kernel=relu,features=8"],
            "has the option 'features' twice",
        ),
        (
            ["--tasks=listops"],
            "use --protocol=lra or --protocol=lra_paper or --protocol=small or --protocol=ssm; quick has",
        ),
    ],
)
def test_nothing_that_is_asked_for_is_dropped_in_silence(arguments, words):
    done = call("run", "--dry_run", *arguments)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_settings_and_parameters_may_be_given_several_times():
    done = call("run", "--dry_run", "--set=train.steps=3", "--set=train.eval_every=1")
    assert done.returncode == 0 and ": 3 steps" in done.stdout


def test_status_and_retry_find_the_results_folder_too(tmp_path):
    (tmp_path / "a" / "grids").mkdir(parents=True)
    for verb in (["status"], ["retry", "--failed"]):
        below = call(*verb, "--results=.", cwd=tmp_path)
        assert below.returncode == 2 and "but below it: --results=a" in below.stderr
        inside = call(*verb, "--results=a/grids", cwd=tmp_path)
        assert inside.returncode == 2 and f"no grids in {tmp_path}/a:" in inside.stderr


def test_types_that_only_options_need_are_read(tmp_path):
    (tmp_path / "checked.py").write_text(
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\nfrom models.mixing.ff_only import "
        "FeedForwardOnly\nif TYPE_CHECKING:\n    from flax import nnx\n\n\nclass Mix(FeedForwardOnly):\n"
        "    def __init__(self, dim: int, length: int, *, scale: float = 1.0, SECOND, rngs: nnx.Rngs):\n        pass\n"
    )
    text = (tmp_path / "checked.py").read_text()
    (tmp_path / "checked.py").write_text(text.replace("SECOND", "shift: int = 0"))
    assert call("run", "--dry_run", "--models=checked:Mix:scale=2", cwd=tmp_path).returncode == 0
    (tmp_path / "checked.py").write_text(text.replace("SECOND", "shift: Unknown = 0"))
    done = call("run", "--dry_run", "--models=checked:Mix:scale=2", cwd=tmp_path)
    assert done.returncode == 2 and "cannot be read from its __init__: name 'Unknown' is not defined" in done.stderr


def test_what_is_printed_as_python_starts_is_no_message():
    noise = ["welcome", "", "7", "[1]", '{"a": 1}', "[" * 100_000, "null"]
    assert [process.message_of(line) for line in noise] == [None] * len(noise)
    assert process.message_of(b'{"step": 3}') == {"step": 3}
