"""Readers of what others have written, as functions of bytes that fail on any error but the one clear line.

tests/cli/test_fuzz.py feeds them from hypothesis, tests/fuzz.py from atheris.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import io
import json
import pickle
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from configs import PROTOCOLS
from configs.recipe import Recipe, RecipeError, override
from lra.errors import UsageError, one_line
from lra.grid import names, sweep
from lra.report import html_page, latex, leaderboard, show, tables
from lra.results import archive, load, predictions, records, runs
from lra.results.lease import Leases
from tasks import listops, retrieval
from tasks.io import safe_pickle
from tasks.pathfinder import task
from tasks.task import DataError
from tests.helpers.records import record


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def _file(name: str, data: bytes) -> Path:
    file = Path(_folder().name, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


@contextlib.contextmanager
def _one_line(*kinds: type[Exception]) -> Iterator[None]:
    """Lets an error of these kinds pass if it says something."""
    try:
        yield
    except kinds as error:
        assert one_line(error)


def show_records(data: bytes) -> None:
    """A record's file: named in one line, or shown in every way beside another.

    What does not begin with '{' says how a whole record is changed (`edited`).
    """
    file = _file("records/a.json", data if data[:1] == b"{" else json.dumps(edited(data)).encode())
    _file("records/b.json", _other())
    found, lines = load.load_records([Path(_folder().name)])
    assert len(found) + len(lines) == 2 and any(r["cell"]["model"] == "luna" for r in found)
    assert all(map(one_line, lines))
    with _one_line(ValueError):
        records.read_checked(file)
    if lines:
        return
    built = leaderboard.build(found)
    texts = [tables.to_markdown(built), latex.to_latex(built), html_page.to_html(built, found), tables.cells_csv(found)]
    texts += [tables.to_frame(built).to_csv(), *map(show.record_text, found)]
    with _one_line(UsageError):
        texts.append(show.comparison_text(found, found[0]["cell"]["model"], "luna"))
    for text in texts:
        text.encode()
    assert all("luna" in text for text in texts[:5])


JUNK: list[Any] = [
    None, True, 0, -1, 1e400, 1e308, 10**18, 10**40, "", "x", "\n", "$\\frac$", "<script>|\\|", "\x1b[2J", "\ud800",
    [], {}, [None], [1], ["x"], [["x", 1]], {"a": 1}, {"a": {"b": [1]}}, {"": None}, {"step": 1, "train_loss": 1e400},
]  # fmt: skip


def edited(data: bytes) -> Any:
    """A whole record with changes; the first byte says whether it is tuned, external, or neither."""
    made: Any = json.loads(_other()) | {"key": "edited", "overrides": ["train.steps=3"], "log": ["a line"]}
    made["cell"] |= {"model": "fnet", "mixer": "fnet"}
    made |= {1: {"tuning": _TUNING}, 2: {"external": {"note": "theirs", "given_as": "logits"}}}.get(
        next(iter(data), 0), {}
    )
    return changed(copy.deepcopy(made), data[1:])


_TUNING: dict[str, Any] = {
    "sweep": ["optimizer.learning_rate=1e-4..1e-2:log"], "seed": 0, "chosen": 1,
    "trials": [
        {"settings": [f"optimizer.learning_rate={rate}"], "status": "ok", "validation_best": 0.4, "key": rate}
        for rate in ("1e-3", "1e-2")
    ],
}  # fmt: skip


def changed(made: Any, data: bytes) -> Any:
    """Nested parts with changes: of each three bytes, two say where, and one what stands there from then on."""
    for first, second, what in zip(*[iter(data[:30])] * 3, strict=False):
        places = list(_places(made))
        if not places:
            break
        part, name = places[(256 * first + second) % len(places)]
        if what == 255:
            del part[name]
        else:
            part[name] = copy.deepcopy(JUNK[what % len(JUNK)])
    return made


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every part of a nested value, as what holds it and its name there."""
    for name in list(value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()):
        yield value, name
        yield from _places(value[name])


