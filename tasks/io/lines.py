"""Lines of the text files that a release is made of: any line ends, with or without a byte order mark."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tasks.task import DataError

LONGEST = 1 << 26
"""Limit on the bytes of a line: a file without line ends must not be read as one huge line."""
_OTHER_ENCODINGS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yields (number, content without its end) of each line; numbers start at 1.

    A byte order mark before the first line, as editors on Windows write it, is left out.

    Raises:
        DataError: the file is UTF-16, or a line is so long that it is none.
    """
    with open(file, "rb") as stream:
        _skip_mark(file, stream)
        for number, line in enumerate(iter(lambda: stream.readline(LONGEST), b""), start=1):
            if len(line) == LONGEST:
                raise DataError(f"{file}, line {number}: longer than {LONGEST:,} bytes: not a file of this release")
            yield number, line.rstrip(b"\r\n")


def _skip_mark(file: Path, stream: BinaryIO) -> None:
    start = stream.read(len(codecs.BOM_UTF8))
    if start.startswith(_OTHER_ENCODINGS):
        raise DataError(f"{file} is UTF-16 (its byte order mark says so): save it as UTF-8")
    if start != codecs.BOM_UTF8:
        stream.seek(0)


def read_ascii_lines(file: Path) -> Iterator[tuple[int, str]]:
    """As `read_lines`, for files of ASCII only. Raises `DataError` naming file and line."""
    for number, line in read_lines(file):
        try:
            yield number, line.decode("ascii")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file}, line {number}: not text of this release: {error.reason} at byte {error.start} of the line"
            ) from None
