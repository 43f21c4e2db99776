"""Exports: the same arrays in files that others read, whole or not there, never mixed with anything else."""

import hashlib
import json
import os

import numpy as np
import pytest
from pyarrow import parquet

import tasks.examples
from tasks import TASKS, DataError, Examples
from tasks.io.cache import describe, prepare
from tasks.io.export import export
from tasks.pathfinder.task import PathfinderConfig
from tasks.task import SPLITS
from tests.helpers import archives
from tests.helpers.cli import call
from tests.helpers.full_disk import fills_up
from tests.helpers.noise import prepared

FEW = ("--set=data.train=60", "--set=data.validation=10", "--set=data.test=10")
FORMATS = ("npy", "parquet")


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    place = tmp_path_factory.mktemp("data")
    for make in (archives.imdb, archives.papers):
        make(place / "copy")
    made = {
        name: prepare(TASKS[name], 200, 0, str(place / "copy"), cache=place, allow_unverified=True)
        for name in ("text", "retrieval")
    }
    rules = PathfinderConfig(train=40, validation=5, test=5)
    made["pathfinder"] = prepare(TASKS["pathfinder"], 1024, 0, "generate", rules=rules, cache=place)
    return made


def read_card(folder):
    return json.loads((folder / "card.json").read_text())


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- round trips --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["text", "retrieval", "pathfinder"])
def test_npy_files_hold_the_arrays(entries, tmp_path, task):
    folder = export(entries[task], tmp_path / "new" / "folder", "npy")
    assert folder == tmp_path / "new" / "folder" / f"{task}-{1024 if task == 'pathfinder' else 200}"
    for split in SPLITS:
        examples = Examples.open(entries[task], split)
        for name in ("tokens", "lengths", "labels"):
            saved, array = np.load(folder / f"{split}_{name}.npy"), getattr(examples, name)
            assert saved.dtype == array.dtype and np.array_equal(saved, array)


@pytest.mark.parametrize("task", ["text", "retrieval", "pathfinder"])
def test_parquet_files_hold_the_tokens_without_padding(entries, tmp_path, task):
    folder = export(entries[task], tmp_path, "parquet")
    for split in SPLITS:
        examples = Examples.open(entries[task], split)
        table = parquet.read_table(folder / f"{split}.parquet")
        columns = ["tokens1", "tokens2"] if task == "retrieval" else ["tokens"]
        assert table.column_names == [*columns, "label"] and table["label"].to_pylist() == examples.labels.tolist()
        tokens = examples.tokens.reshape(len(examples), len(columns), -1)
        lengths = examples.lengths.reshape(len(examples), len(columns))
        for number, column in enumerate(columns):
            expected = [ids[:n].tolist() for ids, n in zip(tokens[:, number], lengths[:, number], strict=True)]
            assert table[column].to_pylist() == expected


@pytest.mark.parametrize("form", FORMATS)
def test_a_split_is_written_in_parts(entries, tmp_path, monkeypatch, form):
    whole = export(entries["retrieval"], tmp_path / "whole", form)
    taken = []
    real = Examples.take
    monkeypatch.setattr(Examples, "take", lambda self, part: (taken.append(part), real(self, part))[1])
    monkeypatch.setattr(tasks.examples, "_TOKENS_AT_ONCE", 4000)
    parts = export(entries["retrieval"], tmp_path / "parts", form)
    assert {part.stop - part.start for part in taken} == {10} and len(taken) == 8
    if form == "npy":
        assert files_of(parts) == files_of(whole)
    else:
        for split in SPLITS:
            tables = [parquet.read_table(folder / f"{split}.parquet") for folder in (parts, whole)]
            assert tables[0].equals(tables[1])
        assert parquet.ParquetFile(parts / "train.parquet").num_row_groups == 6


# --- the card -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_the_card_describes_the_data_and_every_file(entries, tmp_path, form):
    folder = export(entries["retrieval"], tmp_path, form)
    card, meta = read_card(folder), describe(entries["retrieval"])
    assert (card["task"], card["version"], card["length"]) == ("retrieval", "1", 200)
    assert card["splits"] == {"train": 60, "validation": 10, "test": 10}
    assert (card["vocab"], card["classes"], card["padding"]) == (257, 2, 0)
    assert card["class_names"] == list(TASKS["retrieval"].names)
    for name in ("fingerprint", "source", "notes", "unverified"):
        assert card[name] == meta[name], name
    assert card["notes"] and (card["seed"], card["rules"], card["pair"]) == (0, {}, True)
    assert card["layout"].startswith({"npy": "SPLIT_tokens.npy", "parquet": "SPLIT.parquet: tokens1 and"}[form])
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files_of(folder).items()}
    assert digests.pop("card.json") and card["files"] == digests
    assert len(digests) == {"npy": 9, "parquet": 3}[form]


@pytest.mark.parametrize(
    ("task", "words"), [("text", "the byte i - 1"), ("pathfinder", "a pixel of grey level i - 1, in rows")]
)
def test_the_card_says_how_ids_are_read(entries, tmp_path, task, words):
    card = read_card(export(entries[task], tmp_path, "npy"))
    assert words in card["reading"] and card["shape"] == list(TASKS[task].shape)


