"""Turns on a device that several processes share: any number prepare at once, one measures alone.

Turns are locks (flock) on files in one folder, so a process that dies gives its turn back.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_POLL_SECONDS = 0.1


class Turns:
    """The turns of processes that use the same folder.

    A process that is ready to measure keeps further processes from starting to prepare. So all that are preparing
    become ready and measure one after the other; those that came later then prepare side by side too.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """Holds a turn to prepare: other processes may prepare too, but none measures."""
        with self._open("device") as device:
            while True:
                with self._open("ready") as ready, contextlib.suppress(BlockingIOError):
                    fcntl.flock(ready, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    fcntl.flock(device, fcntl.LOCK_SH)
                    break
                time.sleep(_POLL_SECONDS)
            yield

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Holds the turn to measure: no other process prepares or measures."""
        with self._open("ready") as ready, self._open("device") as device:
            fcntl.flock(ready, fcntl.LOCK_SH)
            fcntl.flock(device, fcntl.LOCK_EX)
            yield

    def _open(self, name: str) -> IO[bytes]:
        """Opens a lock's file; closing it releases the lock."""
        return open(self.folder / name, "ab")
