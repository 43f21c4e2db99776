"""The cache of prepared arrays: whole or not there, checked when read, made once, told where it cannot be."""

import dataclasses
import errno
import json
import multiprocessing
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tasks import TASKS
from tasks.io import cache, sources
from tasks.io.cache import describe, entries, open_entry
from tasks.io.files import sha256
from tasks.io.npy_writer import Table
from tasks.pathfinder.task import PathfinderConfig
from tasks.task import BuildRequest, DataError
from tests.helpers import archives
from tests.helpers.cli import ROOT
from tests.helpers.full_disk import fills_up
from tests.helpers.noise import NOISE, Rules, prepared

FEW = PathfinderConfig(train=80, validation=10, test=10)


def test_an_entry_holds_what_was_built(tmp_path):
    entry = prepared(tmp_path)
    data = open_entry(entry)
    expected = NOISE.build(BuildRequest(16, 0, "generate", Rules(), 1, print))
    assert np.array_equal(data.values, expected.values) and np.array_equal(data.lengths, expected.lengths)
    assert all(np.array_equal(data.splits[s].labels, expected.splits[s].labels) for s in data.splits)
    assert (data.vocab, data.classes, data.source, data.notes) == (10, 2, "noise", ("a note",))
    assert entries(tmp_path) == [entry]
    assert describe(entry)["counts"] == {"train": 28, "validation": 1, "test": 1}


def test_arrays_are_mapped_and_cannot_be_changed(tmp_path):
    values = open_entry(prepared(tmp_path)).values
    assert isinstance(values, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        values[0, 0] = 1


def test_a_second_call_makes_nothing(tmp_path):
    mark = tmp_path / "mark"
    rules = Rules(mark=str(mark))
    first = prepared(tmp_path, rules=rules)
    assert prepared(tmp_path, rules=rules) == prepared(tmp_path, rules=rules, source="auto") == first
    assert mark.read_text() == "made\n"


def test_a_large_table_is_written_once_and_not_copied(tmp_path, monkeypatch):
    saved = []
    real = cache._save
    monkeypatch.setattr(cache, "_save", lambda file, array: (saved.append(file.name), real(file, array)))
    monkeypatch.chdir(tmp_path)  # also with a relative cache
    entry = prepared(Path("data"))
    assert "values.npy" not in saved and "lengths.npy" in saved
    assert np.array_equal(open_entry(entry).values, NOISE.build(BuildRequest(16, 0, "", Rules(), 1, print)).values)


# --- what identifies the contents --------------------------------------------------------------------


def test_the_fingerprint_tells_contents_apart_and_nothing_else(tmp_path):
    def fingerprint(cache, **settings):
        return open_entry(prepared(tmp_path / cache, **settings)).fingerprint

    first = fingerprint("a")
    assert fingerprint("b") == first
    others = [
        {"seed": 1},
        {"length": 8},
        {"rules": Rules(rows=20)},
        {"task": dataclasses.replace(NOISE, version="2")},
    ]
    assert len({first, *(fingerprint("c", **other) for other in others)}) == 5


def test_copies_of_the_same_data_have_the_same_fingerprint(tmp_path):
    folder = archives.imdb(tmp_path / "one")
    shutil.copytree(folder, tmp_path / "two" / "aclImdb")
    archive = archives.pack(folder, tmp_path / "aclImdb_v1.tar.gz")
    text = TASKS["text"]
    found = [
        prepared(tmp_path / "cache", text, str(source), length=500, allow_unverified=True)
        for source in (tmp_path / "one", tmp_path / "two", archive)
    ]
    assert len(set(found)) == 3
    assert len({open_entry(entry).fingerprint for entry in found}) == 1
    (folder / "test" / "pos" / "another_1.txt").write_text("another")
    changed = prepared(tmp_path / "cache", text, str(tmp_path / "one"), length=500, allow_unverified=True)
    assert open_entry(changed).fingerprint != open_entry(found[0]).fingerprint


def test_auto_takes_real_data_before_generated(tmp_path):
    task = TASKS["pathfinder"]
    drawn = prepared(tmp_path, task, length=1024, rules=FEW)
    assert prepared(tmp_path, task, "auto", length=1024, rules=FEW) == drawn
    archives.drawings(tmp_path / "data")
    real = prepared(tmp_path, task, str(tmp_path / "data"), length=1024, rules=FEW)
    assert prepared(tmp_path, task, "auto", length=1024, rules=FEW) == real
    assert prepared(tmp_path, task, "generate", length=1024, rules=FEW) == drawn


def test_what_was_read_before_the_checks_of_now_is_read_again(tmp_path, monkeypatch):
    archives.expressions(tmp_path / "release")
    task, source, lines = TASKS["listops"], str(tmp_path / "release"), []
    with monkeypatch.context() as patch:
        patch.setattr(sources, "READER", sources.READER - 1)
        old = prepared(tmp_path, task, source, length=2000)
        before = open_entry(old).fingerprint
    meta = json.loads((old / "meta.json").read_text())
    del meta["settings"]["source"]["reader"], meta["unverified"]  # as the oldest entries
    meta["fingerprint"] = cache._fingerprint(meta)
    (old / "meta.json").write_text(json.dumps(meta))
    new = prepared(tmp_path, task, source, length=2000)
    assert new != old and open_entry(new).fingerprint == before  # so that keys of records stay
    assert prepared(tmp_path, task, "auto", length=2000, report=lines.append) == new
    assert lines == [f"{old} was read before the checks that are made now: skipped"]


# --- damage -------------------------------------------------------------------------------------------


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("source", ["generate", "auto"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda e: flip(e / "values.npy"), "values.npy has changed"),
        (lambda e: flip(e / "test_labels.npy"), "test_labels.npy has changed"),
        (
            lambda e: (e / "values.npy").write_bytes((e / "values.npy").read_bytes()[:200]),
            "values.npy has changed",
        ),
        (lambda e: (e / "lengths.npy").unlink(), "No such file"),
        (lambda e: (e / "meta.json").write_text('{"sha256": {'), "Expecting"),
        (
            lambda e: (e / "meta.json").write_text((e / "meta.json").read_text().replace('"seed": 0', '"seed": 1')),
            "meta",
        ),
        (lambda e: (e / "meta.json").unlink(), "meta.json"),
    ],
)
def test_a_damaged_entry_is_named_and_made_anew(tmp_path, source, damage, words):
    entry = prepared(tmp_path)
    good = open_entry(entry).fingerprint
    damage(entry)
    with pytest.raises(DataError, match=f"{entry} is damaged") as told:
        open_entry(entry)
    assert words in str(told.value)
    lines = []
    assert prepared(tmp_path, source=source, report=lines.append) == entry
    assert any(str(entry) in line and "damaged" in line for line in lines)
    assert open_entry(entry).fingerprint == good


