"""Anything at all in what is read: one clear line, or a whole result. `python -m tests.fuzz` searches for longer."""

import json
import struct
import subprocess
import sys
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import fuzz_targets
from tests.helpers.cli import ROOT

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=8), part, max_size=4),
    max_leaves=20,
)


def changed(whole: bytes) -> st.SearchStrategy[bytes]:
    """A whole input with a part of it replaced by a few bytes."""
    places = st.integers(0, len(whole))
    parts = st.binary(max_size=6) | st.sampled_from([b"\t", b"\n", b"\r", b"\0", b'"', b"{", b"[" * 2000, b"9" * 400])
    return st.builds(lambda a, b, part: whole[: min(a, b)] + part + whole[max(a, b) :], places, places, parts)


def inputs(target: str) -> st.SearchStrategy[bytes]:
    return st.binary(max_size=200) | st.one_of(*map(changed, fuzz_targets.seeds(target)))


@settings(deadline=None, max_examples=150)
@given(st.one_of(inputs("records"), ANYTHING.map(lambda made: json.dumps(made).encode())))
def test_any_bytes_and_any_json_as_a_record(data):
    fuzz_targets.show_records(data)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from([b"\0", b"\1", b"\2"]), st.binary(min_size=3, max_size=12))
def test_a_record_with_junk_in_several_places(kind, data):
    fuzz_targets.show_records(kind + data)


@settings(deadline=None, max_examples=300)
@given(
    inputs("status")
    | st.builds(lambda which, made: bytes([which, 255]) + json.dumps(made).encode(), st.integers(0, 2), ANYTHING)
    | st.builds(lambda which, junk: bytes([which, 0]) + junk, st.integers(0, 2), st.binary(min_size=3, max_size=12))
)
def test_anything_in_a_results_folder_for_status_and_retry(data):
    fuzz_targets.show_status(data)


@settings(deadline=None, max_examples=300)
@given(inputs("tsv"))
def test_any_bytes_as_a_file_of_a_release(data):
    fuzz_targets.read_tsv(data)


NAMES = [
    "train.steps",
    "encoder.dim",
    "optimizer.b1",
    "data.max_depth",
    "encoder.pool",
    "train.remat",
    "train",
    "data.",
]
SETTING = st.builds("{}={}".format, st.sampled_from(NAMES) | st.text(), st.text() | st.integers() | st.floats())


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(inputs("overrides"), st.lists(SETTING, max_size=4).map(lambda s: "\n".join(s).encode(errors="replace")))
)
def test_any_words_as_overrides(data):
    fuzz_targets.parse_overrides(data)


AXES = st.builds(
    "{}={}".format, st.sampled_from(NAMES), st.text(alphabet="0123456789.,e-:log", max_size=12) | st.text(max_size=4)
)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 255), st.lists(AXES, max_size=3))
def test_any_words_as_a_sweep(budget, axes):
    fuzz_targets.parse_sweep(bytes([budget]) + "\n".join(axes).encode(errors="replace"))


@settings(deadline=None, max_examples=300)
@given(inputs("predictions"))
def test_any_bytes_as_predictions(data):
    fuzz_targets.read_predictions(data)


@settings(deadline=None, max_examples=300)
@given(inputs("archive"))
def test_any_bytes_as_an_archive(data):
    fuzz_targets.read_archive(data)


def vast_picture() -> bytes:
    """A PNG that says it has 30,000 × 30,000 pixels."""
    made = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0), b"IDAT" + zlib.compress(b"")):
        made += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return made


FOUND = {
    "a field too long": b"\x00Source\tTarget\n" + b"9" * 200_000 + b"\t1\n",
    "odd line ends": b"\x00Source\tTarget\n[MAX 1\r2 ]\t2\n",
    "a vast picture": b"\x80" + vast_picture(),
    "a name too long": b"\xa0" + b"x" * 300 + b" sample_0.png 0 1\n",
    "an odd escape in a pickle": b"\xc0c\\ \n\n.",
}


@pytest.mark.parametrize("data", FOUND.values(), ids=FOUND)
def test_what_was_found_once_stays_found(data):
    fuzz_targets.read_tsv(data)


@pytest.mark.parametrize("target", fuzz_targets.TARGETS)
def test_what_a_target_starts_from_is_whole(target):
    for data in fuzz_targets.seeds(target):
        fuzz_targets.TARGETS[target](data)


def test_the_target_finds_what_it_is_there_for(monkeypatch):
    """Without the reader's own checks, junk stops the tables."""
    monkeypatch.setattr("lra.results.records.check", lambda record: None)
    with pytest.raises((TypeError, AttributeError, KeyError)):
        for place in range(256):
            fuzz_targets.show_records(bytes([0, 0, place, 5]))


@pytest.mark.process
@pytest.mark.parametrize("target", fuzz_targets.TARGETS)
def test_a_few_seconds_of_coverage_guided_search_find_nothing(target, tmp_path):
    pytest.importorskip("atheris", reason="atheris is not installed (extra `fuzz`)")
    command = [sys.executable, "-m", "tests.fuzz", target, "--seconds=1", f"--corpus={tmp_path}/corpus"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not list((tmp_path / "corpus").glob("crash-*")), done.stderr[-3000:]
    assert "stat::number_of_executed_units" in done.stderr
