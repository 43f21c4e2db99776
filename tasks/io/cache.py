"""The cache of prepared arrays: plain `.npy` files that are memory-mapped when read.

An entry is a folder `<task>-v<version>-L<length>-<hash>` with the arrays and `meta.json`, which holds the
settings that produced them and the sha-256 of each file. An entry is written under a temporary name, synced and
renamed, so an entry under its final name is complete; it is verified again on every read.
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
"""Errors of an exhausted process or machine, which say nothing about the file."""


class Unreadable(DataError):
    """Data cannot be read now but may be intact: never a reason to rebuild them."""


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
    """Ensures that the task's arrays are in the cache and intact.

    Args:
        task: the task.
        length: sequence length.
        seed: seeds the generator and the held-out split.
        source: 'auto' (the user's folder; else any cached copy, real data before generated; else the first source
            that `tasks.io.sources` finds), 'generate', 'tfds', 'download', or the path of a folder or archive.
        rules: the task's settings; by default `task.rules`.
        cache: the cache's folder.
        workers: maximum number of processes.
        report: receives progress messages.
        source_dir: a folder of the user's, which 'auto' and 'tfds' search.
        allow_unverified: accept data that differs from the published data, and note it in the entry.

    Returns:
        The folder of the cache entry.

    Raises:
        DataError: no source has the data, they are damaged, or the cache cannot be written.
    """
    rules = task.rules if rules is None else rules
    settings = {"task": task.name, "version": task.version, "length": length, "seed": seed}
    settings["rules"] = dataclasses.asdict(rules)
    if source == "auto":
        origin = _search(task, cache, settings, source_dir, allow_unverified, report)
        if isinstance(origin, Path):
            return origin
    else:
        if source_dir is not None and source != "tfds":
            report(f"{source_dir} is not looked into, since the source is {source}")
        origin = sources.resolve(
            task, source, cache, source_dir=source_dir, allow_unverified=allow_unverified, report=report
        )
    settings["source"] = origin.identity
    entry = cache / f"{task.name}-v{task.version}-L{length}-{_hash_json(settings)[:12]}"
    if _is_whole(entry, report):  # before the lock: a read-only cache will do
        return _require_accepted(entry, allow_unverified)
    with locked(cache, entry.name, report):
        if _is_whole(entry, report):
            return _require_accepted(entry, allow_unverified)
        request = BuildRequest(length, seed, origin.source, rules, workers, report, None, allow_unverified)
        _build_entry(task, entry, request, settings)
    return entry


def _search(
    task: Task,
    cache: Path,
    settings: dict[str, Any],
    source_dir: Path | None,
    allow_unverified: bool,
    report: Callable[[str], None],
) -> sources.ResolvedSource | Path:
    """What 'auto' takes: a source to read, or an entry of the cache. Says so if the user's folder is passed over."""
    missing: sources.MissingFolder | None = None
    try:
        origin, reason = sources.find_named(task, source_dir)
    except sources.MissingFolder as error:
        origin, reason, missing = None, str(error), error
    if origin is not None:
        return origin
    cached = _find_cached(cache, task, settings, allow_unverified, report)
    if cached is None or _is_generated(cached):
        origin = sources.find_collected(task, cache)
    if cached is not None and origin is None:
        if reason:
            report(f"{reason}: {describe(cached)['source']}, in {cached}, is taken instead")
        return cached
    if missing is not None:
        raise missing
    if origin is None:
        origin = sources.resolve(
            task, "auto", cache, source_dir=source_dir, allow_unverified=allow_unverified, report=report
        )
    if reason:
        report(f"{reason}: {'it is generated' if origin.source == 'generate' else f'{origin.source} is taken'} instead")
    return origin


def _is_whole(entry: Path, report: Callable[[str], None]) -> bool:
    if not entry.exists():
        return False
    try:
        open_entry(entry)
    except Unreadable:
        raise
    except DataError as damage:
        report(f"{damage}: rebuilding it")
        return False
    return True


