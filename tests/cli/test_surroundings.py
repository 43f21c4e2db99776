"""Runs survive a wrong wall clock and a damaged cache of compiled programs."""

import os

import pytest

from tests.helpers.cli import TINY, cli, only_record, outputs

pytestmark = pytest.mark.process

RUN = [*TINY, "--models=fnet", "--set=train.steps=40", "--set=train.eval_every=10", "--checkpoint_minutes=0"]

BACKWARDS = """
import itertools, time
hours = itertools.count()
time.time = lambda: 2e9 - 3600.0 * next(hours)
time.time_ns = lambda: int(time.time() * 1e9)
"""


def results(folder):
    record = only_record(folder)
    assert record["status"] == "ok" and record["warnings"] == []
    return record["results"]


@pytest.fixture(scope="module")
def sane(tmp_path_factory):
    """A run's folder, with nothing wrong."""
    folder = tmp_path_factory.mktemp("sane")
    assert cli(*RUN, f"--data={folder}/data", *outputs(folder)).returncode == 0
    return folder


def test_a_clock_that_goes_back_an_hour_at_each_look_changes_nothing(tmp_path, sane):
    """In the run and in its cells. No limit in minutes strikes, checkpoints are written, the lease is kept."""
    (tmp_path / "sitecustomize.py").write_text(BACKWARDS)
    there = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    limits = ["--max_minutes=60", "--stall_minutes=60", f"--data={sane}/data"]
    done = cli(*RUN, *limits, *outputs(tmp_path), env=there)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path) == results(sane)
    assert not list((tmp_path / "results" / "leases").iterdir())
    told = cli("status", f"--results={tmp_path}/results", env=there)
    assert told.returncode == 0 and told.stdout.endswith("\n1 done\n")


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_a_damaged_cache_of_compiled_programs_is_told_in_the_log_and_done_without(tmp_path, sane):
    """A third each of its files is garbage, cut short, or has a bit turned."""
    files = sorted((sane / "data" / "compiled").glob("*/*-cache"))
    assert len(files) >= 3
    for number, file in enumerate(files):
        content = file.read_bytes()
        file.write_bytes((b"garbage", content[: len(content) // 2], flip(content))[number % 3])
    done = cli(*RUN, f"--data={sane}/data", *outputs(tmp_path))
    assert done.returncode == 0, done.stderr
    assert results(tmp_path) == results(sane)
    (log,) = (tmp_path / "results" / "logs").iterdir()
    assert "Error reading persistent compilation cache entry" in log.read_text()
