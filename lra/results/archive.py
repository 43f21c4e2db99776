"""Archives of records, to hand on: a zip of `records/NAME.json` and `bench/NAME.json`, and nothing else.

Anyone may have made one: it is read within limits, never unpacked, and refused whole if it holds anything else.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from lra.errors import UsageError
from lra.grid.cell import record_name
from lra.results import records

MAX_RECORD = 16 * 2**20
"""Bytes of one record; a cell of 3 seeds and 1,000 evaluations takes under 1 MiB."""
MAX_TOTAL = 2**29
"""Bytes of all records."""
MAX_RECORDS = 50_000
_MAX_DIRECTORY = 2**24
"""Bytes of the zip's list of members, which is read into memory whole."""
_NAME = re.compile(rf"(?:{records.RESULTS}|{records.BENCH})/[^./\\][^/\\]*\.json")
_FIRST_BYTES = (b"PK\x03\x04", b"PK\x05\x06")
_END, _END_BYTES = b"PK\x05\x06", 22
"""What a zip without a comment ends with: its last bytes say where the list of members is."""
_LOCATOR, _LOCATOR_BYTES = b"PK\x06\x07", 20
"""What stands before the end of a zip of more than 65,535 members."""
_ENCRYPTED = 0x1
_TIME = (1980, 1, 1, 0, 0, 0)
"""Of each member: equal records make equal bytes."""
_AGAIN = "use one made by `run.py pack`"


def contents(path: Path, kind: str) -> Iterator[tuple[str, bytes]]:
    """Reads the records of one kind: each one's name in the archive and its bytes, by name.

    Args:
        path: the archive.
        kind: `records.RESULTS` or `records.BENCH`.

    Raises:
        UsageError: it is no whole archive of records and nothing else, or exceeds a limit.
    """
    with _open(path) as (file, members):
        for member in members:
            if member.filename.startswith(f"{kind}/"):
                yield member.filename, _read(path, file, member)


def require_archive(path: Path) -> None:
    """Raises `UsageError` if a file is no archive of records, as far as its list of members tells."""
    with _open(path):
        pass


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed by `with`)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    with file:
        with _damage(path):
            _check_end(path, file)
            opened = zipfile.ZipFile(file)
        with opened:
            yield opened, _checked_members(path, opened)


def _check_end(path: Path, file: IO[bytes]) -> None:
    """Raises `UsageError` unless a file begins and ends as a zip whose list of members is not too long."""
    if file.read(4) not in _FIRST_BYTES:
        raise UsageError(f"{path} is no archive of records: give a results folder, or an archive made by `run.py pack`")
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END_BYTES - _LOCATOR_BYTES))
    last = file.read()
    end = last[-_END_BYTES:]
    if not end.startswith(_END) or not end.endswith(b"\0\0"):
        raise UsageError(f"{path} is cut off, or not as `run.py pack` writes it: fetch it again")
    if last.startswith(_LOCATOR) or struct.unpack_from("<L", end, 12)[0] > _MAX_DIRECTORY:
        raise UsageError(f"{path} holds more than {MAX_RECORDS:,} files: {_AGAIN}")


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turns whatever a damaged zip raises into one line."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, struct.error) as error:
        raise UsageError(f"{path} is damaged ({error}): fetch it again") from None


def _checked_members(path: Path, file: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    members = sorted(file.infolist(), key=lambda member: member.filename)
    if not members:
        raise UsageError(f"{path} holds no records: {_AGAIN}")
    if len(members) > MAX_RECORDS:
        raise UsageError(f"{path} holds {len(members):,} files, and at most {MAX_RECORDS:,} are read: {_AGAIN}")
    for member in members:
        if problem := _problem(member):
            raise UsageError(f"{path}: '{member.filename}' {problem}: {_AGAIN}")
    name, times = Counter(member.filename for member in members).most_common(1)[0]
    if times > 1:
        raise UsageError(f"{path} holds '{name}' {times} times: {_AGAIN}")
    total = sum(member.file_size for member in members)
    if total > MAX_TOTAL:
        raise UsageError(f"{path} unpacks to {total:,} bytes, and at most {MAX_TOTAL:,} are read: {_AGAIN}")
    return members


def _problem(member: zipfile.ZipInfo) -> str:
    """Why a member is not read; '' if it is. Says nothing about its contents."""
    mode = member.external_attr >> 16  # 0 where the archive comes from Windows
    if not _NAME.fullmatch(member.filename):
        return "is neither records/NAME.json nor bench/NAME.json"
    if stat.S_IFMT(mode) and not stat.S_ISREG(mode):
        return "is a link or a special file"
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted"
    # Python's readers of other methods unpack without a limit.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed by a method that is not read"
    if member.file_size > MAX_RECORD:
        return f"has {member.file_size:,} bytes, and a record has at most {MAX_RECORD:,}"
    return ""


def _read(path: Path, file: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with _damage(path), file.open(member) as stream:
        # One byte more makes `zipfile` compare the checksum; without a number it would unpack beyond the stated size.
        content = stream.read(member.file_size + 1)
        if len(content) != member.file_size:
            raise zipfile.BadZipFile(f"'{member.filename}' is shorter than it says")
    return content


def to_bytes(chosen: Mapping[str, Sequence[records.Record]]) -> bytes:
    """An archive of records: `chosen` maps `records.RESULTS` and `records.BENCH` to them. Equal records, equal bytes.

    Raises:
        UsageError: it would exceed a limit, and could not be read.
    """
    files = {f"{kind}/{name}": content for kind, made in chosen.items() for name, content in _files(made).items()}
    if len(files) > MAX_RECORDS or sum(map(len, files.values())) > MAX_TOTAL:
        raise UsageError(
            f"{len(files):,} records are too many for one archive: choose some with --tasks, --models or --protocol"
        )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name in sorted(files):
            member = zipfile.ZipInfo(name, _TIME)
            member.create_system = _UNIX
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            file.writestr(member, files[name], zipfile.ZIP_DEFLATED, compresslevel=9)
    return packed.getvalue()


def _files(made: Sequence[records.Record]) -> dict[str, bytes]:
    """Each record's file name, as in a results folder, and its bytes."""
    files: dict[str, bytes] = {}
    for record in made:
        cell = {name: record["cell"][name] for name in _NAMED_BY}
        # A hand-made key need not be a checksum.
        key = (
            record["key"] if _CHECKSUM.fullmatch(record["key"]) else hashlib.sha256(record["key"].encode()).hexdigest()
        )
        name = record_name(**cell, key=key).lstrip(".")
        content = records.to_bytes(record)
        if len(content) > MAX_RECORD:
            raise UsageError(f"{name} has {len(content):,} bytes, and a record in an archive at most {MAX_RECORD:,}")
        files[f"{name}-{key}.json" if f"{name}.json" in files else f"{name}.json"] = content
    return files


_NAMED_BY = ("task", "model", "length", "protocol", "seeds", "accelerator")
_CHECKSUM = re.compile("[0-9a-f]{64}")
_UNIX = 3
