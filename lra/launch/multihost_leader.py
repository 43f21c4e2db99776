"""The leader's side of cells on several hosts (lra/launch/multihost.py). Imports no JAX."""

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
from lra.launch.multihost import SECONDS_BETWEEN_LOOKS, SECONDS_TO_END, HostGroup, JsonConnection, Message, fingerprint
from lra.launch.process import Stopped, kill_tree

_SECONDS_BEFORE_TELLING = 5.0
_SECONDS_AT_THE_END = 15.0
"""What a leader that is done waits for processes that have not come yet, so that they need not look for it in vain."""
_SECONDS_TO_TELL = 5.0
_WELL = ("ok", "diverged", "interrupted")
"""How a part of a cell ends with which nothing was wrong."""


@dataclasses.dataclass
class FollowerHandle:
    """A follower as the leader knows it."""

    process: int
    host: str
    line: JsonConnection
    busy: bool = False
    """Whether its part of a cell may still run."""

    def __str__(self) -> str:
        return f"process {self.process} ({self.host})"


class Leader:
    """The leader's side; listens until it is closed.

    Args:
        commit: of this code; followers with another, or with other versions of packages, are not taken.

    Raises:
        UsageError: the coordinator's port cannot be listened at.
    """

    def __init__(self, job: HostGroup, commit: str | None, tell: Callable[[str], None]):
        self.group, self.tell, self.commit = job, tell, commit
        self.changed = threading.Condition()
        self.followers: dict[int, FollowerHandle] = {}
        self.seen: set[int] = set()
        self.at_cell = False
        self.lost, self.lost_status = "", "failed"
        """Why the cell that is run now, or was last, could not go on; '' where it could."""
        self.on_lost: Callable[[], None] = lambda: None
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        try:
            self.server = socket.create_server(("", job.address[1]), family=family, dualstack_ipv6=both)
        except OSError as error:
            raise UsageError(f"--coordinator={job.coordinator}: cannot listen there: {error.strerror}") from None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(JsonConnection(connection),), daemon=True).start()

    def _serve(self, line: JsonConnection) -> None:
        messages = line.messages()
        member = self._admit(next(messages, {}), line)
        if member is not None:
            for message in messages:
                if "ended" in message:
                    self._ended(member, message["ended"])
            with self.changed:
                del self.followers[member.process]
                self.changed.notify_all()
                if member.busy:
                    self._lose(f"{member} is gone")
        line.close()

    def _admit(self, hello: Message, line: JsonConnection) -> FollowerHandle | None:
        """The member that says hello; one that cannot take part is told why."""
        process, theirs, ours = hello.get("process"), hello.get("same"), fingerprint(self.group, self.commit)
        if type(process) is not int or process < 1 or not isinstance(theirs, dict):
            return None
        others = [f"{name} {theirs.get(name)} here, {own} at the leader" for name, own in ours.items()
                  if theirs.get(name) != own]  # fmt: skip
        if others:
            line.send({"refused": ", ".join(others), "for_good": True})
            return None
        with self.changed:
            if process in self.followers:
                line.send({"refused": f"{self.followers[process]} is already there", "for_good": False})
                return None
            member = self.followers[process] = FollowerHandle(process, str(hello.get("host")), line)
            self.seen.add(process)
            self.changed.notify_all()
        return member

    def _ended(self, member: FollowerHandle, how: Message) -> None:
        with self.changed:
            member.busy = False
            self.changed.notify_all()
            if how.get("status") not in _WELL:
                self._lose(f"{member}: {how.get('error')}", "oom" if how.get("status") == "oom" else "failed")

    def _lose(self, why: str, status: str = "failed") -> None:
        if self.at_cell and not self.lost:
            self.lost, self.lost_status = why, status
            self.on_lost()

    def watch(self, on_lost: Callable[[], None]) -> None:
        """Calls `on_lost` where the cell cannot go on, since another part of it has failed."""
        with self.changed:
            self.on_lost = on_lost
            if self.lost:
                on_lost()

    @contextlib.contextmanager
    def cell(self, spec: WorkerSpec, stopping: threading.Event) -> Iterator[WorkerSpec]:
        """The description of the leader's part of a cell; while the block runs, all others are at theirs.

        At the block's end theirs are ended too, and `lost` has what went wrong with any.

        Raises:
            UsageError: not all others were there in time.
            Stopped: the run is being stopped.
        """
        self._gather(stopping)
        with socket.create_server(("", 0)) as free:
            port = free.getsockname()[1]
        host = self.group.coordinator.rpartition(":")[0]

        def part(process: int) -> WorkerSpec:
            group = ProcessGroup(
                address=f"{host}:{port}", processes=self.group.processes, process=process, devices=spec.train.devices
            )
            return dataclasses.replace(spec, group=group)

        with self.changed:
            self.at_cell, self.lost, self.lost_status, self.on_lost = True, "", "failed", lambda: None
            for member in self.followers.values():
                member.busy = True
                member.line.send({"cell": part(member.process).to_json()})
            if len(self.followers) < self.group.processes - 1:
                self._lose("a process has gone")
        try:
            yield dataclasses.replace(part(0), started=time.time())
        finally:
            with self.changed:
                for member in self.followers.values():
                    member.line.send({"over": True})
                self.changed.wait_for(self._idle, SECONDS_TO_END + _SECONDS_TO_TELL)
                self.at_cell = False

    def _gather(self, stopping: threading.Event) -> None:
        began, told = time.monotonic(), False
        while True:
            with self.changed:
                ready = {process for process, member in self.followers.items() if not member.busy}
                missing = sorted(set(range(1, self.group.processes)) - ready)
                if not missing:
                    return
                self.changed.wait(SECONDS_BETWEEN_LOOKS)
            names = f"process{'es' * (len(missing) > 1)} {', '.join(map(str, missing))} of {self.group.processes}"
            if stopping.is_set():
                raise Stopped
            if time.monotonic() - began > 60 * self.group.wait_minutes:
                minutes = f"{self.group.wait_minutes:g} minutes"
                raise UsageError(f"{names} did not come in {minutes}: start the same command there with its --process")
            if not told and time.monotonic() - began > _SECONDS_BEFORE_TELLING:
                told = True
                self.tell(f"waiting for {names}")

    def done(self) -> None:
        """Tells all others that there is nothing more to do."""
        with self.changed:
            self.changed.wait_for(self._settled, _SECONDS_AT_THE_END)
            for member in self.followers.values():
                member.line.send({"done": True})

    def _idle(self) -> bool:
        """Whether no other's part of a cell may still run."""
        return not any(member.busy for member in self.followers.values())

    def _settled(self) -> bool:
        """Whether all others have come, and none is at a cell."""
        return len(self.seen) == self.group.processes - 1 and self._idle()

    def __enter__(self) -> Leader:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()
        with self.changed:
            for member in self.followers.values():
                member.line.close()


def kill_soon(child: subprocess.Popen[bytes]) -> None:
    """Ends a cell's process if it has not ended by itself after a while."""

    def late() -> None:
        if child.poll() is None:
            kill_tree(child)

    timer = threading.Timer(SECONDS_TO_END, late)
    timer.daemon = True
    timer.start()
