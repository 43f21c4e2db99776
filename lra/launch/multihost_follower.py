"""A follower's side of cells on several hosts (lra/launch/multihost.py). Imports no JAX."""

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
from lra.launch.multihost import SECONDS_BETWEEN_LOOKS, SECONDS_TO_END, HostGroup, JsonConnection, Message, fingerprint
from lra.launch.process import Stopped, WorkerProcesses, kill_tree, exit_reason
from tasks.io.cache import describe

_SECONDS_TO_CONNECT = 5.0


class Follower:
    """A follower's side.

    Args:
        data: the folder of its own data cache.
        results: where it keeps the logs of its parts of cells, and nothing else.
        env: of the cells' processes.
    """

    def __init__(
        self,
        job: HostGroup,
        commit: str | None,
        data: Path,
        results: Path,
        env: Mapping[str, str],
        tell: Callable[[str], None],
    ):
        self.group, self.commit, self.data, self.results, self.env, self.tell = job, commit, data, results, env, tell
        self.workers = WorkerProcesses()

    def run(self) -> None:
        """Takes part in cells until the leader says that all are done.

        Raises:
            UsageError: there was no leader for too long, or it does not take this process.
        """
        self.tell(f"process {self.group.process} of {self.group.processes} follows {self.group.coordinator}")
        last, refused = time.monotonic(), ""
        while time.monotonic() - last < 60 * self.group.wait_minutes:
            with contextlib.suppress(OSError):
                line = JsonConnection(socket.create_connection(self.group.address, _SECONDS_TO_CONNECT))
                hello = {"process": self.group.process, "host": platform.node()}
                line.send(hello | {"same": fingerprint(self.group, self.commit)})
                try:
                    ended = self._follow(line)
                finally:
                    line.close()
                if ended.get("done"):
                    return
                refused = ended.get("refused", "")
                if ended.get("for_good"):
                    raise UsageError(f"--process={self.group.process}: {refused}")
                if not refused:
                    last = time.monotonic()
            time.sleep(SECONDS_BETWEEN_LOOKS)
        why = refused or "start the same command there with --process=0"
        raise UsageError(f"no leader at {self.group.coordinator} for {self.group.wait_minutes:g} minutes: {why}")

    def _follow(self, line: JsonConnection) -> Message:
        """Follows one leader; its last word, or nothing where it is gone."""
        part: FollowerCell | None = None
        try:
            for message in line.messages():
                if "cell" in message:
                    part = FollowerCell(self, line, WorkerSpec.from_json(message["cell"]))
                elif "over" in message:
                    if part is not None:
                        part.end(SECONDS_TO_END)
                else:
                    return message
            return {}
        except KeyboardInterrupt:
            self.workers.stop()  # it saves, together with the others
            if part is not None:
                part.over.wait()
            raise
        finally:
            if part is not None:
                part.end(0.0)


class FollowerCell:
    """A follower's part of one cell, run by a thread."""

    def __init__(self, follower: Follower, line: JsonConnection, spec: WorkerSpec):
        self.follower, self.line = follower, line
        self.ending, self.over = threading.Event(), threading.Event()
        threading.Thread(target=self._run, args=(spec,), daemon=True).start()

    def end(self, seconds: float) -> None:
        """Gives the process so long to end by itself, and returns when it has ended."""
        if not self.over.wait(seconds):
            self.ending.set()
            self.follower.workers.kill()
            self.over.wait()

    def _run(self, spec: WorkerSpec) -> None:
        try:
            how = self._told(spec)
        except Stopped:
            how = {"status": "failed", "error": "it is being stopped"}
        except (OSError, UsageError) as error:
            how = {"status": "failed", "error": str(error)}
        self.line.send({"ended": how})
        self.over.set()

    def _told(self, spec: WorkerSpec) -> Message:
        """Runs the process, and returns its status and error."""
        follower, name = self.follower, Path(spec.path).stem
        follower.tell(f"at {name}")
        log = follower.results / "logs" / f"{name}.process{follower.group.process}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        # Checkpoints, traces and logs are the leader's to write.
        train = dataclasses.replace(spec.train, checkpoints=None, profile=None, tensorboard=None, wandb=None)
        own_spec = dataclasses.replace(
            spec,
            entry=str(self._entry(spec).resolve()),
            compilation_cache=str((follower.data / "compiled").resolve()),
            train=train,
        )
        how: Message = {}
        with follower.workers.started(json.dumps(own_spec.to_json()), follower.env, log) as child:
            if self.ending.is_set():  # before there was a process to end
                kill_tree(child)
            for printed in child.stdout or ():
                how = json.loads(printed).get("ended", how)
            code = child.wait()
        return how or {"error": f"{exit_reason(code)}; see {log} there"}

    def _entry(self, spec: WorkerSpec) -> Path:
        """The cell's data in the cache here."""
        entry = self.follower.data / Path(spec.entry or "").name
        try:
            here = describe(entry)["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError):
            here = None
        if here != spec.record["data"]["fingerprint"]:
            raise UsageError(f"{entry} does not hold the leader's data: run prepare there, or share the folder")
        return entry
