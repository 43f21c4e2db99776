"""The cache of prepared arrays: plain `.npy` files that are memory-mapped when read.

An entry is a folder `<task>-v<version>-L<length>-<hash>` with the arrays and `meta.json`, which names the
settings that made them and each file's sha-256. An entry is written beside its place, synced and renamed,
so what stands in its place is whole; it is checked again on every read.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tasks.io import sources
from tasks.io.files import locked, sha256, sync, writing
from tasks.task import SPLITS, BuildRequest, DataError, Dataset, RawDataset, Split, Task

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that say nothing about the file that was to be read."""


class Unreadable(DataError):
    """Data that cannot be read now, and may be whole: never a reason to make them anew."""


def prepare(
    task: Task,
    length: int,
    seed: int,
    source: str,
    *,
    rules: Any = None,
    cache: Path,
    workers: int = 1,
    report: Callable[[str], None] = lambda line: None,
    source_dir: Path | None = None,
    allow_unverified: bool = False,
) -> Path:
    """Makes sure that the arrays are in the cache and whole; returns their entry's folder.

    `source` is 'auto' (a cached copy whatever its source, real data before generated; else what
    `tasks.io.sources` finds first), 'generate', 'tfds', 'download', or the path of a folder or archive.
    `source_dir` is a folder of the user's that 'auto' and 'tfds' look into. `allow_unverified` takes data
    that are not what was published (a copy with another checksum), and notes it in the entry.

    Raises:
        DataError: no source has the data, they are damaged, or the cache cannot be written.
    """
    rules = task.rules if rules is None else rules
    settings = {"task": task.name, "version": task.version, "length": length, "seed": seed}
    settings["rules"] = dataclasses.asdict(rules)
    if source == "auto":
        found = _find_cached(cache, task, settings, report)
        if found is not None:
            return found
    origin = sources.resolve(
        task, source, cache, source_dir=source_dir, allow_unverified=allow_unverified, report=report
    )
    settings["source"] = origin.identity
    entry = cache / f"{task.name}-v{task.version}-L{length}-{_hash_json(settings)[:12]}"
    if _is_whole(entry, report):  # before the lock: a cache that can only be read will do
        return entry
    with locked(cache, entry.name, report):
        if _is_whole(entry, report):
            return entry
        request = BuildRequest(length, seed, origin.source, rules, workers, report, None, allow_unverified)
        _build_entry(task, entry, request, settings)
    return entry


def _is_whole(entry: Path, report: Callable[[str], None]) -> bool:
    if not entry.exists():
        return False
    try:
        open_entry(entry)
    except Unreadable:
        raise
    except DataError as damage:
        report(f"{damage}: making it anew")
        return False
    return True


