"""Choice of a task's source, with the checks and downloads that it needs.

`auto` takes the first source available: the user's folder (`--source_dir`, $LRA_SOURCE, or `sources` in the data
cache), a copy that TensorFlow Datasets has prepared, the generator, a download. A task that can be generated is
never downloaded by `auto`: the release is 7.7 GB, a generator takes seconds to minutes. `download` downloads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.io import download, tfds
from tasks.io.archives import find_archive
from tasks.io.files import Report
from tasks.task import Archive, DataError, SourceNotFound, Task

ACLIMDB = Archive(
    "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
    84_125_825,
    "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
    "the folder aclImdb",
)
CIFAR10 = Archive(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    170_052_171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    "the folder cifar-10-batches-bin",
)
LRA_RELEASE = Archive(
    "https://storage.googleapis.com/long-range-arena/lra_release.gz", unpacked="the folder lra_release"
)

READER = 2
"""Version of the readers' checks, part of the cache key of what was read: raised when copies that were accepted before
would be refused or noted now. The arrays' own changes are a task's `version`."""

GENERATED = "listops, pathfinder and pathx need no download: --source=generate makes them"


@dataclass(frozen=True)
class ResolvedSource:
    """The source to read, and its identity in the cache key."""

    source: str
    """The value of `BuildRequest.source`."""
    identity: dict[str, Any]
    """The part of the cache key that identifies the source."""


def resolve(
    task: Task,
    source: str,
    cache: Path,
    *,
    source_dir: Path | None = None,
    allow_unverified: bool = False,
    report: Report,
) -> ResolvedSource:
    """Finds the source to read, and downloads or builds it if need be.

    Args:
        task: the task.
        source: 'auto', 'generate', 'tfds', 'download', or the path of a folder or archive.
        cache: the data cache, which also holds downloads.
        source_dir: a folder of the user's, searched first.
        allow_unverified: accept data that differs from the published data.
        report: receives progress messages.

    Raises:
        DataError: no source is available; the message says what is missing, where to get it and where to put it.
    """
    if source == "generate":
        if "generate" not in task.sources:
            raise DataError(f"{task.name} cannot be generated: its sources are {_list_sources(task)}")
        return ResolvedSource("generate", {"kind": "generate"})
    if source == "tfds":
        if "tfds" not in task.sources:
            raise DataError(f"{task.name} is not in TensorFlow Datasets: its sources are {_list_sources(task)}")
        return _resolve_tfds(task, cache, source_dir, allow_unverified, report)
    if source == "download":
        if task.archive is None:
            raise DataError(f"{task.name} has no download: its sources are {_list_sources(task)}")
        return _resolve_folder(task, _download(task, cache, allow_unverified, report))
    if source != "auto":
        path = Path(source).expanduser()
        if not path.exists():
            raise DataError(
                f"no source '{source}': give auto, generate, tfds, download or a path of a folder or archive"
            )
        return _resolve_folder(task, path)
    return _resolve_auto(task, cache, source_dir, allow_unverified, report)


class MissingFolder(DataError):
    """The folder that the user names does not exist."""


def find_named(task: Task, source_dir: Path | None) -> tuple[ResolvedSource | None, str]:
    """The task's data in the folder that the user names.

    Args:
        task: the task.
        source_dir: the folder; None: that of $LRA_SOURCE, if it is set.

    Returns:
        The source, or None; and why the folder that is named gives none, '' if none is named.

    Raises:
        MissingFolder: the folder does not exist.
        DataError: what it has of the task is incomplete.
    """
    folder = _named_folder(source_dir)
    if folder is None:
        return None, ""
    if not folder.is_dir():
        raise MissingFolder(f"the source folder {folder} does not exist")
    if task.inputs is None:
        return None, f"{folder} holds nothing of {task.name}, whose sources are {_list_sources(task)}"
    try:
        return _resolve_folder(task, folder), ""
    except SourceNotFound as error:
        return None, f"{folder} holds nothing of {task.name} ({error})"


def _named_folder(source_dir: Path | None) -> Path | None:
    named = source_dir or os.environ.get("LRA_SOURCE")
    return Path(named).expanduser() if named else None


def find_collected(task: Task, cache: Path) -> ResolvedSource | None:
    """The task's data in the cache's own folder of sources, if they are there. Raises `DataError` if incomplete."""
    if task.inputs is not None and (cache / "sources").is_dir():
        with contextlib.suppress(SourceNotFound):
            return _resolve_folder(task, cache / "sources")
    return None


def _resolve_auto(
    task: Task, cache: Path, source_dir: Path | None, allow_unverified: bool, report: Report
) -> ResolvedSource:
    source = find_named(task, source_dir)[0] or find_collected(task, cache)
    if source is not None:
        return source
    if "tfds" in task.sources and tfds.is_installed():
        copy = tfds.find_prepared(task.tfds, tfds.search_folders(cache, allow_unverified))
        if copy is not None:
            return _tfds_copy(copy)
    if "generate" in task.sources:
        return ResolvedSource("generate", {"kind": "generate"})
    return _resolve_folder(task, _download(task, cache, allow_unverified, report))


def _search_folders(cache: Path, source_dir: Path | None) -> list[Path]:
    """The folders to search. One that the user names must exist; the cache's `sources` need not."""
    named = _named_folder(source_dir)
    if named and not named.is_dir():
        raise MissingFolder(f"the source folder {named} does not exist")
    places = [named] if named else []
    return [place for place in (*places, cache / "sources") if place.is_dir()]


