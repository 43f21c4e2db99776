"""One cell on several hosts: the group of runs that train it, and the messages between them.

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
POLL_SECONDS = 0.5
SECONDS_TO_EXIT = 10.0
"""Time in which a worker must exit by itself once another worker of its cell has ended."""
_MAX_MESSAGE_BYTES = 2**24


@dataclasses.dataclass(frozen=True)
class HostGroup:
    """The runs that train each cell together, and which of them this one is."""

    coordinator: str
    """host:port where the leader listens."""
    processes: int
    process: int
    wait_minutes: float = 10.0
    """How long to wait for the other processes."""

    @property
    def address(self) -> tuple[str, int]:
        """The coordinator's host and port."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def host_group(
    coordinator: str | None, processes: int | None, process: int | None, wait_minutes: float, environ: Mapping[str, str]
) -> HostGroup | None:
    """The group that the flags describe, or None without a coordinator.

    Args:
        coordinator: host:port of process 0.
        processes, process: their number, and which this is; None: as Slurm's environment says.
        wait_minutes: how long to wait for the other processes.
        environ: environment variables.

    Raises:
        UsageError: a flag is missing or wrong.
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
    return HostGroup(coordinator, processes, process, wait_minutes)


class JsonConnection:
    """Sends and receives messages, each one line of JSON, over a socket."""

    def __init__(self, connection: socket.socket):
        self.connection, self.lock = connection, threading.Lock()
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # Notice a host that vanished silently after half a minute, where the system has these options.
        options = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 30_000))
        for name, value in options:
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: Message) -> None:
        """Sends one message. Ignores a lost connection, which the reader notices."""
        with self.lock, contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> Iterator[Message]:
        """Yields incoming messages until the connection closes or one is malformed."""
        with contextlib.suppress(OSError, ValueError), self.connection.makefile("rb") as lines:
            while line := lines.readline(_MAX_MESSAGE_BYTES):
                message = json.loads(line)
                if not isinstance(message, dict):
                    return
                yield message

    def close(self) -> None:
        """Closes the connection for both sides, also for a thread that is reading from it."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


def fingerprint(group: HostGroup, commit: str | None) -> dict[str, Any]:
    """Everything that must be equal in all processes, so that they run the same programs."""
    return {"processes": group.processes, "commit": commit, **versions()}
