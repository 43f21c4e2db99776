"""pack, and the archives that it makes where a folder of records may stand."""

import csv
import io
import json
import shutil
import zipfile

import pytest

from lra.results import records
from tests.helpers.cli import ROOT, call, without_jax
from tests.helpers.records import measurement, record

TABLES = ("leaderboard.csv", "leaderboard.md", "leaderboard.tex", "leaderboard.html", "cells.csv", "efficiency.csv")


@pytest.fixture
def place(tmp_path):
    """A results folder: two trained cells, a measurement, and a damaged record."""
    told = {"log": ["a line"], "command": "python run.py --data=/home/anna/d"}
    made = [record(score=0.4, key="a" * 64) | told, record("luna", score=0.5, key="b" * 64)]
    made[1]["data"] |= {"source": "CIFAR-10 (/home/anna/c)"}
    for cell in made:
        records.write(tmp_path / "results" / "records" / f"{cell['cell']['model']}.json", cell)
    records.write(tmp_path / "results" / "bench" / "fnet.json", measurement())
    (tmp_path / "results" / "records" / "cut.json").write_text("{")
    return tmp_path


def rows(file):
    return list(csv.DictReader(io.StringIO(file.read_text())))


def names(archive):
    return zipfile.ZipFile(archive).namelist()