@pytest.mark.parametrize("source", ["generate", "auto"])
def test_an_entry_that_cannot_be_read_now_is_not_made_anew(tmp_path, source, monkeypatch):
    entry = prepared(tmp_path)
    before = entry.stat().st_ino

    def none_left(*arguments, **more):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("tasks.io.cache.np.load", none_left)
        with pytest.raises(cache.Unreadable, match="cannot be read"):
            prepared(tmp_path, source=source)
    assert prepared(tmp_path, source=source) == entry and entry.stat().st_ino == before


def test_an_array_that_would_be_unpickled_is_not(tmp_path):
    entry = prepared(tmp_path)
    np.save(entry / "values.npy", np.array([{}], object), allow_pickle=True)
    meta = json.loads((entry / "meta.json").read_text())
    meta["sha256"]["values.npy"] = sha256(entry / "values.npy")
    meta["fingerprint"] = cache._fingerprint(meta)
    (entry / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match="damaged"):
        open_entry(entry)


def test_what_a_killed_process_left_is_never_taken_and_goes(tmp_path):
    program = f"""
import os, signal
from pathlib import Path
from tests.helpers import noise
real = noise.build
def killed(request):
    arrays = real(request)
    os.kill(os.getpid(), signal.SIGKILL)
import dataclasses
noise.prepared(Path({str(tmp_path)!r}), dataclasses.replace(noise.NOISE, build=killed))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    left = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(left) == 1 and (left[0] / "values.npy").exists()
    assert entries(tmp_path) == []
    entry = prepared(tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [entry]


# --- two at once --------------------------------------------------------------------------------------


def _prepare_apart(cache, mark, lines):
    prepared(Path(cache), rules=Rules(mark=mark, wait=1.0), report=lines.put)


def test_of_two_processes_one_makes_it_and_the_other_waits(tmp_path):
    context = multiprocessing.get_context("spawn")
    mark, lines = tmp_path / "mark", context.Queue()
    both = [context.Process(target=_prepare_apart, args=(str(tmp_path / "cache"), str(mark), lines)) for _ in range(2)]
    for process in both:
        process.start()
    told = lines.get(timeout=60)
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert "waiting for another process" in told
    assert mark.read_text() == "made\n"
    assert len(entries(tmp_path / "cache")) == 1
    lines.close()
    lines.join_thread()


# --- where it cannot be written -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text", "image", "retrieval", "pathfinder", "archive"])
def test_a_disk_that_fills_up_is_told_in_one_line_and_leaves_nothing(tmp_path, name):
    archives.imdb(tmp_path / "data")
    archives.cifar(tmp_path / "data")
    archives.papers(tmp_path / "data")
    archives.drawings(tmp_path / "data", count=200)
    source, task = tmp_path / "data", name
    if name == "archive":
        (tmp_path / "data/aclImdb/test/pos/long_1.txt").write_text("long " * 40_000)
        source, task = archives.pack(tmp_path / "data/aclImdb", tmp_path / "aclImdb_v1.tar.gz"), "text"
    cache = tmp_path / "cache"
    cache.mkdir()
    program = f"""