def test_symbols_are_read_by_the_card_alone(tmp_path):
    rules = type(TASKS["listops_short"].rules)(4, 5, 4, 64, 20, 5, 5)
    entry = prepare(TASKS["listops_short"], 64, 0, "generate", rules=rules, cache=tmp_path / "data")
    folder = export(entry, tmp_path, "npy")
    card, ids = read_card(folder), np.load(folder / "test_tokens.npy")[0]
    assert "alphabet[i - 1]" in card["reading"]
    text = "".join(card["alphabet"][i - 1] for i in ids if i)
    assert text.startswith("[M") or text.startswith("[SM")
    assert text.count("[") == text.count("]") > 0


# --- what is there already ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_export_is_not_written_again(entries, tmp_path, form):
    folder = export(entries["text"], tmp_path, form)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert export(entries["text"], tmp_path, form) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_an_empty_folder_is_filled_and_what_a_killed_process_left_goes(entries, tmp_path):
    (tmp_path / "text-200").mkdir()
    (tmp_path / ".text-200.12345").mkdir()
    (tmp_path / ".text-200.12345" / "train_tokens.npy").write_text("half")
    folder = export(entries["text"], tmp_path, "npy")
    assert len(files_of(folder)) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == [".text-200.lock", "text-200"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "card.json").unlink(), "is there, and no export"),
        (lambda f: (f / "card.json").write_text("{"), "is there, and no export"),
        (lambda f: (f / "card.json").write_text("[]"), "is there, and no export"),
        (lambda f: (f / "test.parquet").unlink(), "test.parquet is missing, or has changed since it was written"),
        (lambda f: (f / "test.parquet").write_text("x"), "test.parquet is missing, or has changed"),
    ],
)
def test_a_folder_that_is_no_whole_export_is_refused_and_left(entries, tmp_path, change, words):
    folder = export(entries["text"], tmp_path, "parquet")
    change(folder)
    before = files_of(folder)
    with pytest.raises(DataError) as told:
        export(entries["text"], tmp_path, "parquet")
    assert words in str(told.value) and str(told.value).endswith("delete it, or export to another folder")
    assert files_of(folder) == before


def test_other_data_and_the_other_format_are_refused(entries, tmp_path):
    first, second = prepared(tmp_path / "data"), prepared(tmp_path / "data", seed=1)
    folder = export(first, tmp_path, "npy")
    before = files_of(folder)
    for entry, form in ((second, "npy"), (first, "parquet")):
        with pytest.raises(DataError, match=r"noise-16 is another export \(npy, fingerprint \w{12}\) than this one"):
            export(entry, tmp_path, form)
    assert files_of(folder) == before


def test_a_damaged_entry_is_not_exported(tmp_path):
    entry = prepared(tmp_path / "data")
    (entry / "lengths.npy").unlink()
    with pytest.raises(DataError, match="is damaged"):
        export(entry, tmp_path / "out", "npy")
    assert not (tmp_path / "out").exists()


# --- what cannot be written ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_a_disk_that_fills_up_is_told_in_one_line_and_leaves_nothing(tmp_path, form):
    entry = prepared(tmp_path / "data", length=20_000)
    program = f"""
from pathlib import Path
from tasks.io.export import export
from tasks.task import DataError
try:
    export(Path({str(entry)!r}), Path({str(tmp_path / "out")!r}), {form!r})
except DataError as error:
    print(error)
"""
    fills_up(program, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".noise-20000.lock"]


@pytest.mark.parametrize("step", ["sync_all", "os.rename"])
def test_an_export_that_is_cut_short_is_not_there(tmp_path, monkeypatch, step):
    def stop(*arguments):
        raise KeyboardInterrupt

    entry = prepared(tmp_path / "data")
    monkeypatch.setattr(f"tasks.io.export.{step}", stop)
    with pytest.raises(KeyboardInterrupt):
        export(entry, tmp_path / "out", "npy")
    assert os.listdir(tmp_path / "out") == [".noise-16.lock"]


# --- the command line ---------------------------------------------------------------------------------


TWO = ("listops_mini", "ordered_pair_1")


def exported(folder, *arguments):
    return call(
        "prepare", f"--tasks={','.join(TWO)}", "--protocol=mini", "--lengths=64", "--workers=1",
        f"--data={folder}/data", *FEW, *arguments,
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
def test_prepare_exports_the_grid_that_it_prepares(tmp_path, form):
    done = exported(tmp_path, f"--export={tmp_path}/out", f"--export_format={form}")
    assert done.returncode == 0, done.stderr
    for task in TWO:
        assert f"  exported to {tmp_path}/out/{task}-64\n" in done.stdout
        card = read_card(tmp_path / "out" / f"{task}-64")
        assert (card["format"], card["splits"]["train"]) == (form, 60)


def test_what_cannot_be_exported_is_one_line_for_each_task(tmp_path):
    (tmp_path / "file").write_text("")
    done = exported(tmp_path, f"--export={tmp_path}/file")
    told = f"cannot write {tmp_path}/file: File exists"
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"run.py prepare: {task}: {told}" for task in TWO]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--export_format=npy",), "--export_format says how to write what --export=FOLDER names: give both"),
        (("--export=out", "--export_format=csv"), "value should be one of <npy|parquet>"),
        (("--export=out", "--export_format=parquet"), "needs the package pyarrow: pip install pyarrow"),
    ],
)
def test_wrong_flags_are_one_line_before_anything_is_prepared(tmp_path, monkeypatch, arguments, words):
    monkeypatch.setattr("lra.cli.data_flags.find_spec", lambda name: None)
    done = exported(tmp_path, *arguments)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()
