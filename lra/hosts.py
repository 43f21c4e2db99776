"""One cell on several hosts: the runs on them find each other, and start a process of the cell each. Imports no JAX.

Process 0 is the leader. Its run plans, takes leases, shows progress and writes records, as a run alone does. The other
runs follow: they are connected to it, get each cell's description, start their part of it, and tell how that ended.
What the cells' processes then say to each other is JAX's own (lra/collective.py). Messages are lines of JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lra.child import Children, Stopped, cause, end
from lra.device import versions
from lra.recipe import UsageError
from tasks.cache import describe

Message = dict[str, Any]
Tell = Callable[[str], None]
_SECONDS_BETWEEN_TRIES = 0.5
_SECONDS_TO_CONNECT = 5.0
_SECONDS_BEFORE_TELLING = 5.0
_SECONDS_FOR_LATECOMERS = 15.0
"""What a leader waits at its end for processes that it has not seen, so that they need not look for it in vain."""
SECONDS_TO_END = 10.0
"""What a cell's process has for ending by itself where another of the cell's has."""
_WELL = ("ok", "diverged", "interrupted")
"""How a part of a cell ends with which nothing was wrong."""


@dataclasses.dataclass(frozen=True)
class Job:
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


def job(
    coordinator: str | None, processes: int | None, process: int | None, minutes: float, environ: Mapping[str, str]
) -> Job | None:
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
    return Job(coordinator, processes, process, minutes)


class Line:
    """A connection that carries messages both ways."""

    def __init__(self, connection: socket.socket):
        self.connection, self.lock = connection, threading.Lock()
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A host that vanished without a word is noticed after half a minute, where the system can be told so.
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: Message) -> None:
        """Sends one message; a lost connection is the reader's to notice."""
        with self.lock, contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> Iterator[Message]:
        """What comes, until the other side is gone or makes no sense."""
        with contextlib.suppress(OSError, ValueError), self.connection.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                if not isinstance(message, dict):
                    return
                yield message

    def close(self) -> None:
        """Ends it for both sides, also for a thread that reads here."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


@dataclasses.dataclass
class Member:
    """A follower as the leader knows it."""

    process: int
    host: str
    line: Line
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

    def __init__(self, job: Job, commit: str | None, tell: Tell):
        self.job, self.tell, self.commit = job, tell, commit
        self.changed = threading.Condition()
        self.members: dict[int, Member] = {}
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
            threading.Thread(target=self._serve, args=(Line(connection),), daemon=True).start()

    def _serve(self, line: Line) -> None:
        messages = line.messages()
        member = self._admit(next(messages, {}), line)
        if member is not None:
            for message in messages:
                if "ended" in message:
                    self._ended(member, message["ended"])
            with self.changed:
                del self.members[member.process]
                self.changed.notify_all()
                if member.busy:
                    self._lose(f"{member} is gone")
        line.close()

    def _admit(self, hello: Message, line: Line) -> Member | None:
        """The member that says hello; one that cannot take part is told why."""
        process, theirs, ours = hello.get("process"), hello.get("same"), _same(self.job, self.commit)
        if type(process) is not int or not isinstance(theirs, dict):
            return None
        others = [f"{name} {theirs.get(name)} here, {own} at the leader" for name, own in ours.items()
                  if theirs.get(name) != own]  # fmt: skip
        if others:
            line.send({"refused": ", ".join(others), "for_good": True})
            return None
        with self.changed:
            if process in self.members:
                line.send({"refused": f"{self.members[process]} is already there", "for_good": False})
                return None
            member = self.members[process] = Member(process, str(hello.get("host")), line)
            self.seen.add(process)
            self.changed.notify_all()
        return member

    def _ended(self, member: Member, how: Message) -> None:
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
    def cell(self, spec: Message, stopping: threading.Event) -> Iterator[Message]:
        """The description of the leader's part of a cell; while the block runs, all others are at theirs.

        Raises:
            UsageError: not all others were there in time.
            Stopped: the run is being stopped.
        """
        self._gather(stopping)
        with socket.create_server(("", 0)) as free:
            port = free.getsockname()[1]
        host = self.job.coordinator.rpartition(":")[0]
        where = {"address": f"{host}:{port}", "processes": self.job.processes, "devices": spec["means"]["devices"]}
        with self.changed:
            self.at_cell, self.lost, self.lost_status, self.on_lost = True, "", "failed", lambda: None
            for member in self.members.values():
                member.busy = True
                member.line.send({"cell": spec | {"hosts": where | {"process": member.process}}})
            if len(self.members) < self.job.processes - 1:
                self._lose("a process has gone")
        try:
            yield spec | {"started": time.time(), "hosts": where | {"process": 0}}
        finally:
            with self.changed:
                self.at_cell = False
                for member in self.members.values():
                    member.line.send({"over": True})

    def _gather(self, stopping: threading.Event) -> None:
        began, told = time.monotonic(), False
        while True:
            with self.changed:
                ready = {process for process, member in self.members.items() if not member.busy}
                missing = sorted(set(range(1, self.job.processes)) - ready)
                if not missing:
                    return
                self.changed.wait(_SECONDS_BETWEEN_TRIES)
            names = f"process{'es' * (len(missing) > 1)} {', '.join(map(str, missing))} of {self.job.processes}"
            if stopping.is_set():
                raise Stopped
            if time.monotonic() - began > 60 * self.job.wait_minutes:
                minutes = f"{self.job.wait_minutes:g} minutes"
                raise UsageError(f"{names} did not come in {minutes}: start the same command there with its --process")
            if not told and time.monotonic() - began > _SECONDS_BEFORE_TELLING:
                told = True
                self.tell(f"waiting for {names}")

    def done(self) -> None:
        """Tells all others that there is nothing more to do."""
        until = time.monotonic() + _SECONDS_FOR_LATECOMERS
        with self.changed:
            while len(self.seen) < self.job.processes - 1 and time.monotonic() < until:
                self.changed.wait(_SECONDS_BETWEEN_TRIES)
            for member in self.members.values():
                member.line.send({"done": True})

    def __enter__(self) -> Leader:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()
        with self.changed:
            for member in self.members.values():
                member.line.close()


def _same(job: Job, commit: str | None) -> dict[str, Any]:
    """What all processes must have in common, or else they would not run the same programs."""
    return {"processes": job.processes, "commit": commit, **versions()}


class Follower:
    """A follower's side.

    Args:
        data: the folder of its own data cache.
        results: where it keeps the logs of its parts of cells, and nothing else.
        env: of the cells' processes.
    """

    def __init__(self, job: Job, commit: str | None, data: Path, results: Path, env: Mapping[str, str], tell: Tell):
        self.job, self.commit, self.data, self.results, self.env, self.tell = job, commit, data, results, env, tell
        self.children = Children()

    def run(self) -> None:
        """Takes part in cells until the leader says that all are done.

        Raises:
            UsageError: there was no leader for too long, or it does not take this process.
        """
        self.tell(f"process {self.job.process} of {self.job.processes} follows {self.job.coordinator}")
        last, refused = time.monotonic(), ""
        while time.monotonic() - last < 60 * self.job.wait_minutes:
            with contextlib.suppress(OSError):
                line = Line(socket.create_connection(self.job.address, _SECONDS_TO_CONNECT))
                same = _same(self.job, self.commit)
                line.send({"process": self.job.process, "host": platform.node(), "same": same})
                try:
                    ended = self._follow(line)
                finally:
                    line.close()
                if ended.get("done"):
                    return
                refused = ended.get("refused", "")
                if ended.get("for_good"):
                    raise UsageError(f"--process={self.job.process}: {refused}")
                if not refused:
                    last = time.monotonic()
            time.sleep(_SECONDS_BETWEEN_TRIES)
        why = refused or "start the same command there with --process=0"
        raise UsageError(f"no leader at {self.job.coordinator} for {self.job.wait_minutes:g} minutes: {why}")

    def _follow(self, line: Line) -> Message:
        """Follows one leader; its last word, or nothing where it is gone."""
        part: Part | None = None
        try:
            for message in line.messages():
                if "cell" in message:
                    part = Part(self, line, message["cell"])
                elif "over" in message and part is not None:
                    part.end(SECONDS_TO_END)
                else:
                    return message
            return {}
        except KeyboardInterrupt:
            self.children.stop()  # it saves, together with the others
            if part is not None:
                part.over.wait()
            raise
        finally:
            if part is not None:
                part.end(0.0)


class Part:
    """A follower's part of one cell, run by a thread."""

    def __init__(self, follower: Follower, line: Line, spec: Message):
        self.follower, self.line = follower, line
        self.ending, self.over = threading.Event(), threading.Event()
        threading.Thread(target=self._run, args=(spec,), daemon=True).start()

    def end(self, seconds: float) -> None:
        """Gives the process so long to end by itself, and returns when it has ended."""
        if not self.over.wait(seconds):
            self.ending.set()
            self.follower.children.kill()
            self.over.wait()

    def _run(self, spec: Message) -> None:
        try:
            how = self._told(spec)
        except Stopped:
            how = {"status": "failed", "error": "it is being stopped"}
        except (OSError, UsageError) as error:
            how = {"status": "failed", "error": str(error)}
        self.line.send({"ended": how})
        self.over.set()

    def _told(self, spec: Message) -> Message:
        """Runs the process, and returns its status and error."""
        follower, name = self.follower, Path(spec["path"]).stem
        follower.tell(f"at {name}")
        log = follower.results / "logs" / f"{name}.process{follower.job.process}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        for_leader = dict.fromkeys(("checkpoints", "profile", "tensorboard", "wandb"))
        mine = spec | {
            "entry": str(self._entry(spec).resolve()),
            "compilation_cache": str((follower.data / "compiled").resolve()),
            "means": spec["means"] | for_leader,
        }
        how: Message = {}
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(mine, file)
            file.flush()
            with follower.children.started(file.name, follower.env, log) as child:
                if self.ending.is_set():  # before there was a process to end
                    end(child)
                for printed in child.stdout or ():
                    how = json.loads(printed).get("ended", how)
                code = child.wait()
        return how or {"error": f"{cause(code)}; see {log} there"}

    def _entry(self, spec: Message) -> Path:
        """The cell's data in the cache here."""
        entry = self.follower.data / Path(spec["entry"]).name
        try:
            same = describe(entry)["fingerprint"] == spec["record"]["data"]["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError):
            same = False
        if not same:
            raise UsageError(f"{entry} does not hold the leader's data: run prepare there, or share the folder")
        return entry


def end_soon(child: subprocess.Popen[bytes]) -> None:
    """Ends a cell's process if it has not ended by itself after a while."""
    timer = threading.Timer(SECONDS_TO_END, end, (child,))
    timer.daemon = True
    timer.start()
