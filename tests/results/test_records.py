"""Records: written whole or not at all, and read with suspicion."""

import errno
import json
import math
import os

import pytest

from lra.errors import UsageError
from lra.results import load, records
from lra.results.folder import record_path, unfinished
from tests.helpers.records import quick_cell, record


def test_a_record_comes_back_as_it_was_written(tmp_path):
    made = record(score=0.25) | {"nested": {"list": [1, 2.5, None, "é"]}}
    path = tmp_path / "records" / "cell.json"
    records.write(path, made)
    assert records.read(path) == made
    assert os.listdir(path.parent) == ["cell.json"]


def test_what_is_not_a_number_becomes_null(tmp_path):
    path = tmp_path / "cell.json"
    records.write(path, record() | {"a": math.nan, "b": [math.inf]})
    assert json.loads(path.read_text())["b"] == [None]


def test_a_failed_write_leaves_the_old_record_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "cell.json"
    records.write(path, record(score=0.1))

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        records.write(path, record(score=0.9))
    assert records.read(path)["results"][0]["test_best"] == 0.1
    assert os.listdir(tmp_path) == ["cell.json"]


def test_a_record_that_cannot_be_read_now_is_not_run_over(tmp_path, monkeypatch):
    """Too many open files, say: the record may be a finished one."""
    cell = quick_cell()
    path = record_path(tmp_path, cell)
    records.write(path, record(key=cell.key))

    def none_left(*arguments, **more):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", none_left)
        with pytest.raises(UsageError, match="cannot be read: Too many open files"):
            unfinished([cell], tmp_path)
    assert unfinished([cell], tmp_path) == []


def test_a_record_of_another_cell_under_this_one_s_name_does_not_count(tmp_path):
    cell = quick_cell()
    records.write(record_path(tmp_path, cell), record(key=cell.key[:10] + "another"))
    assert unfinished([cell], tmp_path) == [cell]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not a whole record"),
        ('{"schema": 1, "status"', "not a whole record"),
        ("[]", "not a record"),
        ("{}", "'schema' is missing"),
        (json.dumps(record() | {"schema": 99}), "schema 99"),
        (json.dumps(record() | {"status": "great"}), "unknown status"),
        (json.dumps(record() | {"cell": 3}), "'cell' is missing"),
        ("[" * 100_000, "not a whole record"),
        (json.dumps(record() | {"log": json.loads("[" * 30 + "]" * 30)}), "not a record"),
        (json.dumps(record() | {"parameters": 10**30}), "a number of 31 digits"),
        (json.dumps(record() | {"error": "\ud800"}), "not a whole record"),
        (json.dumps(record() | {"evaluated": {"test": -1}}), "'evaluated' is missing or of another type"),
        (json.dumps(record() | {"evaluated": {"test": "all"}}), "'evaluated' is missing or of another type"),
    ],
)
def test_damaged_records_are_named_and_left_out(tmp_path, content, words):
    records.write(tmp_path / "records" / "a.json", record())
    (tmp_path / "records" / "b.json").write_text(content)
    found, problems = load.load_records([tmp_path])
    assert len(found) == 1 and len(problems) == 1
    assert words in problems[0] and "b.json" in problems[0]