def test_the_tables_of_an_archive_are_those_of_its_folder(tmp_path):
    for kind in ("records", "bench"):
        shutil.copytree(ROOT / "results" / "mini" / kind, tmp_path / "mini" / kind)
    done = call("pack", "--results=mini", "--out=shared/mini.zip", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    size = (tmp_path / "shared" / "mini.zip").stat().st_size
    assert done.stdout.startswith("shared/mini.zip: records of ") and done.stdout.endswith(f" {size:,} bytes\n")
    for source, out in (("mini", "a"), ("shared/mini.zip", "b"), ("mini,shared/mini.zip", "c")):
        board = call("leaderboard", f"--results={source}", f"--out={out}", "--noplots", cwd=tmp_path)
        assert board.returncode == 0, board.stderr
    for table in TABLES:
        made = {out: (tmp_path / out / table).read_bytes() for out in "abc"}
        assert made["a"] == made["b"] == made["c"], table
    with zipfile.ZipFile(tmp_path / "shared" / "mini.zip") as archive:
        for name in archive.namelist():
            assert archive.read(name) == (tmp_path / "mini" / name).read_bytes()
    first = (tmp_path / "shared" / "mini.zip").read_bytes()
    assert call("pack", "--results=shared/mini.zip", "--out=shared/mini.zip", cwd=tmp_path).returncode == 0
    assert (tmp_path / "shared" / "mini.zip").read_bytes() == first


def test_an_archive_has_the_records_that_count_without_logs_and_paths(place):
    done = call("pack", cwd=place)
    assert done.returncode == 0
    assert done.stdout.startswith("results.zip: records of 2 trained and 1 measured cells, ")
    assert done.stderr.count("\n") == 1 and "left out: results/records/cut.json" in done.stderr
    with zipfile.ZipFile(place / "results.zip") as archive:
        made = [json.loads(archive.read(name)) for name in archive.namelist()]
    assert len(made) == 3 and not any(one.get("log") for one in made)
    assert "/home" not in json.dumps(made) and "python run.py --data=d" in json.dumps(made)
    for source, out in (("results", "a"), ("results.zip", "b")):
        assert call("leaderboard", f"--results={source}", f"--out={out}", "--noplots", cwd=place).returncode == 0
    assert (place / "a" / "leaderboard.csv").read_bytes() == (place / "b" / "leaderboard.csv").read_bytes()
    ours, theirs = rows(place / "a" / "cells.csv"), rows(place / "b" / "cells.csv")
    differ = {name for a, b in zip(ours, theirs, strict=True) for name in a if a[name] != b[name]}
    assert differ == {"source", "command", "data.source"}


def test_pack_selects(place):
    done = call("pack", "--models=luna", "--tasks=listops", "--protocol=lra", "--out=luna.zip", cwd=place)
    assert done.returncode == 0, done.stderr
    assert len(names(place / "luna.zip")) == 1 and "-luna-" in names(place / "luna.zip")[0]
    wrong = call("pack", "--models=lunna", "--out=no.zip", cwd=place)
    assert wrong.returncode == 2 and "did you mean 'luna'?" in wrong.stderr
    none = call("pack", "--models=luna", "--tasks=text", "--out=no.zip", cwd=place)
    assert none.returncode == 2 and "no record to pack: no.zip is not written" in none.stderr
    assert not (place / "no.zip").exists()


def test_only_an_archive_of_records_is_overwritten(place):
    (place / "notes.zip").write_text("mine")
    zipfile.ZipFile(place / "other.zip", "w").writestr("thesis.tex", "mine")
    for name in ("notes.zip", "other.zip", "results"):
        done = call("pack", f"--out={name}", cwd=place)
        assert done.returncode == 2 and f"--out={name} is there already" in done.stderr and done.stdout == ""
        assert done.stderr.count("\n") == 1
    assert (place / "notes.zip").read_text() == "mine" and names(place / "other.zip") == ["thesis.tex"]
    assert call("pack", "--models=luna", "--out=mine.zip", cwd=place).returncode == 0
    assert call("pack", "--out=mine.zip", cwd=place).returncode == 0 and len(names(place / "mine.zip")) == 3


def test_a_folder_that_cannot_be_written_is_one_line(place):
    (place / "file").write_text("")
    done = call("pack", "--out=file/a.zip", cwd=place)
    assert done.returncode == 2 and "cannot write --out=file/a.zip" in done.stderr.splitlines()[-1]


def test_every_verb_on_records_takes_an_archive(place):
    assert call("pack", "--out=a,b.zip", cwd=place).returncode == 0
    shown = call("show", "luna", "--results=a,b.zip", cwd=place)
    assert shown.returncode == 0 and shown.stdout.startswith("listops × luna"), shown.stderr
    assert call("show", "a" * 64, "--results=a,b.zip", cwd=place).stdout.startswith("listops × fnet")
    compared = call("compare", "luna", "fnet", "--results=a,b.zip,results", cwd=place)
    assert compared.returncode == 0 and "luna ahead" in compared.stdout
    calibrated = call("calibrate", "--protocol=lra", "--results=a,b.zip", cwd=place)
    assert calibrated.returncode == 2 and "no records in" not in calibrated.stderr  # two models are too few


def test_show_tells_which_record_of_an_archive_is_damaged(place):
    with zipfile.ZipFile(place / "a.zip", "w") as archive:
        archive.writestr("records/a.json", "{")
    done = call("show", "a", "--results=a.zip", cwd=place)
    assert done.returncode == 2 and "a.zip/records/a.json: not a whole record" in done.stderr
    named = call("show", "a.zip", cwd=place)
    assert named.returncode == 2 and "a.zip is an archive: name one of its cells, and give it with" in named.stderr


@pytest.mark.parametrize("verb", ["leaderboard", "show fnet", "compare fnet luna", "calibrate", "pack"])
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("cut.zip", "cut.zip is cut off"),
        ("text.zip", "text.zip is no archive of records: give a results folder, or an archive made by `run.py pack`"),
        ("https://example.org/a.zip", "https://example.org/a.zip is an address: fetch it first, then give the file"),
        ("gone.zip", "no records in gone.zip"),
    ],
)
def test_what_is_no_archive_gets_one_line_and_exit_code_2(place, verb, source, words):
    assert call("pack", "--out=cut.zip", cwd=place).returncode == 0
    (place / "cut.zip").write_bytes((place / "cut.zip").read_bytes()[:-1])
    (place / "text.zip").write_text("text")
    done = call(*verb.split(), f"--results=results,{source}", cwd=place)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    assert not (place / "leaderboard").exists()


@pytest.mark.parametrize("verb", [["status"], ["retry", "--failed"]])
def test_status_and_retry_take_folders_only(place, verb):
    assert call("pack", cwd=place).returncode == 0
    done = call(*verb, "--results=results.zip", cwd=place)
    assert done.returncode == 2 and "results.zip is a file, and this takes the folder of a run" in done.stderr


def test_packing_needs_no_jax(place):
    packed, board = without_jax("pack --out=a.zip", "leaderboard --results=a.zip --noplots", cwd=place)
    assert "2 trained" in packed and "luna" in board
