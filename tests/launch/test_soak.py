"""A soak of a few kills; and that a soak would tell what it looks for."""

import copy
import json
import subprocess
import sys

import pytest

from lra.results import records
from tests.helpers.cli import ROOT
from tests.helpers.records import record
from tests.soak import checks
from tests.soak.__main__ import Soak
from tests.soak.seen import Run


@pytest.mark.process
def test_a_few_kills_lose_nothing(tmp_path):
    few = ["--kills=3", "--seed=4", "--models=ff_only", "--seeds=0", "--steps=2000", f"--out={tmp_path}/soak.md"]
    done = subprocess.run([sys.executable, "-m", "tests.soak", *few], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "soak.md").read_text()
    assert "**3 faults, nothing lost.**" in page
    faults = page.partition("| fault |")[2].partition("\n\n")[0].splitlines()[2:]
    assert sum(int(line.split("|")[2]) for line in faults) == 3


@pytest.fixture
def finished(tmp_path):
    """A folder with two cells' records, as a grid leaves it."""
    for number in range(2):
        records.write(tmp_path / "results" / "records" / f"{number}.json", record(score=0.5, seed=number))
    (tmp_path / "results" / "leases").mkdir()
    return tmp_path, checks.results_of(tmp_path / "results")


def test_a_grid_that_is_as_the_undisturbed_one_has_no_problems(finished):
    assert checks.problems(*finished) == []


def test_a_number_that_differs_in_its_last_bit_is_reported(finished):
    folder, undisturbed = finished
    other = copy.deepcopy(undisturbed)
    other["1.json"]["results"][0]["curve"][0]["train_loss"] *= 1 + 2**-52
    assert checks.problems(folder, other) == ["1.json: results differs from the undisturbed run's"]


def test_records_that_are_missing_cut_short_or_too_many_are_reported(finished):
    folder, undisturbed = finished
    path = folder / "results" / "records" / "1.json"
    path.rename(path.with_name("2.json"))
    expected = ["1.json: no record", "2.json: a record that the undisturbed run has not"]
    assert checks.problems(folder, undisturbed) == expected
    path.write_text(json.dumps(record())[:-9])
    (line,) = checks.problems(folder, undisturbed)
    assert "not a whole record" in line


@pytest.mark.parametrize(
    "left", ["results/leases/c.1", "results/leases/.half", "results/checkpoints/c/7", "results/records/.0.json.12",
             "tmp/x", "data/.entry.12"],
)  # fmt: skip
def test_what_is_left_over_is_reported(finished, left):
    folder, undisturbed = finished
    (folder / left).parent.mkdir(parents=True, exist_ok=True)
    (folder / left).touch()
    (line,) = checks.problems(folder, undisturbed)
    assert line.startswith("left over: ") and left.startswith(line.removeprefix("left over: "))


@pytest.mark.parametrize(
    ("program", "problems"),
    [("raise SystemExit(0)", 0), ("raise SystemExit(3)", 1), ("print('Traceback'); raise SystemExit(0)", 1)],
)
def test_a_run_that_ends_otherwise_than_its_faults_explain_is_reported(tmp_path, program, problems):
    soak = Soak(tmp_path, [], kills=0, seed=0, minutes=1)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    soak.runs.append(Run(process))
    process.wait()
    soak.reap()
    assert len(soak.outcome.problems) == problems and not soak.runs
