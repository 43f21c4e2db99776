"""`--launcher=slurm`: one command per cell, submitted as one array job."""

import importlib.util
import os
import stat
import sys

import pytest

from lra.errors import UsageError
from lra.grid import expand, names, sweep
from lra.launch import slurm
from tests.helpers.cli import TINY, cli, places, record_files, saved_records

needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="submitit is not installed: see the extra 'cluster'"
)


def plans(models, seeds):
    return expand.make_plans(names.find_protocol("quick"), [], models, [], seeds, [])


def test_each_cell_has_its_own_command():
    grid = plans(["performer", "features=8", "fnet"], [0, 1])
    lines = slurm.build_commands(grid, False, ["--tasks=all", "--set=train.steps=6"])
    assert len(lines) == 4 and all("--set=train.steps=6" in line and "--launcher=local" in line for line in lines)
    assert [line[-3] for line in lines] == ["--seeds=0", "--seeds=1"] * 2
    assert all(line.index("--tasks=all") < line.index("--tasks=listops_short") for line in lines)
    assert "--models=performer:features=8" in lines[0]
    assert [line[-3] for line in slurm.build_commands(grid, True, [])] == ["--seeds=0,1"] * 2


def test_the_seeds_of_a_tuned_cell_share_a_command_as_they_share_its_trials():
    swept = sweep.parse(["encoder.dropout=0,0.1"], None, ())
    grid = expand.make_plans(names.find_protocol("quick"), [], ["fnet", "luna"], [], [1, 2], [], swept)
    lines = slurm.build_commands(grid, False, ["--sweep=encoder.dropout=0,0.1"])
    assert [line[-3] for line in lines] == ["--seeds=1,2"] * 2
    assert all("--sweep=encoder.dropout=0,0.1" in line for line in lines)


def test_an_installed_suite_is_started_as_a_module(tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit")
    started = []
    monkeypatch.setattr(submitit.helpers, "CommandFunction", lambda command: started.append(command) or print)
    for root in (tmp_path, slurm.ROOT):
        monkeypatch.setattr(slurm, "ROOT", root)
        slurm.submit([["run"]], tmp_path / "slurm", {}, "debug")
    assert started == [[sys.executable, "-m", "lra", "run"], [sys.executable, str(slurm.ROOT / "run.py"), "run"]]


def test_parameters_of_slurm_are_names_and_values():
    assert slurm.parse_settings(["slurm_partition=gpu", "timeout_min=60"]) == {
        "slurm_partition": "gpu",
        "timeout_min": 60,
    }
    with pytest.raises(UsageError, match="--slurm takes name=value"):
        slurm.parse_settings(["partition"])


@needs_submitit
@pytest.mark.process
def test_submitted_commands_leave_records(tmp_path):
    lines = slurm.build_commands(plans(["ff_only"], [0]), False, [*TINY, *places(tmp_path)])
    for job in slurm.submit(lines, tmp_path / "slurm", {"timeout_min": 5}, "local"):
        job.wait()
        assert job.exception() is None
    assert [record["status"] for record in saved_records(tmp_path)] == ["ok"]


@needs_submitit
@pytest.mark.process
def test_a_grid_is_one_array_job(tmp_path, monkeypatch):
    """With stand-ins for Slurm's commands, which keep the script that they get."""
    for name, text in (("srun", ""), ("sbatch", f"cp $1 {tmp_path}/script; echo Submitted batch job 42")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path), os.pathsep)
    slurm = ["--launcher=slurm", "--slurm=slurm_partition=gpu", "--slurm=timeout_min=90", "--jobs=2"]
    done = cli(*TINY, *slurm, "--models=ff_only", "--seeds=0,1,2", *places(tmp_path))
    assert done.returncode == 0, done.stderr
    script = (tmp_path / "script").read_text()
    assert "--array=0-2%2" in script and "--partition=gpu" in script and "--time=90" in script
    assert "3 jobs: 42_0 to 42_2" in done.stdout and not record_files(tmp_path)
    wrong = cli(*TINY, "--launcher=slurm", "--slurm=partitoin=gpu", *places(tmp_path))
    assert wrong.returncode == 2 and "partitoin" in wrong.stderr and wrong.stderr.count("\n") == 1


@needs_submitit
@pytest.mark.process
def test_a_missing_slurm_is_reported_in_one_line(tmp_path):
    done = cli(*TINY, "--launcher=slurm", *places(tmp_path))
    assert done.returncode == 2 and "srun" in done.stderr and done.stderr.count("\n") == 1