@functools.cache
def _other() -> bytes:
    return json.dumps(record("luna", score=0.4)).encode()


@functools.cache
def _whole() -> bytes:
    """A grid, and the record and the lease of its one cell."""
    numbers = {"length": 8, "seeds": [0], "steps": 9, "batch": 4}
    cell = {"name": "c", "key": "k", "lease": "c", "task": "t", "model": "m"} | numbers
    made = record("m", key="k") | {"wall_seconds": 3.0, "train_speed": {"steps_per_second": 2.0}}
    lease = {"owner": "o", "host": "h", "pid": 1, "started": "0", "machine": "m", "progress": {"step": 3}}
    return json.dumps([{"verb": "run", "arguments": ["--models=m"], "cells": [cell]}, made, lease]).encode()


def show_status(data: bytes) -> None:
    """Feeds a results folder to `status`, `retry` and a run: each gives a line that names a file, or rows.

    The first byte says which of a grid, a record and a lease is not whole, the second whether the rest is its content
    or says how it is changed.
    """
    which, how, rest = data[0] % 4 if data else 3, data[1:2] > b"\x7f", data[2:]
    for number, name in enumerate(("grids/g.json", "records/c.json", "leases/c.1")):
        part = json.loads(_whole())[number]
        if number == which:
            file = _file(f"results/{name}", rest if how else json.dumps(changed(part, rest[:30])).encode())
        else:
            file = _file(f"results/{name}", json.dumps(part).encode())
    results = file.parent.parent
    with _one_line(UsageError):
        rows, line = runs.status(results)
        assert all(text.isprintable() for text in [*runs.format_table(rows).split("\n"), line])
        assert isinstance(runs.retry_commands(results, ["failed"]), list)
    Leases(results / "leases").take("c")
    for left in (results / "leases").iterdir():
        left.unlink()


def read_tsv(data: bytes) -> None:
    """A file of a release, the first byte says which: read, or named in one line."""
    kind, rest = data[:1], data[1:]
    file = _file("file", rest)
    with _one_line(DataError):
        if kind < b"\x40":
            for values, answer in listops.read_tsv(file):
                assert 0 <= answer <= 9 and max(values, default=0) < len(listops.VOCABULARY)
        elif kind < b"\x80":
            for label, *texts in retrieval.read_pairs(file, kind < b"\x60", [0]):
                assert label in (0, 1) and all(texts)
        elif kind < b"\xa0":
            picture = task.decode("a picture", rest, 32)
            assert picture is None or picture.shape == (1024,)
        elif kind < b"\xc0":
            metadata = _file("release/metadata/1.npy", rest)
            for name, content, label in task._read_release(metadata.parent.parent):
                assert (
                    Path(name).is_relative_to(metadata.parent.parent) and label in (0, 1) and isinstance(content, bytes)
                )
        else:
            assert isinstance(safe_pickle.read(file), dict)


def parse_overrides(data: bytes) -> None:
    """`--set`, and the options of `--models`: a recipe of the same form, or one line."""
    words = data.decode(errors="replace").split("\n")
    base = dataclasses.replace(PROTOCOLS["lra"].recipe("listops", "fnet"), data=listops.ListOpsConfig())
    with _one_line(RecipeError):
        made = override(base, words)
        assert _types(made) == _types(base)
    with _one_line(UsageError):
        assert all(isinstance(model.name, str) for model in names.parse_models(words, ("fnet",)))


def _types(recipe: Recipe) -> list[tuple[str, type]]:
    sections = [recipe.encoder, recipe.optimizer, recipe.schedule, recipe.train, recipe.data]
    return [(name, type(value)) for section in sections for name, value in vars(section).items()]


def parse_sweep(data: bytes) -> None:
    """`--sweep`, a word a line, with a budget from the first byte (0: none): trials that are recipes, or one line."""
    words, budget = data[1:].decode(errors="replace").split("\n"), data[0] % 16 if data else 0
    base = PROTOCOLS["lra"].recipe("listops", "fnet")
    with _one_line(UsageError, RecipeError):
        made = sweep.parse(words, budget or None, ())
        assert made is not None
        found = made.trials(base)
        assert len(set(found)) == len(found) and (not budget or len(found) == budget)
        for settings in found:
            override(base, settings)


