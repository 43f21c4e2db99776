"""Writer of a table of documents that grows on disk, so that it may be larger than the memory.

The file is an ordinary `.npy`. It is written with plain writes, not through a memory map: if the disk
fills up, a write fails with an error, while a map kills the process.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np


class Table:
    """Rows uint8 [M, L], appended in blocks. Use as a context manager; `array()` then maps the file.

    Given a folder, the file stays there; otherwise it is temporary and is deleted with the array.
    """

    def __init__(self, folder: Path | None, length: int, name: str = "values.npy") -> None:
        self.length, self.rows = length, 0
        self._path = folder / name if folder else None
        self._file = open(self._path, "w+b") if self._path else tempfile.NamedTemporaryFile("w+b")  # noqa: SIM115
        self._start = self._header()

    def _header(self) -> int:
        self._file.seek(0)
        shape = (self.rows, self.length)
        # NumPy pads the header so that the first axis can grow without moving the data.
        np.lib.format.write_array_header_1_0(self._file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        return self._file.tell()

    def add(self, rows: np.ndarray) -> None:
        """Appends rows uint8 [n, L]. Raises `OSError` if the disk is full."""
        if rows.dtype != np.uint8 or rows.shape[1:] != (self.length,):
            raise ValueError(f"rows must be uint8 [n, {self.length}], not {rows.dtype} {list(rows.shape)}")
        self._file.write(np.ascontiguousarray(rows).data)
        self.rows += len(rows)

    def array(self) -> np.ndarray:
        """uint8 [M, L], mapped read-only; available once the context has ended."""
        return self._array

    def remove(self) -> None:
        """Deletes the finished file; arrays that are mapped from it remain valid."""
        if self._path:
            self._path.unlink()

    def __enter__(self) -> Table:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is not None:
                return
            if self._header() != self._start:
                raise OSError(f"the header of {self._file.name} has grown")
            self._file.flush()
            os.fsync(self._file.fileno())
            # An empty file cannot be mapped. A temporary file exists as long as its map does.
            shape, start = (self.rows, self.length), self._start
            self._array = (
                np.memmap(self._file.name, np.uint8, mode="r", offset=start, shape=shape)
                if self.rows
                else np.zeros(shape, np.uint8)
            )