def _build_entry(task: Task, entry: Path, request: BuildRequest, settings: dict[str, Any]) -> None:
    """Builds the arrays and writes the entry: beside its place, synced, then renamed into it."""
    beside = entry.with_name(f".{entry.name}.{os.getpid()}")
    for left in entry.parent.glob(f".{entry.name}.*[0-9]"):  # by processes that were killed: we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    try:
        with writing(entry.parent):
            beside.mkdir()
            arrays = task.build(dataclasses.replace(request, scratch=beside))
            _write_entry(beside, arrays, settings, task)
            if entry.exists():
                shutil.rmtree(entry)
            os.rename(beside, entry)
            sync(entry.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def open_entry(entry: Path) -> Dataset:
    """The arrays of a cache entry, memory-mapped.

    Raises:
        Unreadable: this process may open no more files, or has no memory.
        DataError: the entry is damaged.
    """
    try:
        meta = json.loads((entry / "meta.json").read_text())
        for name, digest in meta["sha256"].items():
            if sha256(entry / name) != digest:
                raise DataError(f"the cache entry {entry} is damaged ({name} has changed)")
        if _fingerprint(meta) != meta["fingerprint"]:
            raise DataError(f"the cache entry {entry} is damaged (meta.json has changed)")

        def array(name: str) -> np.ndarray:
            return np.load(entry / f"{name}.npy", mmap_mode="r", allow_pickle=False)

        splits = {s: Split(array(f"{s}_index"), array(f"{s}_labels")) for s in SPLITS}
        return Dataset(
            array("values"),
            array("lengths"),
            splits,
            meta["source"],
            tuple(meta["notes"]),
            meta["fingerprint"],
            meta["vocab"],
            meta["classes"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _as_data_error(entry, error) from None


def _as_data_error(entry: Path, error: Exception) -> DataError:
    if isinstance(error, OSError) and error.errno in _EXHAUSTED:
        return Unreadable(f"the cache entry {entry} cannot be read ({error.strerror})")
    return error if isinstance(error, DataError) else DataError(f"the cache entry {entry} is damaged ({error})")


def describe(entry: Path) -> dict[str, Any]:
    """An entry's `meta.json`: settings, source, notes, counts and fingerprint."""
    meta: dict[str, Any] = json.loads((entry / "meta.json").read_text())
    return meta


def entries(cache: Path) -> list[Path]:
    """All whole entries of a cache, by name."""
    return sorted(meta.parent for meta in cache.glob("*/meta.json") if not meta.parent.name.startswith("."))


def _find_cached(cache: Path, task: Task, settings: dict[str, Any], report: Callable[[str], None]) -> Path | None:
    found = []
    for entry in entries(cache):
        if entry.name.startswith(f"{task.name}-v{task.version}-L{settings['length']}-"):
            try:
                made = describe(entry)["settings"]
                if made | {"source": None} == settings | {"source": None}:
                    open_entry(entry)
                    found.append((made["source"]["kind"] == "generate", -entry.stat().st_mtime_ns, entry))
            except (DataError, KeyError, ValueError, OSError) as error:
                refusal = _as_data_error(entry, error)
                if isinstance(refusal, Unreadable):
                    raise refusal from None
                report(f"{refusal}: left out")
    return min(found)[2] if found else None


def _write_entry(folder: Path, arrays: RawDataset, settings: dict[str, Any], task: Task) -> None:
    parts = {"values": arrays.values, "lengths": arrays.lengths}
    for name, split in arrays.splits.items():
        parts |= {f"{name}_index": split.index, f"{name}_labels": split.labels}
    sums = {}
    for name, array in parts.items():
        file = folder / f"{name}.npy"
        if not _is_mapped_from(file, array):
            _save(file, np.ascontiguousarray(array))
        sums[file.name] = sha256(file)
    meta = {
        "settings": settings,
        "source": arrays.source,
        "notes": arrays.notes,
        "counts": {name: len(split.labels) for name, split in arrays.splits.items()},
        "majority": {name: arrays.majority(name) for name in arrays.splits},
        "vocab": task.vocab,
        "classes": task.classes,
        "summary": task.summary,
        "shape": task.shape,
        "names": task.names,
        "alphabet": task.alphabet,
        "sha256": sums,
    }
    meta["fingerprint"] = _fingerprint(meta)
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))
    sync(folder / "meta.json")
    sync(folder)


def _is_mapped_from(file: Path, array: np.ndarray) -> bool:
    """Whether the array is mapped from this very file, as a table of `tasks.io.npy_writer` is."""
    if not isinstance(array, np.memmap) or array.filename is None or not file.exists():
        return False
    return os.path.samefile(array.filename, file)


def _save(file: Path, array: np.ndarray) -> None:
    """What `numpy.save` does, whose error does not say that the disk is full."""
    with open(file, "wb") as out:
        np.lib.format.write_array_header_1_0(out, np.lib.format.header_data_from_array_1_0(array))
        out.write(array.data)
        out.flush()
        os.fsync(out.fileno())


def _fingerprint(meta: dict[str, Any]) -> str:
    """The digest of the contents and of what made them. Where real data were read makes no difference."""
    settings = meta["settings"]
    generated = settings["source"]["kind"] == "generate"
    made = settings | {"source": "generate"} if generated else settings | {"source": "real", "rules": None}
    return _hash_json({"made": made, "sha256": meta["sha256"]})


def _hash_json(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
