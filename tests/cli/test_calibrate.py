"""calibrate as a user calls it, on hand-made records."""

import pytest

from lra.report.calibration import published_scores
from lra.results import records
from tests.helpers.cli import call, without_jax
from tests.helpers.records import recipe, record

FILES = {f"calibration.{ending}" for ending in ("csv", "md", "png", "svg", "pdf")}


@pytest.fixture
def place(tmp_path):
    """Results of five models on two tasks of protocol small, one cut off, and one of another protocol."""
    for model in ("fnet", "luna", "s5", "mega", "local"):
        for task, length in (("listops", 2000), ("image", 1024)):
            own = recipe(task, model, "small")
            score = published_scores()[model][task].values["median"] / 125
            made = record(model, task, score, length=length, protocol="small", recipe=own, key=f"{model}{task}")
            records.write(tmp_path / "results" / "records" / f"{task}-{model}.json", made)
    records.write(tmp_path / "results" / "records" / "lra.json", record("sparse", key="lra"))
    (tmp_path / "results" / "records" / "cut.json").write_text("{")
    return tmp_path


def test_calibrate_prints_the_table_names_problems_and_writes_all_files(place):
    done = call("calibrate", "--protocol=small", "--out=out", cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("run.py calibrate: left out: results/records/cut.json")
    assert "| listops    | listops@2000 | 5 " in done.stdout and "1.00 [1.00, 1.00]" in done.stdout
    assert "out/calibration.csv" in done.stdout.splitlines()[-1]
    assert {file.name for file in (place / "out").iterdir()} == FILES
    assert (place / "out" / "calibration.md").read_text() in done.stdout
    assert (place / "out" / "calibration.csv").read_text().count("\n") == 11


def test_the_same_results_give_the_same_bytes(place):
    for out in ("a", "b"):
        assert call("calibrate", "--protocol=small", f"--out={out}", cwd=place).returncode == 0
    for name in FILES:
        assert (place / "a" / name).read_bytes() == (place / "b" / name).read_bytes()


def test_calibrate_needs_no_jax(place):
    (text,) = without_jax("calibrate --protocol=small --out=out", cwd=place)
    assert "Spearman" in text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "no record has it: unknown protocol 'mini'"),
        (["--protocol=smal"], "did you mean 'small'?"),
        (
            ["--protocol=lra"],
            "1 model has a score here and a published one on the same task, and a correlation needs 4",
        ),
        (["--protocol=small", "--results=nowhere"], "no records in nowhere"),
        (["--protocol=small", "--out=file"], "cannot write --out=file"),
    ],
)
def test_what_cannot_be_compared_gets_one_line_and_nothing_is_written(place, flags, words):
    (place / "results" / "records" / "cut.json").unlink()
    (place / "file").write_text("a file")
    done = call("calibrate", *flags, cwd=place)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    assert not (place / "calibration").exists()
