"""The leaderboard from hand-made records."""

import math
import random

import pandas as pd
import pytest

from lra import leaderboard, records
from tests.made import record


def board_of(found):
    return leaderboard.table(leaderboard.cells(found))


def row(board, model):
    rows = board[board["model"] == model]
    assert len(rows) == 1
    return rows.iloc[0]


def test_seeds_are_averaged_with_their_spread_and_number():
    found = [record(score=s, seed=i) for i, s in enumerate((0.40, 0.44, 0.48))]
    found += [record("transformer", score=0.5)]
    board = board_of(found)
    assert list(board["model"]) == ["transformer", "fnet"]
    fnet = row(board, "fnet")
    assert fnet["listops@2000"] == pytest.approx(44)
    assert fnet["listops@2000 ±"] == pytest.approx(4)
    assert fnet["listops@2000 n"] == 3
    assert fnet["listops@2000 steps/s"] == 3
    assert math.isnan(row(board, "transformer")["listops@2000 ±"])


def test_the_average_names_its_tasks_and_is_empty_where_one_is_missing():
    found = [record(score=0.4), record(task="text", length=1000, score=0.6), record("transformer", score=0.9)]
    board = board_of(found)
    name = "average (listops@2000, text@1000)"
    assert row(board, "fnet")[name] == pytest.approx(50)
    assert math.isnan(row(board, "transformer")[name])


@pytest.mark.parametrize("status", ["failed", "oom", "diverged", "timeout", "interrupted"])
def test_a_cell_without_a_result_says_why_and_changes_no_other_row(status):
    alone = board_of([record(score=0.4)])
    both = board_of([record(score=0.4), record("transformer", status=status)])
    broken = row(both, "transformer")
    assert math.isnan(broken["listops@2000"]) and broken["listops@2000 status"] == status
    pd.testing.assert_series_equal(
        row(both, "fnet")[alone.columns], row(alone, "fnet"), check_names=False, check_dtype=False
    )
    assert f"| {status} " in leaderboard.markdown(both)


def test_a_failed_seed_is_not_averaged_in():
    board = board_of([record(score=0.4), record(seed=1, status="diverged")])
    assert row(board, "fnet")["listops@2000"] == pytest.approx(40)
    assert row(board, "fnet")["listops@2000 n"] == 1


def test_results_of_different_settings_are_never_averaged():
    other_data = record(score=0.8, seed=1, created="2026-01-02T00:00:00+00:00")
    other_data["data"] = other_data["data"] | {"fingerprint": "g"}
    overridden = record(score=0.9, seed=2, overrides=["train.steps=9"])
    board = board_of([record(score=0.4), other_data, overridden])
    assert sorted(zip(board["overrides"], board["variant"], board["listops@2000"].round(), strict=True)) == [
        ("", 1, 40),
        ("", 2, 80),
        ("train.steps=9", 1, 90),
    ]


def test_lengths_are_columns_of_their_own():
    board = board_of([record(score=0.4), record(score=0.3, length=1000)])
    assert board.loc[0, "listops@1000"] == pytest.approx(30) and board.loc[0, "listops@2000"] == pytest.approx(40)


def test_the_order_of_files_does_not_matter():
    found = [
        record(m, t, score=s / 10, seed=s, length=100 * s)
        for m in ("fnet", "transformer", "luna")
        for t in ("listops", "text")
        for s in (1, 2)
    ]
    expected = leaderboard.markdown(board_of(found))
    for seed in range(5):
        random.Random(seed).shuffle(found)
        assert leaderboard.markdown(board_of(found)) == expected


def test_files_are_written_and_read_back(tmp_path):
    for number, made in enumerate([record(score=0.4), record("transformer", status="oom")]):
        records.write(tmp_path / "records" / f"r{number}.json", made)
    (tmp_path / "records" / "r9.json").write_text("{")
    text, problems = leaderboard.write(tmp_path, tmp_path / "out")
    assert len(problems) == 1
    board = pd.read_csv(tmp_path / "out" / "leaderboard.csv")
    assert board.loc[0, "model"] == "fnet" and board.loc[0, "listops@2000"] == 40
    tidy = pd.read_csv(tmp_path / "out" / "cells.csv")
    assert len(tidy) == 2 and {"recipe.train.steps", "data.fingerprint", "key", "test_best"} <= set(tidy.columns)
    assert (tmp_path / "out" / "leaderboard.md").read_text() == text
    assert "40.00 (1 seed)" in text and "oom" in text
    assert "Most frequent class: listops@2000 20.00 %" in text


def test_no_records_is_a_table_too():
    assert leaderboard.markdown(board_of([])) == "No records yet.\n"
