"""The cache of prepared arrays: plain `.npy` files that are memory-mapped when read.

An entry is a folder `<task>-v<version>-L<length>-<hash>` with the arrays and `meta.json`, which names the
settings that made them and each file's sha-256. An entry is written beside its place, synced and renamed,
so what stands in its place is whole; it is checked again on every read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tasks.task import SPLITS, Arrays, DataError, Request, Split, Splits, Task


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
) -> Path:
    """Makes sure that the arrays are in the cache and whole; returns their entry's folder.

    `source` is 'auto' (a cached copy whatever its source, the release's before a generated one; else what the
    task offers first), 'generate', or a folder.

    Raises:
        DataError: the source has no such data, or the cache cannot be written.
    """
    rules = task.rules if rules is None else rules
    settings = {"task": task.name, "version": task.version, "length": length, "seed": seed}
    settings["rules"] = dataclasses.asdict(rules)
    if source == "auto":
        found = _find(cache, task, settings, report)
        if found is not None:
            return found
        source = task.sources[0]
    settings["source"] = _identity(task, source)
    entry = cache / f"{task.name}-v{task.version}-L{length}-{_digest(settings)[:12]}"
    with _locked(cache, entry.name, report):
        if entry.exists():
            try:
                open_entry(entry)
                return entry
            except DataError as damage:
                report(f"{damage}: making it anew")
                shutil.rmtree(entry)
        arrays = task.build(Request(length, seed, source, rules, workers, report))
        _write(entry, arrays, settings, task)
    return entry


def open_entry(entry: Path) -> Splits:
    """The arrays of a cache entry, memory-mapped. Raises `DataError` naming the entry where it is damaged."""
    try:
        meta = json.loads((entry / "meta.json").read_text())
        for name, digest in meta["sha256"].items():
            if _hash_file(entry / name) != digest:
                raise DataError(f"the cache entry {entry} is damaged ({name} has changed)")

        def array(name: str) -> np.ndarray:
            return np.load(entry / f"{name}.npy", mmap_mode="r", allow_pickle=False)

        splits = {s: Split(array(f"{s}_index"), array(f"{s}_labels")) for s in SPLITS}
        return Splits(
            array("values"), array("lengths"), splits, meta["source"], tuple(meta["notes"]), meta["fingerprint"],
            meta["vocab"], meta["classes"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"the cache entry {entry} is damaged ({error})") from None


def describe(entry: Path) -> dict[str, Any]:
    """An entry's `meta.json`: settings, source, notes, counts and fingerprint."""
    meta: dict[str, Any] = json.loads((entry / "meta.json").read_text())
    return meta


def entries(cache: Path) -> list[Path]:
    """All whole entries of a cache, by name."""
    return sorted(meta.parent for meta in cache.glob("*/meta.json") if not meta.parent.name.startswith("."))


def _identity(task: Task, source: str) -> dict[str, Any]:
    """What of a source is part of the key: for a folder its place, and its files' sizes and times."""
    if source in ("generate", "tfds"):
        if source not in task.sources:
            offered = ", ".join("a folder" if kind == "folder" else kind for kind in task.sources)
            raise DataError(f"{task.name} has no source '{source}': it offers {offered}")
        return {"kind": source}
    folder = Path(source).expanduser().resolve()
    if not folder.exists():
        raise DataError(f"no source '{source}': give auto, generate, tfds or the path of an existing folder")
    if task.inputs is None:
        raise DataError(f"{task.name} cannot be read from a folder: it is only generated")
    files = [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in task.inputs(folder)]
    return {"kind": "folder", "path": str(folder), "files": files}


def _find(cache: Path, task: Task, settings: dict[str, Any], report: Callable[[str], None]) -> Path | None:
    found = []
    for entry in entries(cache):
        if entry.name.startswith(f"{task.name}-v{task.version}-L{settings['length']}-"):
            try:
                made = describe(entry)["settings"]
                if made | {"source": None} == settings | {"source": None}:
                    open_entry(entry)
                    found.append((made["source"]["kind"] == "generate", -entry.stat().st_mtime_ns, entry))
            except (DataError, KeyError, ValueError, OSError) as error:
                report(f"{error}: left out")
    return min(found)[2] if found else None


def _write(entry: Path, arrays: Arrays, settings: dict[str, Any], task: Task) -> None:
    parts = {"values": arrays.values, "lengths": arrays.lengths}
    for name, split in arrays.splits.items():
        parts |= {f"{name}_index": split.index, f"{name}_labels": split.labels}
    beside = entry.with_name(f".{entry.name}.{os.getpid()}")
    try:
        beside.mkdir(parents=True)
        sums = {}
        for name, array in parts.items():
            with open(beside / f"{name}.npy", "wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            sums[f"{name}.npy"] = _hash_file(beside / f"{name}.npy")
        kind = settings["source"]["kind"]
        made = settings | {"source": kind, "rules": settings["rules"] if kind == "generate" else None}
        meta = {
            "settings": settings,
            "source": arrays.source,
            "notes": arrays.notes,
            "counts": {name: len(split.labels) for name, split in arrays.splits.items()},
            "majority": {name: arrays.majority(name) for name in arrays.splits},
            "vocab": task.vocab,
            "classes": task.classes,
            "fingerprint": _digest({"made": made, "sha256": sums}),
            "sha256": sums,
        }
        with open(beside / "meta.json", "w") as file:
            json.dump(meta, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, entry)
    except OSError as error:
        raise DataError(f"cannot write the data cache {entry.parent}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def _locked(cache: Path, name: str, report: Callable[[str], None]) -> Iterator[None]:
    """Holds the entry's lock: of two processes that want the same data, one makes it and the other waits."""
    with contextlib.ExitStack() as stack:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(cache / f".{name}.lock", "w"))
        except OSError as error:
            raise DataError(f"cannot write the data cache {cache}: {error.strerror or error}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another process that prepares {name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
