"""Safe unpacking of tar and zip: piece by piece, regular files only, below a given folder only, within limits."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tasks.io.files import Progress, sha256
from tasks.task import Archive, BuildRequest, DataError, Remarks

_OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_NOT_READ = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!": "RAR", b"\x28\xb5\x2f\xfd": "Zstandard", b"\x1f\x9d": "compress"}
_KINDS = "tar, as it is or packed with gzip, bzip2 or xz, or zip"
_ENDINGS = ("", ".gz", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")
"""Endings that a copy of an archive may have instead of its published one; its content says what it is."""

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


def find_archive(folder: Path, archive: Archive) -> Path | None:
    """The archive's copy in a folder: under its published name, or packed otherwise, which has another ending."""
    stem = archive.name.removesuffix(".gz").removesuffix(".tar")
    names = (archive.name, *(stem + ending for ending in _ENDINGS))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def is_clutter(name: str) -> bool:
    """Whether a file is one that macOS or Windows leaves beside others ('._0.npy', '.DS_Store'), by its name."""
    parts = PurePosixPath(name).parts
    left_behind = (".DS_Store", "Thumbs.db", "desktop.ini")
    return "__MACOSX" in parts or any(part.startswith("._") or part in left_behind for part in parts)


@contextlib.contextmanager
def open_source(
    request: BuildRequest, archive: Archive, wanted: Callable[[str], bool], limit: int
) -> Iterator[tuple[Path, Remarks]]:
    """Yields the source as a folder, with remarks on it; an archive is verified and unpacked to a temporary folder.

    Args:
        request: names the source.
        archive: the published archive.
        wanted: whether to unpack a regular file, given its name in the archive ('aclImdb/train/pos/0_9.txt').
        limit: most bytes to unpack.

    Raises:
        DataError: the archive is damaged, too large, or not the published one.
        OSError: the disk has no room to unpack it.
    """
    path, remarks = Path(request.source), Remarks(request.allow_unverified)
    if path.is_dir():
        yield path, remarks
        return
    note = verify(path, archive, request.allow_unverified)
    remarks.notes += [note] if note else []
    remarks.unverified = bool(note and archive.sha256)
    folder = Path(tempfile.mkdtemp(prefix="unpacked-", dir=request.scratch))
    try:
        unpack(path, folder, wanted, limit, Progress(request.report))
        yield folder, remarks
    except DataError as error:
        # The user knows the archive, not the temporary folder.
        raise DataError(str(error).replace(str(folder), str(path))) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack(path: Path, folder: Path, wanted: Callable[[str], bool], limit: int, progress: Progress) -> None:
    """Unpacks the wanted regular files of an archive below `folder`, whatever its name's ending.

    Args:
        path: the archive: tar, plain or compressed with gzip, bzip2 or xz, or zip.
        folder: where to unpack it.
        wanted: whether to unpack a file, given its name.
        limit: most bytes to unpack.
        progress: reports the number of files.

    Raises:
        DataError: the archive is damaged, of another kind, or unpacks to more than `limit` bytes.
        OSError: the disk is full.
    """
    with open(path, "rb") as file:
        start = file.read(6)
    kind = next((name for magic, name in _NOT_READ.items() if start.startswith(magic)), None)
    if kind:
        raise DataError(f"{path} is a {kind} archive, which is not read: pack it as {_KINDS}")
    target = _Target(path, folder, wanted, limit, progress)
    try:
        if start.startswith(_ZIP):
            _unpack_zip(path, target)
        else:
            opener: Any = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), open)
            _unpack_tar(path, opener, target)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is truncated or damaged ({error}): fetch it again") from None


class _Target:
    """The folder that an archive is unpacked to, with what may be written there."""

    def __init__(self, path: Path, folder: Path, wanted: Callable[[str], bool], limit: int, progress: Progress) -> None:
        self.path, self.folder, self.wanted, self.progress = path, folder, wanted, progress
        self.limit = self.room = limit
        self.files = 0

    def takes(self, name: str) -> bool:
        """Whether a regular file of this name is to be unpacked; names that lead out of the folder are not."""
        path = PurePosixPath(name)
        return not (path.is_absolute() or ".." in path.parts or is_clutter(name)) and self.wanted(str(path))

    def write(self, name: str, size: int, content: IO[bytes]) -> None:
        """Writes a file of so many bytes. Raises `DataError` if all files together are larger than the limit."""
        self.room -= max(size, _BLOCK)
        if self.room < 0:
            raise DataError(f"{self.path} unpacks to more than {self.limit:,} bytes: not what it should be")
        file = self.folder.joinpath(*PurePosixPath(name).parts)
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "wb") as out:
            shutil.copyfileobj(content, out, 1 << 20)  # reads no more than `size`
        self.files += 1
        self.progress(lambda: f"{self.files:,} files unpacked from {self.path.name}")


def _unpack_tar(path: Path, opener: Any, target: _Target) -> None:
    with opener(path, "rb") as stream:
        _require_tar(path, stream.read(tarfile.BLOCKSIZE))
    with opener(path, "rb") as stream:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as tar:
            for member in tar:
                # Links and devices are skipped.
                if member.isreg() and target.takes(member.name):
                    content = tar.extractfile(member)
                    assert content is not None  # a regular file has contents
                    target.write(member.name, member.size, content)
        # A tar ends before its file does, and gzip and xz check their checksum only at the very end.
        while stream.read(1 << 20):
            pass


def _require_tar(path: Path, header: bytes) -> None:
    """Raises `DataError` if what should be the first block of a tar is none."""
    try:
        tarfile.TarInfo.frombuf(header, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:
        raise DataError(
            f"{path} is no archive of a kind that is read ({_KINDS}), or its beginning is damaged"
        ) from None


def _unpack_zip(path: Path, target: _Target) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            mode = member.external_attr >> 16  # 0 where the archive comes from Windows
            if member.is_dir() or (stat.S_IFMT(mode) and not stat.S_ISREG(mode)) or not target.takes(member.filename):
                continue
            try:
                content = archive.open(member)
            except (NotImplementedError, RuntimeError) as error:  # a password, or a method that Python lacks
                raise DataError(f"{path}: {member.filename} cannot be unpacked ({error})") from None
            with content:
                target.write(member.filename, member.file_size, content)
