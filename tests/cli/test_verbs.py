"""leaderboard, show and compare as a user calls them, on hand-made records."""

import pytest

from lra.results import records
from tests.helpers.cli import TINY, call, only_record, places, record_files, without_jax
from tests.helpers.records import record


@pytest.fixture
def place(tmp_path):
    """Two results folders: three good records, one cut off, and one cell that both have."""
    for folder, name, made in (
        ("a", "listops-fnet", record(score=0.4)), ("a", "listops-luna", record("luna", score=0.5, key="luna")),
        ("b", "text-fnet", record("fnet", "text", 0.7, length=4000)),
        ("b", "listops-luna", record("luna", score=0.5, key="luna")),
    ):  # fmt: skip
        records.write(tmp_path / folder / "records" / f"{name}.json", made)
    (tmp_path / "b" / "records" / "cut.json").write_text("{")
    return tmp_path


def test_leaderboard_merges_folders_names_problems_and_writes_all_files(place):
    done = call("leaderboard", "--results=a,b", "--out=out", cwd=place)
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()
    assert len(told) == 2 and all(line.startswith("run.py leaderboard: ") for line in told)
    assert "duplicate: a/records/listops-luna.json" in told[0] and "left out: b/records/cut.json" in told[1]
    assert "40.00 ± 2.15 (1 seed)" in done.stdout and "text@4000" in done.stdout
    assert {f.name for f in (place / "out").iterdir()} == {
        "leaderboard.csv", "leaderboard.md", "leaderboard.tex", "leaderboard.html", "cells.csv", "plots",
    }  # fmt: skip
    assert list((place / "out" / "plots").glob("*.svg"))


def test_leaderboard_filters(place):
    done = call("leaderboard", "--results=a,b", "--models=luna", "--tasks=listops", "--noplots", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "luna" in done.stdout and "| fnet" not in done.stdout and "text@4000" not in done.stdout
    wrong = call("leaderboard", "--results=a,b", "--models=lunna", cwd=place)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "did you mean 'luna'?" in wrong.stderr


def test_the_tables_come_without_jax(place):
    board, cell, pair = without_jax(
        "leaderboard --results=a,b --out=out", "show listops-fnet --results=a", "compare luna fnet --results=a,b",
        cwd=place,
    )  # fmt: skip
    assert "40.00" in board and "length 2,000" in cell and "luna ahead" in pair


def test_show_and_compare(place):
    shown = call("show", "listops-fnet", "--results=a", cwd=place)
    assert shown.returncode == 0 and "listops × fnet, length 2,000, protocol lra: ok" in shown.stdout
    compared = call("compare", "luna", "fnet", "--results=a,b", cwd=place)
    assert compared.returncode == 0, compared.stderr
    assert "+10.00" in compared.stdout and "luna ahead" in compared.stdout


def test_show_tells_how_far_a_model_looks(tmp_path):
    options = [*TINY, *places(tmp_path), "--models=fnet"]
    done = call("run", "--reach", *options)
    assert done.returncode == 0, done.stderr
    (found,) = only_record(tmp_path)["reach"]
    assert found["seed"] == 0 and found["examples"] == 20 and found["k"] == [1, 2, 4, 8, 16, 32, 64]
    (cell,) = record_files(tmp_path)
    shown = call("show", str(cell), cwd=tmp_path).stdout
    assert "reach, seed 0" in shown and f"1: {100 * found['windows'][0]:.1f}, 2: " in shown and "jacobian r50" in shown
    skipped = call("run", *options)  # whether it is measured is no other cell
    assert skipped.returncode == 0 and len(record_files(tmp_path)) == 1


def test_many_problems_are_counted(place):
    for number in range(30):
        (place / "b" / "records" / f"cut{number}.json").write_text("{")
    done = call("leaderboard", "--results=b", "--noplots", cwd=place)
    assert done.returncode == 0 and done.stderr.count("\n") == 21 and "and 11 more such lines" in done.stderr


def test_an_output_folder_that_cannot_be_written_is_one_line(place):
    (place / "out").write_text("a file")
    done = call("leaderboard", "--results=a", "--noplots", "--out=out", cwd=place)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "cannot write --out=out" in done.stderr
