"""The processes of a run's cells: started, listened to, ended. Imports no JAX."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from lra.lease import Lease
from lra.progress import Display

LOG_BYTES = 2**23
"""Most of a log's beginning that is kept; of what a cell prints after it, the end is."""
_END_BYTES = 2**16
_SECONDS_TO_SAVE = 60.0


class Stopped(Exception):
    """The run is being stopped, and the cell could not save."""


class LeaseLost(Exception):
    """Another run has taken the cell over, and goes on with it."""


class Children:
    """The processes that run now."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopping = threading.Event()
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def started(self, spec: str, env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """A cell's process that is told its `spec`, one line; it is gone at the block's end.

        Raises:
            Stopped: the run is being stopped.
        """
        with self.lock:
            if self.stopping.is_set():
                raise Stopped
            file = open(log, "wb", buffering=0)  # noqa: SIM115 (closed by the thread that writes it)
            # A session of its own: Ctrl-C reaches the parent alone, which ends the cell.
            child = subprocess.Popen(
                [sys.executable, "-m", "lra.cell"],
                env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
            self.running.add(child)
        assert child.stdin and child.stdout and child.stderr
        pump = threading.Thread(target=keep, args=(child.stderr.fileno(), file), daemon=True)
        pump.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                child.stdin.write(spec.encode() + b"\n")
                child.stdin.flush()
            yield child
        finally:
            end(child)
            child.wait()
            pump.join()
            with self.lock:
                self.running.remove(child)
            for pipe in (child.stdin, child.stdout, child.stderr):
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def stop(self) -> None:
        """Asks all to save and end, and starts no more. Who has not ended after a minute is killed."""
        with self.lock:
            self.stopping.set()
            for child in self.running:
                child.terminate()
        late = threading.Timer(_SECONDS_TO_SAVE, self.kill)
        late.daemon = True
        late.start()

    def kill(self) -> None:
        """Ends all at once."""
        with self.lock:
            for child in self.running:
                end(child)


def end(child: subprocess.Popen[bytes]) -> None:
    """Kills a process and those it started, which would hold its pipes open."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def cause(code: int) -> str:
    """How a cell's process ended that left no record."""
    if code < 0:
        return f"the cell's process was ended by {signal.Signals(-code).name}"
    return f"the cell's process ended with exit code {code}"


def keep(pipe: int, log: BinaryIO) -> None:
    """Writes what comes through a pipe to a file: the first `LOG_BYTES`, and the end of the rest.

    A file that cannot be written, as on a full disk, does not stop the process that prints.
    """
    room, rest, printed = LOG_BYTES, b"", 0
    with log:
        while part := os.read(pipe, _END_BYTES):
            printed += len(part)
            with contextlib.suppress(OSError):
                log.write(part[:room])
            rest = (rest + part[room:])[-_END_BYTES:]
            room = max(0, room - len(part))
        with contextlib.suppress(OSError):
            if left_out := max(0, printed - LOG_BYTES - len(rest)):
                log.write(f"\n[{left_out:,} bytes left out]\n".encode())
            log.write(rest)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a cell runs and who looks on."""

    lease: Lease
    children: Children
    display: Display
    env: Mapping[str, str]
    """What its process needs to know of its device."""
    sharing: int = 1
    """Cells that may be on its device at once."""
