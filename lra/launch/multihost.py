"""One cell on several hosts: which they are, and how their runs talk. Imports no JAX.

Process 0's run is the leader (`multihost_leader`): it plans, takes leases, shows progress and writes records, as a
single run does. The other runs are followers (`multihost_follower`): they connect to it, receive each cell's
description, start their worker and report how it ended. The workers communicate through JAX (`lra.train.distributed`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from lra.errors import UsageError
from lra.results.provenance import versions

Message = dict[str, Any]
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_END = 10.0
"""What a cell's process has for ending by itself where another of the cell's has."""
_MOST_BYTES = 2**24


@dataclasses.dataclass(frozen=True)
class HostGroup:
    """Which of how many processes this is, and where the leader listens."""

    coordinator: str
    processes: int
    process: int
    wait_minutes: float = 10.0
    """How long the others are waited for."""

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def host_group(
    coordinator: str | None, processes: int | None, process: int | None, minutes: float, environ: Mapping[str, str]
) -> HostGroup | None:
    """The job that flags ask for, None without one; Slurm's environment says how many processes there are, and which.

    Raises:
        UsageError: a part is missing or wrong.
    """
    if coordinator is None:
        if processes is None and process is None:
            return None
        raise UsageError("--processes and --process need --coordinator=HOST:PORT, where process 0 listens")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UsageError(f"--coordinator={coordinator}: it takes HOST:PORT")
    if processes is None and environ.get("SLURM_NTASKS", "").isdigit():
        processes = int(environ["SLURM_NTASKS"])
    if process is None and environ.get("SLURM_PROCID", "").isdigit():
        process = int(environ["SLURM_PROCID"])
    if processes is None or process is None:
        raise UsageError("--coordinator needs --processes=N, and --process=0 to N - 1 on each host")
    if not 0 <= process < processes:
        raise UsageError(f"--process={process}: of --processes={processes} it is one of 0 to {processes - 1}")
    return HostGroup(coordinator, processes, process, minutes)


class JsonConnection:
    """A connection that carries messages both ways, each a line of JSON."""

    def __init__(self, connection: socket.socket):
        self.connection, self.lock = connection, threading.Lock()
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A host that vanished without a word is noticed after half a minute, where the system can be told so.
        alive = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 30_000))
        for name, value in alive:
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: Message) -> None:
        """Sends one message; a lost connection is the reader's to notice."""
        with self.lock, contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> Iterator[Message]:
        """What comes, until the other side is gone or makes no sense."""
        with contextlib.suppress(OSError, ValueError), self.connection.makefile("rb") as lines:
            while line := lines.readline(_MOST_BYTES):
                message = json.loads(line)
                if not isinstance(message, dict):
                    return
                yield message

    def close(self) -> None:
        """Ends it for both sides, also for a thread that reads here."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


def fingerprint(job: HostGroup, commit: str | None) -> dict[str, Any]:
    """What all processes must have in common, or else they would not run the same programs."""
    return {"processes": job.processes, "commit": commit, **versions()}
