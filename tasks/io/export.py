"""Exports of prepared data: NPY or Parquet files that any framework reads, with a card that describes them.

An export is a folder `<task>-<length>`. It is written under a temporary name, synced and renamed, so a folder under its
final name is complete. It holds one data set in one format. Splits are written in parts, so Path-X needs little memory.

Notation: N examples in a split, L the length; pair tasks have two documents per example.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tasks.examples import Examples
from tasks.io.cache import describe
from tasks.io.files import Progress, Report, locked, sha256, sync, sync_all, writing
from tasks.task import SPLITS, DataError

Format = Literal["npy", "parquet"]


def export(entry: Path, out_dir: Path, form: Format, report: Report = lambda line: None) -> Path:
    """Writes all splits of a cache entry to files.

    Args:
        entry: the folder of the cache entry.
        out_dir: where the export's folder is made; created if missing.
        form: 'npy' writes the arrays of `tasks.examples.Examples`, as `train_tokens.npy`; 'parquet' a table per split,
            as `train.parquet`, with a list of token ids without padding (two for pair tasks) and a label.
        report: receives progress messages.

    Returns:
        The export's folder. If it was there, whole and with the same contents, nothing is written.

    Raises:
        DataError: the entry is damaged, `out_dir` cannot be written, or the export's folder holds anything else.
    """
    splits = [Examples.open(entry, split) for split in SPLITS]
    card = _make_card(describe(entry), form, splits[0])

    def write(folder: Path) -> None:
        for examples in splits:
            _WRITERS[form](folder, examples, _count_examples(examples, report))

    return _write_folder(out_dir / f"{card['task']}-{card['length']}", card, write, report)


def export_inputs(test: Examples, out_dir: Path, command: str, report: Report = lambda line: None) -> Path:
    """Writes what a model needs to predict a test split: tokens and lengths without labels, and a file to fill in.

    Args:
        test: the test split.
        out_dir: where the folder is made; created if missing.
        command: how the predictions are handed in, for the card.
        report: receives progress messages.

    Returns:
        The folder. If it was there, whole and with the same contents, nothing is written.

    Raises:
        DataError: `out_dir` cannot be written, or the folder holds anything else.
    """
    card = _make_card(describe(test.entry), "npy", test)
    both = ", 2" * card["pair"]
    card |= {
        "format": "inputs",
        "splits": {"test": len(test)},
        "layout": f"test_tokens.npy [N{both}, {test.length}] and test_lengths.npy [N{both}]: the test split; "
        "predictions.csv: a class for each of the N examples",
        "submit": command,
    }

    def write(folder: Path) -> None:
        _write_inputs(folder, test, _count_examples(test, report))
        lines = "".join(f"{number},\n" for number in range(len(test)))
        (folder / "predictions.csv").write_text(f"example,prediction\n{lines}")

    return _write_folder(out_dir / f"{card['task']}-{card['length']}-inputs", card, write, report)


def _write_folder(folder: Path, card: dict[str, Any], write: Callable[[Path], None], report: Report) -> Path:
    """Writes an export's files and then its card, unless they are there; returns the folder."""
    out_dir = folder.parent
    with locked(out_dir, folder.name, report):
        if _is_exported(folder, card):
            return folder
        for leftover in out_dir.glob(f".{folder.name}.*[0-9]"):  # by killed processes: we hold the lock
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = out_dir / f".{folder.name}.{os.getpid()}"
        try:
            with writing(out_dir):
                temporary.mkdir()
                write(temporary)
                card["files"] = {file.name: sha256(file) for file in sorted(temporary.iterdir())}
                (temporary / "card.json").write_text(json.dumps(card, indent=1) + "\n")
                sync_all(temporary)
                os.rename(temporary, folder)
                sync(out_dir)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _is_exported(folder: Path, card: dict[str, Any]) -> bool:
    """Whether the export is there, and intact. Raises `DataError` if anything else is in its place."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    found: Any = None
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / "card.json").read_text())
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise DataError(f"{folder} is there, and no export: {_ADVICE}")
    if any(found.get(key) != card[key] for key in ("fingerprint", "format")):
        there, here = (f"{c.get('format')}, fingerprint {str(c.get('fingerprint'))[:12]}" for c in (found, card))
        raise DataError(f"{folder} is another export ({there}) than this one ({here}): {_ADVICE}")
    for name, digest in found["files"].items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            raise DataError(f"{folder / name} is missing, or has changed since it was written: {_ADVICE}")
    return True


_ADVICE = "delete it, or export to another folder"


def _make_card(meta: dict[str, Any], form: Format, examples: Examples) -> dict[str, Any]:
    """The description of an export, all but its files."""
    settings = meta["settings"]
    pair = examples.data.splits[examples.split].index.shape[1] == 2
    return {
        "task": settings["task"],
        "version": settings["version"],
        "summary": meta["summary"],
        "length": settings["length"],
        "pair": pair,
        "splits": meta["counts"],
        "vocab": meta["vocab"],
        "padding": 0,
        "reading": _explain_ids(meta),
        "shape": meta["shape"],
        "alphabet": meta["alphabet"],
        "classes": meta["classes"],
        "class_names": meta["names"],
        "source": meta["source"],
        "notes": meta["notes"],
        "unverified": meta.get("unverified", False),
        "seed": settings["seed"],
        "rules": settings["rules"],
        "fingerprint": meta["fingerprint"],
        "format": form,
        "layout": _explain_layout(form, settings["length"], pair),
    }


def _explain_ids(meta: dict[str, Any]) -> str:
    """What token ids stand for."""
    if meta["alphabet"]:
        kind = "the symbol alphabet[i - 1]"
    elif meta["shape"]:
        kind = "a pixel of grey level i - 1, in rows from the top left"
    else:
        kind = "the byte i - 1"
    return f"id 0 is padding, and nothing else is; id i > 0 is {kind}"


def _explain_layout(form: Format, length: int, pair: bool) -> str:
    """What the files hold."""
    if form == "parquet":
        columns = "tokens1 and tokens2" if pair else "tokens"
        return f"SPLIT.parquet: {columns} (token ids without padding, at most {length:,}), label (class)"
    both = ", 2" * pair
    return (
        f"SPLIT_tokens.npy: token ids [N{both}, {length}] with padding; SPLIT_lengths.npy: tokens without padding "
        f"[N{both}]; SPLIT_labels.npy: classes [N]"
    )


def _count_examples(examples: Examples, report: Report) -> Callable[[int], None]:
    """A function that is told how many examples are written, and reports it now and then."""
    progress, total = Progress(report), f"{len(examples):,} {examples.split} examples of {examples.task} are written"
    return lambda count: progress(lambda: f"{count:,} of {total}")


def _write_npy(folder: Path, examples: Examples, count: Callable[[int], None]) -> None:
    _save(folder / f"{examples.split}_labels.npy", examples.labels.shape, examples.labels.dtype, [examples.labels])
    _write_inputs(folder, examples, count)


def _write_inputs(folder: Path, examples: Examples, count: Callable[[int], None]) -> None:
    def tokens() -> Iterator[np.ndarray]:
        for part in examples.parts():
            yield examples.take(part).tokens
            count(part.stop)

    lengths = examples.lengths
    _save(folder / f"{examples.split}_lengths.npy", lengths.shape, lengths.dtype, [lengths])
    _save(folder / f"{examples.split}_tokens.npy", (*lengths.shape, examples.length), examples.dtype, tokens())


def _save(file: Path, shape: tuple[int, ...], dtype: np.dtype[Any], parts: Iterable[np.ndarray]) -> None:
    """Saves the parts of an array along its first axis, like `numpy.save`, whose errors do not name a full disk."""
    with open(file, "wb") as out:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, header)
        for part in parts:
            out.write(np.ascontiguousarray(part).data)


def _write_parquet(folder: Path, examples: Examples, count: Callable[[int], None]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    ids = pa.list_(pa.from_numpy_dtype(examples.dtype))
    columns = ["tokens"] if examples.lengths.ndim == 1 else ["tokens1", "tokens2"]
    schema = pa.schema([*((name, ids) for name in columns), ("label", pa.int64())])
    with parquet.ParquetWriter(folder / f"{examples.split}.parquet", schema) as writer:
        for part in examples.parts():
            batch = examples.take(part)
            tokens = batch.tokens.reshape(len(batch.labels), len(columns), -1)
            lengths = batch.lengths.reshape(len(batch.labels), len(columns))
            lists = []
            for document in range(len(columns)):
                ends = np.cumsum(lengths[:, document], dtype=np.int32)
                real = tokens[:, document][tokens[:, document] > 0]  # since only padding is 0
                lists.append(pa.ListArray.from_arrays(np.append(np.int32(0), ends), real, type=ids))
            writer.write_table(pa.table([*lists, pa.array(batch.labels)], schema))
            count(part.stop)


_WRITERS = {"npy": _write_npy, "parquet": _write_parquet}
