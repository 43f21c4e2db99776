"""The tasks' arrays for other people's training code: what they hold, when they are made, and which names are known."""

import dataclasses
import inspect
import pickle
import sys

import numpy as np
import pytest

import tasks.examples
from tasks import TASKS, DataError, Examples, load
from tasks.io.cache import open_entry
from tasks.task import SPLITS
from tests.helpers import archives
from tests.helpers.cli import call
from tests.helpers.noise import NOISE, prepared

FEW = {"train": 60, "validation": 10, "test": 10}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with copies of text and of retrieval, and a data cache."""
    folder = tmp_path_factory.mktemp("place")
    archives.imdb(folder / "copy")
    archives.papers(folder / "copy")
    return folder


def loaded(place, task, split="train", length=None, **settings):
    if task != "listops_short":
        settings |= {"source": place / "copy", "allow_unverified": True}
    return load(task, split, length, data=place / "data", **settings)


CASES = [("listops_short", None, FEW), ("text", 100, {}), ("retrieval", 200, {})]


def read_naively(entry, split):
    """Token ids, lengths and labels of a split, one at a time from the stored table."""
    data = open_entry(entry)
    tokens, lengths = [], []
    for rows in data.splits[split].index.tolist():
        documents = []
        for row in rows:
            ids = [int(value) + 1 for value in data.values[row]]
            documents.append([ids[i] if i < data.lengths[row] else 0 for i in range(len(ids))])
        sizes = [int(data.lengths[row]) for row in rows]
        tokens.append(documents if len(rows) == 2 else documents[0])
        lengths.append(sizes if len(rows) == 2 else sizes[0])
    return np.array(tokens), np.array(lengths), np.array(data.splits[split].labels)


@pytest.mark.parametrize(("task", "length", "settings"), CASES)
@pytest.mark.parametrize("split", SPLITS)
def test_the_arrays_are_those_of_the_table(place, task, length, settings, split):
    examples = loaded(place, task, split, length, **settings)
    tokens, lengths, labels = read_naively(examples.entry, split)
    assert np.array_equal(examples.tokens, tokens) and examples.tokens.dtype == examples.dtype
    assert np.array_equal(examples.lengths, lengths) and examples.lengths.dtype == np.int32
    assert np.array_equal(examples.labels, labels) and examples.labels.dtype == np.int64
    pair = (2,) if task == "retrieval" else ()
    assert examples.tokens.shape == (len(examples), *pair, length or 64)
    assert np.array_equal(examples.tokens == 0, np.arange(length or 64) >= examples.lengths[..., None])
    assert examples.tokens.max() < examples.vocab and examples.labels.max() < examples.classes


def test_an_example_is_described_as_in_the_cache(place):
    examples = loaded(place, "text", "test", 100)
    data = open_entry(examples.entry)
    assert (examples.task, examples.split, examples.length) == ("text", "test", 100)
    assert (examples.vocab, examples.classes, examples.fingerprint) == (257, 2, data.fingerprint)
    assert (examples.source, examples.notes) == (data.source, data.notes) and examples.notes
    assert len(examples) == 80
    assert loaded(place, "text", "train", 100).fingerprint == examples.fingerprint
    assert "values" not in repr(examples)


def test_ids_up_to_256_are_int16_and_smaller_ones_uint8(tmp_path):
    def build(request):
        arrays = NOISE.build(request)
        return dataclasses.replace(arrays, values=np.full_like(arrays.values, 255))

    wide = Examples.open(prepared(tmp_path, dataclasses.replace(NOISE, vocab=257, build=build)), "train")
    assert wide.tokens.dtype == np.int16 and (wide.tokens == 256).all()
    assert Examples.open(prepared(tmp_path / "narrow"), "train").tokens.dtype == np.uint8


def test_nothing_is_made_before_it_is_asked_for(place):
    examples = loaded(place, "retrieval", "train", 200)
    assert isinstance(examples.data.values, np.memmap)
    batch = examples.take([5, 3])
    assert {*vars(examples)} & {"tokens", "lengths"} == set() and len(examples) == 60
    assert np.array_equal(batch.tokens, examples.tokens[[5, 3]])
    assert np.array_equal(batch.lengths, examples.lengths[[5, 3]])
    assert np.array_equal(batch.labels, examples.labels[[5, 3]])
    assert examples.tokens is examples.tokens


@pytest.mark.parametrize("at_once", [1, 1000])
def test_a_split_is_gathered_in_parts(place, monkeypatch, at_once):
    whole = loaded(place, "retrieval", "train", 200).tokens
    monkeypatch.setattr(tasks.examples, "_TOKENS_AT_ONCE", at_once)
    examples = loaded(place, "retrieval", "train", 200)
    assert {part.stop - part.start for part in examples.parts()} == {max(1, at_once // 400)}
    assert np.array_equal(examples.tokens, whole)


def test_another_process_opens_the_same_files(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    examples = load("listops_short", "test", **FEW)  # with a relative cache
    examples.tokens.sum()
    pickled = pickle.dumps(examples)
    monkeypatch.chdir(tmp_path)
    opened = pickle.loads(pickled)
    assert len(pickled) < 1000 and isinstance(opened.data.values, np.memmap)
    assert (opened.task, opened.split, opened.length) == ("listops_short", "test", 64)
    assert np.array_equal(opened.tokens, examples.tokens)


def test_another_process_does_not_take_what_was_made_anew(tmp_path):
    entry = prepared(tmp_path)
    pickled = pickle.dumps(Examples.open(entry, "train"))
    other = prepared(tmp_path, seed=1)
    entry.rename(tmp_path / "old")
    other.rename(entry)
    with pytest.raises(DataError, match="holds other data than when it was opened: load it again"):
        pickle.loads(pickled)


# --- what is loaded -----------------------------------------------------------------------------------


def test_what_was_prepared_on_the_command_line_is_loaded(tmp_path, capsys):
    settings = [f"--set=data.{name}={count}" for name, count in FEW.items()]
    done = call("prepare", "--tasks=listops_short", "--workers=1", f"--data={tmp_path}", *settings)
    assert done.returncode == 0, done.stderr
    (entry,) = (path for path in tmp_path.iterdir() if path.is_dir())
    again = load("listops_short", data=tmp_path, train=np.int64(60), validation=10.0, test=10)
    assert again.entry == entry and len(again) == 60
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [entry]
    assert capsys.readouterr() == ("", "")


def test_messages_go_to_standard_error_or_where_one_wants_them(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    options = {"data": tmp_path / "data", "source_dir": tmp_path / "empty", **FEW}
    load("listops_short", **options)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"listops_short: {tmp_path}/empty holds nothing of listops_short")
    lines = []
    load("listops_short", **options | {"train": 50}, report=lines.append)
    assert lines == err.splitlines() and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        (("listop",), {}, "unknown task 'listop': did you mean 'listops'?"),
        (("glue",), {}, "unknown task 'glue': known: listops, listops_short, text, "),
        (("listops", "valid"), {}, "unknown split 'valid': did you mean 'validation'?"),
        (("listops", "dev"), {}, "unknown split 'dev': known: train, validation, test"),
        (("listops_short",), {"trian": 9}, "unknown setting of listops_short 'trian': did you mean 'train'?"),
        (("retrieval",), {"lenght": 9}, "unknown setting of retrieval 'lenght': did you mean 'length'?"),
        (("listops_short",), {"train": "many"}, "train takes a whole number, not 'many'"),
        (("listops_short",), {"train": 1.5}, "train takes a whole number, not 1.5"),
        (("listops_short",), {"train": None}, "train takes a whole number, not None"),
        (("text",), {"validation": "half"}, "validation takes a number, not 'half'"),
        (("listops_short", "train", "64"), {}, "length takes a whole number, not '64'"),
        (("listops_short", "train", 0), {}, "length must be at least 1, not 0"),
        (("pathfinder", "train", 64), {}, "pathfinder32 has 32×32 = 1,024 pixels: its length cannot be 64"),
    ],
)
def test_a_wrong_name_or_value_is_one_line(tmp_path, arguments, settings, words):
    with pytest.raises(DataError) as told:
        load(*arguments, data=tmp_path, **settings)
    assert str(told.value).startswith(words) and "\n" not in str(told.value)


def test_no_task_has_a_setting_that_is_an_argument_of_load():
    arguments = set(inspect.signature(load).parameters)
    for task in TASKS.values():
        assert not arguments & {field.name for field in dataclasses.fields(task.rules)}, task.name


def test_without_torch_one_line_says_what_to_install(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "tasks.torch_examples", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"^PyTorch is not installed, .*: pip install torch$"):
        loaded(place, "listops_short", **FEW).torch()