def read_predictions(data: bytes) -> None:
    """A file of predictions, the first byte says which kind: a class for each of 4 examples, or one line."""
    file = _file(f"predictions{('.npy', '.csv', '.jsonl')[data[0] % 3 if data else 0]}", data[1:])
    with _one_line(UsageError):
        classes, given_as = predictions.read(file, 4, 3)
        assert classes.shape == (4,) and set(classes.tolist()) <= {0, 1, 2} and given_as in ("classes", "logits")


def read_archive(data: bytes) -> None:
    """An archive of records: read within its limits, or named in one line."""
    file = _file("inside/archive.zip", data)
    with _one_line(UsageError):
        found, lines = load.load_records([file])
        assert all(map(one_line, lines)) and len(found) + len(lines) <= archive.MAX_RECORDS
    assert {path.name for path in file.parent.iterdir()} >= {"archive.zip"} and not (file.parent.parent / "x").exists()


TARGETS = {
    "records": show_records, "status": show_status, "tsv": read_tsv, "overrides": parse_overrides,
    "sweep": parse_sweep, "predictions": read_predictions, "archive": read_archive,
}  # fmt: skip


def seeds(target: str) -> list[bytes]:
    """Valid inputs that a target starts from."""
    if target == "records":
        made = [record(), record(status="oom"), record(overrides=["train.steps=3"], log=["a line"], score=None)]
        return [*(json.dumps(one).encode() for one in made), b"\x00\x01\x02\x00\x10\x08\x01\x07\xff"]
    if target == "overrides":
        lines = ["train.steps=5\nencoder.pool=mean", "optimizer.learning_rate=1e-3", "train.remat=true", "data.train=9"]
        return [line.encode() for line in [*lines, "performer:features=64\nkernel=relu", "package.module:Class:a=1"]]
    if target == "sweep":
        words = [
            "encoder.dropout=0,0.1\nencoder.pool=cls,mean",
            "optimizer.learning_rate=1e-4..1e-2:log\ntrain.batch=8..64",
        ]
        return [b"\0" + words[0].encode(), b"\x08" + words[1].encode()]
    if target == "predictions":
        array = io.BytesIO()
        np.save(array, np.array([2, 0, 1, 1]))
        lines = b'{"example": 3, "prediction": 1}\n{"example": 0, "logits": [0, 1, 2]}\n'
        return [b"\0" + array.getvalue(), b"\1example,a,b,c\n1,0,1,2\n0,2,1,0\n3,1,1,1\n2,0,0,1\n", b"\2" + lines]
    if target == "archive":
        made = {records.RESULTS: [record(), record("luna")], records.BENCH: []}
        hostile = io.BytesIO()
        with zipfile.ZipFile(hostile, "w") as file:
            file.writestr("records/../../x", _other())
        return [archive.to_bytes(made), hostile.getvalue()]
    if target == "status":
        return [bytes([which, 255]) + json.dumps(json.loads(_whole())[which]).encode() for which in range(3)]
    picture = io.BytesIO()
    Image.fromarray(np.eye(32, dtype=np.uint8)).save(picture, "PNG")
    pickled = pickle.dumps({b"data": np.zeros((2, 3), np.uint8), b"labels": [1, 2]}, protocol=2)
    pairs = b"1.0\tA\tB\tone text\tanother\n0\tA\tC\tone text\tthird\n"
    return [
        b"\x00Source\tTarget\n( ( ( [MAX 2 ) 9 ) ] )\t9\n[SM 1 2 ]\t3\n", b"\x40" + pairs, b"\x70" + pairs,
        b"\x80" + picture.getvalue(), b"\xa0imgs/0 sample_0.png 0 1 1.0 14 4 2\n", b"\xc0" + pickled,
    ]  # fmt: skip
