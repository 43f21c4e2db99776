"""`status` and `retry`: what runs were asked for is kept, and what has become of it is told."""

import json

import pytest

from lra.errors import UsageError
from lra.results import lease, records, runs
from tests.helpers.cli import TINY, call, only_record, places, record_files, saved_records
from tests.helpers.leases import elsewhere


def asked(folder, verb="run", **cells):
    """A grid of cells of 100 steps each, with records of the given statuses, and speeds or (of a bench) seconds."""
    made = []
    for name, (status, figure) in cells.items():
        cell = {
            "name": name,
            "key": name,
            "task": "t",
            "model": name[0],
            "length": 8,
            "seeds": [len(made)],
            "steps": 100,
        }
        made.append(cell | {"batch": 4})
        if status:
            told = {"schema": 1, "status": status, "error": "", "key": name, "cell": {}, "recipe": {}, "data": {}}
            told |= {"wall_seconds": figure} if verb == "bench" else {"train_speed": {"steps_per_second": figure}}
            records.write(folder / runs.RECORD_FOLDERS[verb] / f"{name}.json", told)
    records.write(folder / "grids" / f"{verb}.json", {"verb": verb, "arguments": [f"--{verb}"], "cells": made})


def of(model, seed=0):
    return "t", model, 8, (seed,), ()


def test_status_tells_states_and_the_time_left(tmp_path):
    asked(tmp_path, a0=("ok", 10.0), a1=("", None), b0=("failed", None), c0=("oom", None), d0=("", None))
    running = elsewhere(tmp_path / "leases", "d0")
    running.progress = {"step": 50, "steps_per_second": 5.0}
    assert running.renew()
    rows, line = runs.status(tmp_path)
    assert {r["name"]: r["state"] for r in rows} == {
        "a0": "done", "a1": "left", "b0": "failed", "c0": "oom", "d0": "running",
    }  # fmt: skip
    # a1 at a's speed: 10 s; b0 at the mean of all: 15 s; d0 at its own: 10 s.
    assert line == "1 done, 1 oom, 1 running, 1 failed, 1 left, about 35 s left with 1 at once"
    assert "50/100" in runs.format_table(rows)


def test_the_time_left_counts_more_than_steps(tmp_path):
    asked(tmp_path, a0=("ok", 10.0), a1=("", None), b0=("", None), b1=("", None))
    file = tmp_path / "records" / "a0.json"
    whole = json.loads(file.read_text()) | {"wall_seconds": 40.0, "results": [{"steps": 100}]}
    file.write_text(json.dumps(whole))
    running = elsewhere(tmp_path / "leases", "b0")
    running.progress = {"step": 80, "steps_per_second": 5.0, "seconds_left": 60.0}
    assert running.renew()
    # a1 as long as a0, 40 s and not 10; b0 says 60 s; b1 takes 3 s a step as b0 does now.
    assert runs.status(tmp_path)[1].endswith("about 7 min left with 1 at once")
    file.write_text(json.dumps(whole | {"resumed": 1}))  # the 40 s are of its last part only
    assert runs.status(tmp_path)[1].endswith(f"about {runs.format_duration(10 + 60 + 300)} left with 1 at once")


def test_status_of_a_bench_counts_its_seconds(tmp_path):
    asked(tmp_path, "bench", a0=("ok", 10.0), a1=("", None), b0=("ok", 30.0), c0=("timeout", 600.0), d0=("", None))
    running = elsewhere(tmp_path / "leases", "d0")
    rows, line = runs.status(tmp_path)
    # a1 as long as a: 10 s; c0 and d0 as the mean of those done: 20 s each.
    assert line == "2 done, 1 running, 1 timeout, 1 left, about 50 s left with 1 at once"
    assert "bench t × a, length 8, batch 4" in runs.format_table(rows)
    running.release()
    asked(tmp_path, "run", e0=("", None))
    assert runs.status(tmp_path)[1] == "2 done, 1 timeout, 3 left, time left unknown"


def test_what_is_to_be_run_again_is_chosen_by_status_and_verb(tmp_path):
    asked(tmp_path, "run", **{f"a_{status}": (status, 1.0) for status in records.STATUSES})
    asked(tmp_path, "bench", b_oom=("oom", 1.0), b_ok=("ok", 1.0))
    for number, status in enumerate(records.STATUSES[1:], 1):
        benches = [("bench", ["--bench"], {of("b")})] if status == "oom" else []
        assert runs.retry_commands(tmp_path, [status]) == [*benches, ("run", ["--run"], {of("a", number)})]
    both = dict((verb, wanted) for verb, _, wanted in runs.retry_commands(tmp_path, ["oom", "failed"]))
    assert both == {"run": {of("a", 1), of("a", 2)}, "bench": {of("b")}}


def test_seeds_that_do_not_fit_together_are_cells_of_their_own(tmp_path):
    asked(tmp_path, a0=("ok", 10.0), ab=("oom", None), a1=("", None), a2=("failed", 5.0))
    file = tmp_path / "grids" / "run.json"
    done, together, *alone = json.loads(file.read_text())["cells"]
    file.write_text(json.dumps({"arguments": ["--run"], "cells": [done, together | {"seeds": [1, 2], "apart": alone}]}))
    rows, line = runs.status(tmp_path)
    assert [row["state"] for row in rows] == ["done", "left", "failed"] and line.startswith("1 done, 1 failed, 1 left")
    # `run` tries them together, finds that they do not fit, and goes on with those that are left.
    assert runs.retry_commands(tmp_path, ["failed"]) == [
        ("run", ["--run"], {("t", "a", 8, (1, 2), ())})
    ] and not runs.retry_commands(tmp_path, ["oom"])
    asked(tmp_path, a2=("oom", None))
    file.write_text(json.dumps({"arguments": [], "cells": [together | {"apart": alone}]}))
    assert runs.retry_commands(tmp_path, ["oom"]) == [("run", [], {of("a", 1)})]


