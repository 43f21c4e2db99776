"""The leader's side of cells on several hosts (`lra.launch.multihost`)."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

from lra.errors import UsageError
from lra.grid.spec import ProcessGroup, WorkerSpec
from lra.launch.multihost import POLL_SECONDS, SECONDS_TO_EXIT, HostGroup, JsonConnection, Message, fingerprint
from lra.launch.process import Stopped, kill_tree

_SECONDS_BEFORE_REPORT = 5.0
"""Waiting for followers is reported to the user after this time."""
_SECONDS_AT_THE_END = 15.0
"""A finished leader waits this long for followers that have not come yet, which would otherwise look for it in vain."""
_SECONDS_TO_REPORT = 5.0
"""Time for a follower's report of an ended worker to arrive."""
_WITHOUT_FAILURE = ("ok", "diverged", "interrupted")
"""Statuses of a follower's worker that do not make the cell fail."""


@dataclasses.dataclass
class FollowerHandle:
    """A connected follower, as the leader sees it."""

    process: int
    host: str
    connection: JsonConnection
    busy: bool = False
    """Whether its worker may still be running."""

    def __str__(self) -> str:
        return f"process {self.process} ({self.host})"


class Leader:
    """Accepts followers and trains cells together with them; listens until it is closed.

    Args:
        group: the hosts; this is process 0.
        commit: of this code; followers with another commit or other package versions are refused.
        print_line: shows a line of text to the user.

    Raises:
        UsageError: the leader cannot listen on the coordinator's port.
    """

    def __init__(self, group: HostGroup, commit: str | None, print_line: Callable[[str], None]):
        self.group, self.print_line, self.commit = group, print_line, commit
        self.changed = threading.Condition()
        self.followers: dict[int, FollowerHandle] = {}
        self.seen: set[int] = set()
        """Processes that have ever connected."""
        self.at_cell = False
        self.failure, self.failure_status = "", "failed"
        """Why the current or last cell could not continue, and the status for its record; '' if it could."""
        self.on_failure: Callable[[], None] = lambda: None
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        try:
            self.server = socket.create_server(("", group.address[1]), family=family, dualstack_ipv6=both)
        except OSError as error:
            raise UsageError(f"--coordinator={group.coordinator}: cannot listen there: {error.strerror}") from None
        threading.Thread(target=self._accept, daemon=True).start()

    @contextlib.contextmanager
    def start_cell(self, spec: WorkerSpec, stopping: threading.Event) -> Iterator[WorkerSpec]:
        """Starts the followers' workers of a cell and yields the spec of the leader's own.

        At the end of the `with` block the followers' workers are ended too, and `failure` says if any of them failed.

        Raises:
            UsageError: not all followers connected in time.
            Stopped: the run is stopping.
        """
        self._gather(stopping)
        with socket.create_server(("", 0)) as free:
            port = free.getsockname()[1]
        host = self.group.coordinator.rpartition(":")[0]

        def spec_for(process: int) -> WorkerSpec:
            group = ProcessGroup(
                address=f"{host}:{port}", processes=self.group.processes, process=process, devices=spec.train.devices
            )
            return dataclasses.replace(spec, group=group)

        with self.changed:
            self.at_cell, self.failure, self.failure_status, self.on_failure = True, "", "failed", lambda: None
            for follower in self.followers.values():
                follower.busy = True
                follower.connection.send({"cell": spec_for(follower.process).to_json()})
            if len(self.followers) < self.group.processes - 1:
                self._fail("a process has gone")
        try:
            yield dataclasses.replace(spec_for(0), started=time.time())
        finally:
            with self.changed:
                for follower in self.followers.values():
                    follower.connection.send({"over": True})
                self.changed.wait_for(self._idle, SECONDS_TO_EXIT + _SECONDS_TO_REPORT)
                self.at_cell = False

    def watch(self, on_failure: Callable[[], None]) -> None:
        """Calls `on_failure` when the cell cannot continue because a follower has failed."""
        with self.changed:
            self.on_failure = on_failure
            if self.failure:
                on_failure()

    def finish(self) -> None:
        """Tells all followers that there are no more cells."""
        with self.changed:
            self.changed.wait_for(self._settled, _SECONDS_AT_THE_END)
            for follower in self.followers.values():
                follower.connection.send({"done": True})

    def __enter__(self) -> Leader:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()
        with self.changed:
            for follower in self.followers.values():
                follower.connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(JsonConnection(connection),), daemon=True).start()

    def _serve(self, connection: JsonConnection) -> None:
        messages = connection.messages()
        follower = self._admit(next(messages, {}), connection)
        if follower is not None:
            for message in messages:
                if "ended" in message:
                    self._note_end(follower, message["ended"])
            with self.changed:
                del self.followers[follower.process]
                self.changed.notify_all()
                if follower.busy:
                    self._fail(f"{follower} is gone")
        connection.close()

    def _admit(self, hello: Message, connection: JsonConnection) -> FollowerHandle | None:
        """Admits the follower that says hello, or tells it why it is refused."""
        process, theirs, ours = hello.get("process"), hello.get("same"), fingerprint(self.group, self.commit)
        if type(process) is not int or process < 1 or not isinstance(theirs, dict):
            return None
        differences = [f"{name} {theirs.get(name)} here, {own} at the leader" for name, own in ours.items()
                       if theirs.get(name) != own]  # fmt: skip
        if differences:
            connection.send({"refused": ", ".join(differences), "for_good": True})
            return None
        with self.changed:
            if process in self.followers:
                connection.send({"refused": f"{self.followers[process]} is already there", "for_good": False})
                return None
            follower = self.followers[process] = FollowerHandle(process, str(hello.get("host")), connection)
            self.seen.add(process)
            self.changed.notify_all()
        return follower

    def _note_end(self, follower: FollowerHandle, outcome: Message) -> None:
        with self.changed:
            follower.busy = False
            self.changed.notify_all()
            status = outcome.get("status")
            if status not in _WITHOUT_FAILURE:
                self._fail(f"{follower}: {outcome.get('error')}", "oom" if status == "oom" else "failed")

    def _fail(self, reason: str, status: str = "failed") -> None:
        """Notes the first failure of the current cell."""
        if self.at_cell and not self.failure:
            self.failure, self.failure_status = reason, status
            self.on_failure()

    def _gather(self, stopping: threading.Event) -> None:
        """Waits until all followers are connected and idle."""
        began, reported = time.monotonic(), False
        while True:
            with self.changed:
                ready = {process for process, follower in self.followers.items() if not follower.busy}
                missing = sorted(set(range(1, self.group.processes)) - ready)
                if not missing:
                    return
                self.changed.wait(POLL_SECONDS)
            names = f"process{'es' * (len(missing) > 1)} {', '.join(map(str, missing))} of {self.group.processes}"
            if stopping.is_set():
                raise Stopped
            if time.monotonic() - began > 60 * self.group.wait_minutes:
                minutes = f"{self.group.wait_minutes:g} minutes"
                raise UsageError(f"{names} did not come in {minutes}: start the same command there with its --process")
            if not reported and time.monotonic() - began > _SECONDS_BEFORE_REPORT:
                reported = True
                self.print_line(f"waiting for {names}")

    def _idle(self) -> bool:
        """Whether no follower's worker can still be running."""
        return not any(follower.busy for follower in self.followers.values())

    def _settled(self) -> bool:
        """Whether all followers have connected, and none is at a cell."""
        return len(self.seen) == self.group.processes - 1 and self._idle()


def kill_soon(worker: subprocess.Popen[bytes]) -> None:
    """Kills a worker that has not exited by itself after `SECONDS_TO_EXIT`."""

    def kill_if_running() -> None:
        if worker.poll() is None:
            kill_tree(worker)

    timer = threading.Timer(SECONDS_TO_EXIT, kill_if_running)
    timer.daemon = True
    timer.start()
