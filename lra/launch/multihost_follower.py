"""The follower's side of cells on several hosts (`lra.launch.multihost`)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from lra.errors import UsageError
from lra.grid.spec import WorkerSpec
from lra.launch.multihost import POLL_SECONDS, SECONDS_TO_EXIT, HostGroup, JsonConnection, Message, fingerprint
from lra.launch.process import Stopped, WorkerProcesses, exit_reason, kill_tree, message_of
from tasks.io.cache import describe

_SECONDS_TO_CONNECT = 5.0


class Follower:
    """Trains the leader's cells together with it, one worker process per cell.

    Args:
        group: the hosts; this is not process 0.
        commit: of this code.
        data: folder of this host's data cache.
        results: folder for the logs of its workers, the only files it writes.
        env: environment of the workers.
        print_line: shows a line of text to the user.
    """

    def __init__(
        self,
        group: HostGroup,
        commit: str | None,
        data: Path,
        results: Path,
        env: Mapping[str, str],
        print_line: Callable[[str], None],
    ):
        self.group, self.commit, self.data, self.results, self.env = group, commit, data, results, env
        self.print_line = print_line
        self.workers = WorkerProcesses()

    def run(self) -> None:
        """Takes part in cells until the leader has no more.

        Raises:
            UsageError: no leader appeared in time, or it does not accept this process.
        """
        group = self.group
        self.print_line(f"process {group.process} of {group.processes} follows {group.coordinator}")
        last_followed, refused = time.monotonic(), ""
        while time.monotonic() - last_followed < 60 * group.wait_minutes:
            with contextlib.suppress(OSError):
                connection = JsonConnection(socket.create_connection(group.address, _SECONDS_TO_CONNECT))
                hello = {"process": group.process, "host": platform.node()}
                connection.send(hello | {"same": fingerprint(group, self.commit)})
                try:
                    last_message = self._follow(connection)
                finally:
                    connection.close()
                if last_message.get("done"):
                    return
                refused = last_message.get("refused", "")
                if last_message.get("for_good"):
                    raise UsageError(f"--process={group.process}: {refused}")
                if not refused:
                    last_followed = time.monotonic()
            time.sleep(POLL_SECONDS)
        why = refused or "start the same command there with --process=0"
        raise UsageError(f"no leader at {group.coordinator} for {group.wait_minutes:g} minutes: {why}")

    def _follow(self, connection: JsonConnection) -> Message:
        """Follows one leader; returns its last message, empty if the connection was lost."""
        cell: FollowerCell | None = None
        try:
            for message in connection.messages():
                if "cell" in message:
                    cell = FollowerCell(self, connection, WorkerSpec.from_json(message["cell"]))
                elif "over" in message:
                    if cell is not None:
                        cell.end(SECONDS_TO_EXIT)
                else:
                    return message
            return {}
        except KeyboardInterrupt:
            self.workers.stop()  # all workers of the cell save together
            if cell is not None:
                cell.over.wait()
            raise
        finally:
            if cell is not None:
                cell.end(0.0)


class FollowerCell:
    """A follower's part in one cell; a thread runs its worker and reports how it ended."""

    def __init__(self, follower: Follower, connection: JsonConnection, spec: WorkerSpec):
        self.follower, self.connection = follower, connection
        self.ending, self.over = threading.Event(), threading.Event()
        threading.Thread(target=self._run, args=(spec,), daemon=True).start()

    def end(self, seconds: float) -> None:
        """Gives the worker some seconds to exit by itself, then kills it; returns when it has ended."""
        if not self.over.wait(seconds):
            self.ending.set()
            self.follower.workers.kill()
            self.over.wait()

    def _run(self, spec: WorkerSpec) -> None:
        try:
            outcome = self._run_worker(spec)
        except Stopped:
            outcome = {"status": "failed", "error": "it is being stopped"}
        except (OSError, UsageError) as error:
            outcome = {"status": "failed", "error": str(error)}
        self.connection.send({"ended": outcome})
        self.over.set()

    def _run_worker(self, spec: WorkerSpec) -> Message:
        """Runs the worker; returns its status and error."""
        follower, name = self.follower, Path(spec.path).stem
        follower.print_line(f"at {name}")
        log = follower.results / "logs" / f"{name}.process{follower.group.process}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        # Only the leader writes checkpoints, traces and event files.
        train = dataclasses.replace(spec.train, checkpoints=None, profile=None, tensorboard=None, wandb=None)
        own_spec = dataclasses.replace(
            spec,
            entry=str(self._entry(spec).resolve()),
            compilation_cache=str((follower.data / "compiled").resolve()),
            train=train,
        )
        outcome: Message = {}
        with follower.workers.start(json.dumps(own_spec.to_json()), follower.env, log) as worker:
            if self.ending.is_set():  # before there was a worker to kill
                kill_tree(worker)
            for line in worker.stdout or ():
                outcome = (message_of(line) or {}).get("ended", outcome)
            code = worker.wait()
        return outcome or {"error": f"{exit_reason(code)}; see {log} there"}

    def _entry(self, spec: WorkerSpec) -> Path:
        """The cell's data in this host's cache; `UsageError` if they differ from the leader's."""
        entry = self.follower.data / Path(spec.entry or "").name
        try:
            fingerprint_here = describe(entry)["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError):
            fingerprint_here = None
        if fingerprint_here != spec.record["data"]["fingerprint"]:
            raise UsageError(f"{entry} does not hold the leader's data: run prepare there, or share the folder")
        return entry