def test_the_grid_of_an_older_version_is_one_of_run(tmp_path):
    asked(tmp_path, a0=("failed", None))
    file = tmp_path / "grids" / "run.json"
    grid = json.loads(file.read_text())
    del grid["verb"]
    file.write_text(json.dumps(grid))
    assert runs.retry_commands(tmp_path, ["failed"]) == [("run", ["--run"], {of("a")})]
    file.write_text(json.dumps(grid | {"verb": "walk"}))
    with pytest.raises(UsageError, match="not a grid"):
        runs.load(tmp_path)


def test_a_run_that_has_died_here_is_not_running(tmp_path):
    asked(tmp_path, a0=("", None))
    elsewhere(tmp_path / "leases", "a0", machine=lease.machine_id(), started="0")
    rows, line = runs.status(tmp_path)
    assert rows[0]["state"] == "left" and line == "1 left, time left unknown"


def test_no_grid_and_a_damaged_one_are_told(tmp_path):
    with pytest.raises(UsageError, match="no grids in"):
        runs.status(tmp_path)
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "0.json").write_text('{"cells": [{}]}')
    with pytest.raises(UsageError, match="not a grid"):
        runs.status(tmp_path)
    for arguments, words in (
        (["status"], "no records in"),
        (["retry"], "retry takes one or more of --failed, --timeout, --oom"),
    ):
        done = call(*arguments, f"--results={tmp_path}/none")
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


RAISES_ONCE = '''
from pathlib import Path

from flax import nnx


class Once(nnx.Module):
    """Raises until a file is there."""

    def __init__(self, dim: int, length: int, *, rngs: nnx.Rngs):
        if not Path("mended").exists():
            raise ERROR("not yet")

    def __call__(self, x, mask, rngs=None):
        return x
'''


MENDED = RAISES_ONCE.replace("raise ERROR", "print")


@pytest.mark.process
def test_retry_runs_what_failed_and_nothing_else(tmp_path):
    (tmp_path / "theirs.py").write_text(RAISES_ONCE.replace("ERROR", "RuntimeError"))
    done = call(*TINY, "--models=theirs:Once,ff_only", *places(tmp_path), cwd=tmp_path)
    assert done.returncode == 1 and "failed: RuntimeError: not yet" in done.stdout
    told = call("status", f"--results={tmp_path}/results")
    assert "1 done, 1 failed, about" in told.stdout and "RuntimeError: not yet" in told.stdout
    before = {f.name: f.stat().st_mtime_ns for f in record_files(tmp_path) if "ff_only" in f.name}
    retry = ["retry", "--failed", f"--results={tmp_path}/results"]
    assert call(*retry, cwd=tmp_path).returncode == 1
    (tmp_path / "theirs.py").write_text(MENDED)  # which gives the cell another key
    done = call(*retry, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count(": test ") == 1, done.stderr
    assert sorted(record["status"] for record in saved_records(tmp_path)) == ["failed", "ok", "ok"]
    assert before.items() <= {f.name: f.stat().st_mtime_ns for f in record_files(tmp_path)}.items()
    assert call("status", f"--results={tmp_path}/results").stdout.endswith("\n2 done\n")
    assert "nothing to retry" in call(*retry, cwd=tmp_path).stdout


@pytest.mark.process
def test_retry_repeats_what_another_run_would_not(tmp_path):
    (tmp_path / "theirs.py").write_text(RAISES_ONCE.replace("ERROR", "MemoryError"))
    command = [*TINY, "--models=theirs:Once", *places(tmp_path)]
    assert "oom: MemoryError" in call(*command, cwd=tmp_path).stdout
    (tmp_path / "mended").touch()
    assert "1 already done" in call(*command, cwd=tmp_path).stdout
    done = call("retry", "--oom", f"--results={tmp_path}/results", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count(": test ") == 1, done.stderr
    assert only_record(tmp_path)["status"] == "ok"


@pytest.mark.process
def test_benches_have_a_status_and_are_retried(tmp_path):
    (tmp_path / "theirs.py").write_text(RAISES_ONCE.replace("ERROR", "RuntimeError"))
    sizes = [word for word in TINY if "encoder" in word or "device" in word]
    bench = ["bench", *sizes, "--models=theirs:Once", "--lengths=32", "--batch=1", *places(tmp_path)]
    assert "failed: RuntimeError: not yet" in call(*bench, cwd=tmp_path).stdout
    status = ["status", f"--results={tmp_path}/results"]
    assert "bench text × theirs:Once, length 32, batch 1" in (told := call(*status).stdout) and "1 failed" in told
    (tmp_path / "mended").touch()
    done = call("retry", "--failed", f"--results={tmp_path}/results", cwd=tmp_path)
    assert done.returncode == 0 and "training steps/s" in done.stdout, done.stderr
    assert call(*status).stdout.endswith("\n1 done\n")
