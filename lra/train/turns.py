"""Turns on a device that several processes share: any number prepare at once, one measures alone. Imports no JAX.

Files in one folder are locked (flock), so a process that dies gives its turn back.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_SECONDS_BETWEEN_LOOKS = 0.1


class Turns:
    """The turns of processes that name the same folder.

    A process that is ready to measure keeps others from beginning to prepare, so that all that prepare become ready
    and are then measured one after the other: those who come later prepare side by side too.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """While others may prepare too, and none measures or waits to."""
        with self._open("device") as device:
            while True:
                with self._open("ready") as ready, contextlib.suppress(BlockingIOError):
                    fcntl.flock(ready, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    fcntl.flock(device, fcntl.LOCK_SH)
                    break
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            yield

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """While no other process prepares or measures."""
        with self._open("ready") as ready, self._open("device") as device:
            fcntl.flock(ready, fcntl.LOCK_SH)
            fcntl.flock(device, fcntl.LOCK_EX)
            yield

    def _open(self, name: str) -> IO[bytes]:
        """Closing it gives the lock back."""
        return open(self.folder / name, "ab")
