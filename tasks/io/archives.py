"""Archives read safely: as a stream, regular files only, nowhere but below a given folder, within limits."""

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
"""What a file takes on a disk at least: millions of empty ones fill it too."""
_MAX_HEADER = 1 << 20
"""Most bytes of a member's long name and attributes; those of the archives that are read have some hundred."""


class _Member(tarfile.TarInfo):
    """Long names and attributes, which are read into memory whole, may not be of any size."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in b"LKxgX" and self.size > _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        member: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return member


def verify(path: Path, archive: Archive, allow_unverified: bool) -> str:
    """A note on what is known of the file's contents: '' where its checksum is the published one.

    Raises:
        DataError: the checksum differs, and `allow_unverified` is not given.
    """
    if not path.stat().st_size:
        raise DataError(f"{path} is empty: fetch {archive.url} again")
    if not archive.sha256:
        return f"{path.name}: nobody has published a checksum; its own (sha256) is {sha256(path)}"
    found = sha256(path)
    if found == archive.sha256:
        return ""
    if not allow_unverified:
        raise DataError(
            f"{path} is not the published {archive.name}: its sha256 is {found} and should be "
            f"{archive.sha256}; fetch {archive.url} again, or take this copy with --allow_unverified"
        )
    return f"an unverified copy of {archive.name}: sha256 {found}, published {archive.sha256}"


@contextlib.contextmanager
def open_source(
    request: BuildRequest, archive: Archive, wanted: Callable[[str], bool], limit: int
) -> Iterator[tuple[Path, list[str]]]:
    """The source as a folder, and notes on it: a folder as it is, an archive verified and unpacked for now.

    Of an archive only regular files with a `wanted` name ('aclImdb/train/pos/0_9.txt') are unpacked, and no
    more than `limit` bytes of them.

    Raises:
        DataError: the archive is damaged, too large, or not the published one.
        OSError: there is no room to unpack it.
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
        # The user knows the archive, not the place where it was unpacked.
        raise DataError(str(error).replace(str(folder), str(path))) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack(path: Path, folder: Path, wanted: Callable[[str], bool], limit: int, progress: Progress) -> None:
    """Unpacks the wanted regular files of a tar archive below `folder`.

    Raises:
        DataError: the archive is damaged or unpacks to more than `limit` bytes.
        OSError: there is no room for it.
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
                    # Links, devices and names that lead out of the folder are never followed.
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
            # A tar ends before its file does: only at the very end is the checksum of gzip and xz looked at.
            while stream.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is truncated or damaged ({error}): fetch it again") from None