from pathlib import Path
from tasks import TASKS
from tasks.io import cache, sources
from tasks.io.cache import prepare
from tasks.task import DataError
task = TASKS[{task!r}]
try:
    prepare(task, task.length, 0, {str(source)!r}, cache=Path({str(cache)!r}), allow_unverified=True)
except DataError as error:
    print(error)
"""
    fills_up(program, cache)
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


@pytest.fixture
def read_only():
    """A cache whose folder an ordinary user may not write, and a way to run a program as one."""
    cache = Path(tempfile.mkdtemp())
    yield cache
    cache.chmod(0o700)
    shutil.rmtree(cache)


def as_user(program: str) -> str:
    """Runs a program as an ordinary user, since root may write everywhere; returns its output."""

    # Imports before the change of user: this repository may be closed to others.
    done = subprocess.run(
        [sys.executable, "-B", "-c", f"from tests.tasks.test_cache import *\n{program}"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


DROP = """
import os
import mmap  # which NumPy imports when it first maps a file
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""


def test_a_read_only_cache_serves_what_it_has_and_tells_what_it_has_not(read_only):
    entry = prepared(read_only)
    for path in (read_only, *read_only.rglob("*")):
        path.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH | (0o111 if path.is_dir() else 0))
    program = f"""{DROP}
cache = Path({str(read_only)!r})
for settings in ({{}}, {{"source": "auto"}}):
    print(open_entry(prepared(cache, **settings)).fingerprint)
try:
    prepared(cache, seed=1)
except DataError as error:
    print(error)
"""
    first, second, told = as_user(program).splitlines()
    assert first == second == open_entry(entry).fingerprint
    assert told == f"cannot write {read_only}: Permission denied"


def test_a_cache_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=f"cannot write {tmp_path / 'file' / 'cache'}: Not a directory"):
        prepared(tmp_path / "file" / "cache")


# --- the table on disk --------------------------------------------------------------------------------


def test_a_table_is_an_ordinary_npy_file(tmp_path):
    with Table(tmp_path, 5) as table:
        for rows in (3, 0, 1000):
            table.add(np.full((rows, 5), rows % 256, np.uint8))
    loaded = np.load(tmp_path / "values.npy")
    assert loaded.shape == (1003, 5) and np.array_equal(loaded, table.array())
    assert np.array_equal(loaded[:, 0], [3] * 3 + [1000 % 256] * 1000)
    with pytest.raises(ValueError, match=r"uint8 \[n, 5\]"), Table(None, 5) as table:
        table.add(np.zeros((2, 5), np.int32))
    with Table(None, 5) as table:
        pass
    assert table.array().shape == (0, 5)
