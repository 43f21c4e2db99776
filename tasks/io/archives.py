"""Safe unpacking of archives: as a stream, regular files only, below a given folder only, within limits."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.io.files import Progress, sha256
from tasks.task import Archive, BuildRequest, DataError

_OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}

_BLOCK = 4096
"""Bytes that a file takes on disk at least: millions of empty files fill it too."""
_MAX_HEADER = 1 << 20
"""Limit in bytes on a member's long name and attributes; in the known archives they take some hundred."""


class _Member(tarfile.TarInfo):
    """A tar member with bounded long names and attributes, which `tarfile` reads into memory whole."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in b"LKxgX" and self.size > _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        member: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return member


def verify(path: Path, archive: Archive, allow_unverified: bool) -> str:
    """Compares a file with the published checksum.

    Args:
        path: the file.
        archive: the published file.
        allow_unverified: accept a file whose checksum differs.

    Returns:
        A note for the user; '' if the checksum is the published one.

    Raises:
        DataError: the file is empty, or its checksum differs and `allow_unverified` is False.
    """
    if not path.stat().st_size:
        raise DataError(f"{path} is empty: fetch {archive.url} again")
    if not archive.sha256:
        return f"{path.name}: nobody has published a checksum; its own (sha256) is {sha256(path)}"
    checksum = sha256(path)
    if checksum == archive.sha256:
        return ""
    if not allow_unverified:
        raise DataError(
            f"{path} is not the published {archive.name}: its sha256 is {checksum} and should be "
            f"{archive.sha256}; fetch {archive.url} again, or take this copy with --allow_unverified"
        )
    return f"an unverified copy of {archive.name}: sha256 {checksum}, published {archive.sha256}"


@contextlib.contextmanager
def open_source(
    request: BuildRequest, archive: Archive, wanted: Callable[[str], bool], limit: int
) -> Iterator[tuple[Path, list[str]]]:
    """Yields the source as a folder, with notes on it; an archive is verified and unpacked to a temporary folder.

    Args:
        request: names the source.
        archive: the published archive.
        wanted: whether to unpack a regular file, given its name in the archive ('aclImdb/train/pos/0_9.txt').
        limit: most bytes to unpack.

    Raises:
        DataError: the archive is damaged, too large, or not the published one.
        OSError: the disk has no room to unpack it.
    """
    path = Path(request.source)
    if path.is_dir():
        yield path, []
        return
    note = verify(path, archive, request.allow_unverified)
    folder = Path(tempfile.mkdtemp(prefix="unpacked-", dir=request.scratch))
    try:
        unpack(path, folder, wanted, limit, Progress(request.report))
        yield folder, [note] if note else []
    except DataError as error:
        # The user knows the archive, not the temporary folder.
        raise DataError(str(error).replace(str(folder), str(path))) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack(path: Path, folder: Path, wanted: Callable[[str], bool], limit: int, progress: Progress) -> None:
    """Unpacks the wanted regular files of a tar archive below `folder`.

    Args:
        path: the archive, plain or compressed with gzip, bzip2 or xz.
        folder: where to unpack it.
        wanted: whether to unpack a file, given its name.
        limit: most bytes to unpack.
        progress: reports the number of files.

    Raises:
        DataError: the archive is damaged or unpacks to more than `limit` bytes.
        OSError: the disk is full.
    """
    with open(path, "rb") as file:
        start = file.read(6)
    opener: Any = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), open)
    room, files = limit, 0
    try:
        with opener(path, "rb") as stream:
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as tar:
                for member in tar:
                    name = PurePosixPath(member.name)
                    # Links, devices and names that lead out of the folder are skipped.
                    if not member.isreg() or name.is_absolute() or ".." in name.parts:
                        continue
                    if not wanted(str(name)):
                        continue
                    room -= max(member.size, _BLOCK)
                    if room < 0:
                        raise DataError(f"{path} unpacks to more than {limit:,} bytes: not what it should be")
                    content = tar.extractfile(member)
                    assert content is not None  # a regular file has contents
                    target = folder.joinpath(*name.parts)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with open(target, "wb") as out:
                        shutil.copyfileobj(content, out, 1 << 20)
                    files += 1
                    progress(lambda: f"{files:,} files unpacked from {path.name}")  # noqa: B023
            # A tar ends before its file does, and gzip and xz check their checksum only at the very end.
            while stream.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is truncated or damaged ({error}): fetch it again") from None