def _resolve_folder(task: Task, path: Path) -> ResolvedSource:
    if task.inputs is None:
        raise DataError(f"{task.name} cannot be read from a folder: its sources are {_list_sources(task)}")
    path = path.resolve()
    try:
        files = task.inputs(path)
    except SourceNotFound:
        copy = tfds.find_prepared(task.tfds, [path]) if task.tfds else None
        if copy is None:
            raise
        return _tfds_copy(copy)
    if len(files) == 1 and files[0].is_file():
        path = files[0]  # an archive in the folder
    listing = hashlib.sha256()
    for file in files:
        stat = file.stat()
        listing.update(f"{file}\n{stat.st_size}\n{stat.st_mtime_ns}\n".encode())
    identity = {"kind": "folder", "path": str(path), "files": listing.hexdigest(), "reader": READER}
    return ResolvedSource(str(path), identity)


def _tfds_copy(folder: Path) -> ResolvedSource:
    stamp = (folder / "dataset_info.json").stat().st_mtime_ns
    identity = {"kind": "tfds", "path": str(folder), "files": str(stamp), "reader": READER}
    return ResolvedSource(str(folder), identity)


def _resolve_tfds(
    task: Task, cache: Path, source_dir: Path | None, allow_unverified: bool, report: Report
) -> ResolvedSource:
    places = _search_folders(cache, source_dir)
    places += [place / "TFDS" for place in places]  # where the benchmark's archive unpacks them
    copy = tfds.find_prepared(task.tfds, [*places, *tfds.search_folders(cache, allow_unverified)])
    if copy is not None:
        return _tfds_copy(copy)
    if task.archive is None or task.archive is LRA_RELEASE:
        raise DataError(
            f"{task.name}: no prepared copy of {task.tfds} was found; put its folder into "
            f"{cache / 'sources'}, or name the folder that holds it with --source_dir"
        )
    if not tfds.is_installed():
        raise DataError(tfds.MISSING)
    local = [place / task.archive.name for place in places if (place / task.archive.name).is_file()]
    path = local[0] if local else _download(task, cache, allow_unverified, report)
    return _tfds_copy(tfds.build(task.tfds, path, task.archive, cache, allow_unverified, report))


def _download(task: Task, cache: Path, allow_unverified: bool, report: Report) -> Path:
    archive = task.archive
    assert archive is not None
    try:
        return download.fetch(archive, cache / "sources", allow_unverified, report)
    except download.Unreachable as error:
        raise DataError(
            f"{task.name}: {archive.name} is missing and {error}; fetch {archive.url} and put it (or "
            f"{archive.unpacked}) into {cache / 'sources'}, or name the folder that holds it with "
            f"--source_dir. {GENERATED}"
        ) from None


def _list_sources(task: Task) -> str:
    kinds = ["a folder or archive" if kind == "folder" else kind for kind in task.sources]
    return ", ".join([*kinds, "download"] if task.archive else kinds)


def find_parts(path: Path, roots: Sequence[str], parts: Sequence[str], archive: Archive, task: str) -> list[Path]:
    """Finds a task's data at `path`: its parts in `path` or in one of `roots` below it, else the archive in `path`.

    Args:
        path: a folder, or a file, which is taken for the archive.
        roots: paths below `path` that may contain the parts.
        parts: names of the files or folders that make up the data.
        archive: the published archive.
        task: the data's name in messages.

    Returns:
        The paths of all parts, or that of the archive.

    Raises:
        SourceNotFound: `path` contains neither.
        DataError: some of the parts are missing, or `path` is only one of them.
    """
    if path.is_file():
        if path.name in parts:
            raise DataError(f"{path} is one of the files of {task}: name the folder that holds all of them")
        return [path]
    for root in (path, *(path / root for root in roots)):
        present = [part for part in parts if (root / part).exists()]
        if len(present) == len(parts):
            return [root / part for part in parts]
        if present:
            missing = next(part for part in parts if part not in present)
            raise DataError(f"{root} has {present[0]} but no {missing}: the copy is incomplete")
    packed = find_archive(path, archive)
    if packed:
        return [packed]
    raise SourceNotFound(f"{path} holds no {task}: {', '.join(parts)} or {archive.name} should be in it")
