"""The scripts by which shells complete command lines, driven as the shells do."""

import os
import shutil
import subprocess

import pytest

from configs import PROTOCOLS
from lra.cli import completion
from lra.cli.main import verbs
from lra.cli.parsing import summaries
from models import MIXERS
from tasks import TASKS
from tests.helpers.cli import call

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
if [[ $1 == python ]]; then _lra_python; else _lra; fi
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script(shell, folder):
    done = call("completion", shell)
    assert done.returncode == 0 and done.stderr == ""
    file = folder / f"lra.{shell}"
    file.write_text(done.stdout)
    return file


@pytest.fixture(scope="session")
def complete(tmp_path_factory):
    """What bash offers for these words, of which the last is being typed; '=' is a word of its own there."""
    bash = shutil.which("bash")
    if not bash:
        pytest.skip("no bash")
    file = script("bash", tmp_path_factory.mktemp("bash"))

    def complete(*words, cwd=None):
        # Without a PATH: a script that starts a program fails.
        done = subprocess.run(
            [bash, "--norc", "-c", COMPLETE, "bash", file, *words],
            capture_output=True, text=True, check=True, cwd=cwd, env={"PATH": "/nowhere"},
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout.split()

    return complete


def test_bash_completes_verbs_and_their_flags(complete):
    assert complete("lra", "") == list(verbs())
    assert complete("lra", "le") == ["leaderboard"]
    for name, verb in verbs().items():
        words = {word.rstrip("=") for word in complete("lra", name, "-")}
        flags = summaries(verb.define)
        wanted = {f"--{flag.name}" for flag in flags} | {f"--no{flag.name}" for flag in flags if flag.switch}
        assert words == wanted | {"--help"}, name
    assert "--dry_run" in complete("lra", "--dry") and complete("lra", "--ver") == ["--version"]
    assert complete("lra", "run", "--ver") == [] == complete("lra", "nonsense", "--")


def test_bash_completes_names_and_lists_of_them(complete):
    assert complete("lra", "run", "--tasks", "=") == [*TASKS, "all"]
    assert complete("lra", "--models", "=", "fn") == ["fnet", "fnet_hybrid"]
    assert complete("lra", "run", "--models", "=", "fnet,fn") == ["fnet,fnet_hybrid"]
    assert complete("lra", "run", "--models=fnet,fn") == ["--models=fnet,fnet_hybrid"]
    assert complete("lra", "run", "--models", "fnet,fn") == ["fnet,fnet_hybrid"]
    assert complete("lra", "pack", "--models", "=") == [*MIXERS]
    assert complete("lra", "run", "--protocol", "=") == [*PROTOCOLS]
    assert complete("lra", "leaderboard", "--protocol", "=", "quick,mi") == ["quick,mini"]
    assert complete("lra", "run", "--device", "=") == ["auto", "cpu", "gpu", "tpu"]
    assert complete("lra", "run", "--rerun", "--launcher", "=", "s") == ["slurm"]
    assert complete("lra", "leaderboard", "--device", "=") == [] == complete("lra", "run", "--set", "=", "tr")
    assert complete("lra", "list", "--details", "") == complete("lra", "list", "") == ["tasks", "models", "protocols"]
    assert complete("lra", "completion", "") == ["bash", "zsh", "fish"]
    assert complete("lra", "compare", "luna", "fn") == ["fnet", "fnet_hybrid"]
    assert complete("lra", "compare", "--accelerator", "") == []


def test_bash_completes_folders_and_python_run_py(complete, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results.zip").write_text("")
    assert sorted(complete("lra", "leaderboard", "--results", "=", "res", cwd=tmp_path)) == ["results", "results.zip"]
    assert complete("lra", "pack", "--results", "=", "a,results.z", cwd=tmp_path) == ["a,results.zip"]
    assert complete("lra", "show", "results.z", cwd=tmp_path) == ["results.zip"]
    assert complete("python", "run.py", "le") == complete("python", "./run.py", "le") == ["leaderboard"]
    assert complete("python", "run.py", "run", "--launcher", "=", "r") == ["ray"]
    assert complete("python", "other.py", "le") == [] == complete("python", "run")


def test_bash_keeps_a_completion_of_python_that_is_there(tmp_path):
    file = script("bash", tmp_path)
    done = subprocess.run(
        ["bash", "--norc", "-c", f"complete -F theirs python; source {file}; complete -p python python3 lra"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    theirs, ours, lra = done.stdout.splitlines()
    assert "theirs" in theirs and "_lra_python python3" in ours and lra == "complete -F _lra lra"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_scripts_name_every_verb_flag_and_name(shell, tmp_path):
    text = script(shell, tmp_path).read_text()
    for name, verb in verbs().items():
        assert f"-a {name} " in text if shell == "fish" else f"'{name}:" in text
        for flag in summaries(verb.define):
            assert f"-l {flag.name} " in text if shell == "fish" else f"--{flag.name}" in text
    assert all(name in text for name in (*TASKS, *MIXERS, *PROTOCOLS))
    assert "<auto|cpu" not in text


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_parse_their_scripts(shell, tmp_path):
    if not shutil.which(shell):
        pytest.skip(f"no {shell}")
    subprocess.run([shell, "-n", script(shell, tmp_path)], check=True)


def test_fish_completes(tmp_path):
    if not shutil.which("fish"):
        pytest.skip("no fish")
    file = script("fish", tmp_path)
    lines = [("lra le", "leaderboard"), ("lra run --tasks=listops,text_m", "--tasks=listops,text_mini")]
    for line, found in [*lines, ("python run.py list t", "tasks")]:
        command = ["fish", "--no-config", "-c", f"source {file}; complete -C '{line}'"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | {"HOME": str(tmp_path)}
        )
        assert [shown.partition("\t")[0] for shown in done.stdout.splitlines()] == [found]


def test_every_flag_of_files_and_names_is_one_of_a_verb():
    known = {flag.name for verb in verbs().values() for flag in summaries(verb.define)}
    assert {*completion._FILES, *completion._NAMES} <= known
    assert set(completion._GRID) == {
        name for name, verb in verbs().items() if "lengths" in {flag.name for flag in summaries(verb.define)}
    }


def test_an_unknown_shell_gets_one_line():
    for names, words in ((["bsh"], "did you mean 'bash'?"), ([], "takes one of bash, zsh, fish")):
        done = call("completion", *names)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


def test_help_says_how_to_install_it():
    shown = call("completion", "--help").stdout
    assert all(f"lra completion {shell} > " in shown for shell in ("bash", "zsh", "fish"))
