"""`run --sweep` on real cells: the numbers of the chosen settings, through a kill, and what the tables say."""

import json
import os
import signal

import pytest

from tests.helpers.cli import TINY, alive, call, checkpoints, children_of, places, saved_records, start
from tests.helpers.held import HELD, Hold
from tests.helpers.waiting import until, wait_for_a_new_checkpoint

SWEEP = ["--sweep=optimizer.learning_rate=1e-5,3e-2", "--seeds=0,1"]
FNET = "--models=fnet"


@pytest.mark.process
def test_a_tuned_cell_has_the_numbers_of_an_ordinary_one_with_its_settings(tmp_path):
    done = call(*TINY, FNET, *SWEEP, *places(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "2 cells, tuned by 2 trials" in done.stdout and done.stdout.count("trial optimizer.learning_rate=") == 2
    assert "free for all, tuned (2 trials)" in done.stdout and "tuned: optimizer.learning_rate=1e-5,3e-2" in done.stdout
    tuned = saved_records(tmp_path)
    assert [record["cell"]["seeds"] for record in tuned] == [[0], [1]]
    told = tuned[0]["tuning"]
    best = max(told["trials"], key=lambda trial: trial["validation_best"])
    assert told["trials"][told["chosen"]] == best and tuned[1]["tuning"] == told
    assert not checkpoints(tmp_path)

    plain = tmp_path / "plain"
    chosen = [f"--set={setting}" for setting in best["settings"]]
    assert call(*TINY, FNET, *chosen, "--seeds=0,1", *places(plain)).returncode == 0
    for one, other in zip(tuned, saved_records(plain), strict=True):
        assert one["results"] == other["results"] and one["recipe"] == other["recipe"]
        assert one["key"] != other["key"]
    trials = [json.loads(file.read_text()) for file in sorted((tmp_path / "results" / "trials").glob("*.json"))]
    assert [result["test_best"] for trial in trials for result in trial["results"]] == [None, None]
    assert [result["test_last"] for trial in trials for result in trial["results"]] == [None, None]


@pytest.mark.process
def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    hold = Hold(tmp_path / "hold")
    hold.at(20)
    command = [*TINY, HELD, "--set=train.steps=40", "--set=train.eval_every=10", *SWEEP, "--checkpoint_minutes=0"]
    first = start(*command, *places(tmp_path), env=hold.env)
    wait_for_a_new_checkpoint(tmp_path, [], first)
    (child,) = children_of(first.pid)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    until(lambda: not alive(child))
    status = call("status", f"--results={tmp_path}/results").stdout
    assert "left   " in status and status.endswith("4 left, time left unknown\n")
    hold.release()
    assert call(*command, *places(tmp_path)).returncode == 0
    trials = [json.loads(file.read_text()) for file in (tmp_path / "results" / "trials").glob("*.json")]
    assert sorted(trial["resumed"] for trial in trials) == [0, 1]
    assert [record["status"] for record in saved_records(tmp_path)] == ["ok", "ok"]
    assert call("status", f"--results={tmp_path}/results").stdout.endswith("\n4 done\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trials=3"], "--trials needs --sweep"),
        (["--sweep=optimizer.learning_rate=1e-4..1e-2"], "add --trials=8"),
        (["--sweep=optimizer.learning_rat=1e-4"], "did you mean 'optimizer.learning_rate'"),
        (["--sweep=encoder.heads=3,4"], "encoder.qkv (8) must be a multiple of encoder.heads (3)"),
    ],
)
def test_a_wrong_sweep_is_one_line(tmp_path, arguments, said):
    done = call(*TINY, FNET, *arguments, *places(tmp_path))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and said in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_dry_run_counts_trials(tmp_path):
    told = call(*TINY, FNET, *SWEEP, *places(tmp_path), "--dry_run").stdout
    assert told.endswith("2 cells and 2 trials, 18 steps\n") and "seed 0: the best trial's test" in told