def _build_entry(task: Task, entry: Path, request: BuildRequest, settings: dict[str, Any]) -> None:
    """Builds the arrays and writes the entry under a temporary name, syncs it and renames it."""
    temporary = entry.with_name(f".{entry.name}.{os.getpid()}")
    for leftover in entry.parent.glob(f".{entry.name}.*[0-9]"):  # by killed processes: we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with writing(entry.parent):
            temporary.mkdir()
            arrays = _build(task, dataclasses.replace(request, scratch=temporary))
            _write_entry(temporary, arrays, settings, task)
            if entry.exists():
                shutil.rmtree(entry)
            os.rename(temporary, entry)
            sync(entry.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _build(task: Task, request: BuildRequest) -> RawDataset:
    try:
        return task.build(request)
    except (MemoryError, OverflowError, ValueError) as error:  # NumPy's, on arrays that are too large
        size = str(error) or "out of memory"
        raise DataError(
            f"{task.name} cannot be prepared at length {request.length:,} with these settings ({size}): choose a "
            "smaller --lengths or fewer examples (--set data.…)"
        ) from error


def _require_accepted(entry: Path, allow_unverified: bool) -> Path:
    """The entry. Raises `DataError` if it is an unverified copy, and the user does not accept that this time."""
    meta = describe(entry)
    if meta.get("unverified") and not allow_unverified:
        raise DataError(
            f"{meta['source']}, in {entry}, was taken with --allow_unverified ({'; '.join(meta['notes'])}): give the "
            "flag again, or another source"
        )
    return entry


def open_entry(entry: Path, verify: bool = True) -> Dataset:
    """Opens a cache entry: verifies its files and memory-maps the arrays.

    Args:
        entry: the folder.
        verify: False only where another process has just verified the files, and handed the entry on.

    Raises:
        Unreadable: the process has run out of file descriptors or memory.
        DataError: the entry is damaged.
    """
    try:
        meta = json.loads((entry / "meta.json").read_text())
        for name, digest in meta["sha256"].items():
            if verify and sha256(entry / name) != digest:
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
    """Reads an entry's `meta.json`: settings, source, notes, counts and fingerprint."""
    meta: dict[str, Any] = json.loads((entry / "meta.json").read_text())
    return meta


def summary(entry: Path) -> str:
    """'96,000 / 2,000 / 2,000 examples, lra_release, read from FOLDER, in ENTRY', for display."""
    meta = describe(entry)
    counts = " / ".join(f"{meta['counts'][split]:,}" for split in SPLITS)
    path = meta["settings"]["source"].get("path")
    return f"{counts} examples, {meta['source']}, {f'read from {path}, ' if path else ''}in {entry}"


def entries(cache: Path) -> list[Path]:
    """All complete entries of a cache, sorted by name."""
    return sorted(meta.parent for meta in cache.glob("*/meta.json") if not meta.parent.name.startswith("."))


def _find_cached(
    cache: Path, task: Task, settings: dict[str, Any], allow_unverified: bool, report: Callable[[str], None]
) -> Path | None:
    candidates = []
    for entry in entries(cache):
        if entry.name.startswith(f"{task.name}-v{task.version}-L{settings['length']}-"):
            try:
                cached = describe(entry)["settings"]
                if cached | {"source": None} == settings | {"source": None}:
                    if not _is_generated(entry) and cached["source"].get("reader") != sources.READER:
                        report(f"{entry} was read before the checks that are made now: skipped")
                        continue
                    open_entry(entry)
                    _require_accepted(entry, allow_unverified)
                    candidates.append((cached["source"]["kind"] == "generate", -entry.stat().st_mtime_ns, entry))
            except (DataError, KeyError, ValueError, OSError) as error:
                refusal = _as_data_error(entry, error)
                if isinstance(refusal, Unreadable):
                    raise refusal from None
                report(f"{refusal}: skipped")
    return min(candidates)[2] if candidates else None


def _is_generated(entry: Path) -> bool:
    return bool(describe(entry)["settings"]["source"]["kind"] == "generate")


def _write_entry(folder: Path, arrays: RawDataset, settings: dict[str, Any], task: Task) -> None:
    named_arrays = {"values": arrays.values, "lengths": arrays.lengths}
    for name, split in arrays.splits.items():
        named_arrays |= {f"{name}_index": split.index, f"{name}_labels": split.labels}
    checksums = {}
    for name, array in named_arrays.items():
        file = folder / f"{name}.npy"
        if not _is_mapped_from(file, array):
            _save(file, np.ascontiguousarray(array))
        checksums[file.name] = sha256(file)
    counts = {name: len(split.labels) for name, split in arrays.splits.items()}
    meta = {
        "settings": settings,
        "source": arrays.source,
        "notes": [*_note_part(task, counts, settings), *arrays.notes],
        "unverified": arrays.unverified,
        "counts": counts,
        "majority": {name: arrays.majority(name) for name in arrays.splits},
        "vocab": task.vocab,
        "classes": task.classes,
        "summary": task.summary,
        "shape": task.shape,
        "names": task.names,
        "alphabet": task.alphabet,
        "sha256": checksums,
    }
    meta["fingerprint"] = _fingerprint(meta)
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))
    sync(folder / "meta.json")
    sync(folder)


def _note_part(task: Task, counts: dict[str, int], settings: dict[str, Any]) -> list[str]:
    """A note on a copy of the published data that has only a part of them."""
    if settings["source"]["kind"] == "generate":
        return []
    # Settings divide the data otherwise, and do not change how many there are.
    is_divided_otherwise = settings["rules"] != dataclasses.asdict(task.rules)
    if is_divided_otherwise and sum(counts.values()) == sum(task.counts):
        return []
    note = task.compare_counts(counts)
    return [note] if note else []


def _is_mapped_from(file: Path, array: np.ndarray) -> bool:
    """Whether the array is already mapped from this file, as a table of `tasks.io.npy_writer` is."""
    if not isinstance(array, np.memmap) or array.filename is None or not file.exists():
        return False
    return os.path.samefile(array.filename, file)


def _save(file: Path, array: np.ndarray) -> None:
    """Saves like `numpy.save`, whose error does not say that the disk is full."""
    with open(file, "wb") as out:
        np.lib.format.write_array_header_1_0(out, np.lib.format.header_data_from_array_1_0(array))
        out.write(array.data)
        out.flush()
        os.fsync(out.fileno())


def _fingerprint(meta: dict[str, Any]) -> str:
    """Hashes the contents and the settings that produced them. Which copy of real data was read makes no difference."""
    settings = meta["settings"]
    generated = settings["source"]["kind"] == "generate"
    hashed = settings | {"source": "generate"} if generated else settings | {"source": "real", "rules": None}
    return _hash_json({"made": hashed, "sha256": meta["sha256"]})


def _hash_json(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
