"""Worker processes: their environment, start, log, watchdog and end; the probe of the device."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from lra.errors import UsageError
from lra.grid.cell import ModelSpec
from lra.launch.progress import Display
from lra.results.lease import Lease
from lra.results.provenance import ROOT

LOG_BYTES = 2**23
"""Most of a log's beginning that is kept; of what a cell prints after it, the end is."""
_END_BYTES = 2**16
_SECONDS_TO_SAVE = 60.0


class Stopped(Exception):
    """The run is being stopped, and the cell could not save."""


class LeaseLost(Exception):
    """Another run has taken the cell over, and goes on with it."""


class WorkerProcesses:
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
                [sys.executable, "-m", "lra.train.worker"],
                env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
            self.running.add(child)
        assert child.stdin and child.stdout and child.stderr
        pump = threading.Thread(target=pump_log, args=(child.stderr.fileno(), file), daemon=True)
        pump.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                child.stdin.write(spec.encode() + b"\n")
                child.stdin.flush()
            yield child
        finally:
            kill_tree(child)
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
                kill_tree(child)


def kill_tree(child: subprocess.Popen[bytes]) -> None:
    """Kills a process and those it started, which would hold its pipes open."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def exit_reason(code: int) -> str:
    """How a cell's process ended that left no record."""
    if code < 0:
        return f"the cell's process was ended by {signal.Signals(-code).name}"
    return f"the cell's process ended with exit code {code}"


def pump_log(pipe: int, log: BinaryIO) -> None:
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
class WorkerContext:
    """Where a cell runs and who looks on."""

    lease: Lease
    workers: WorkerProcesses
    display: Display
    env: Mapping[str, str]
    """What its process needs to know of its device."""
    sharing: int = 1
    """Cells that may be on its device at once."""


class Watchdog:
    """Ends a process that is still there after so many minutes, or silent for so many; None sets no limit."""

    def __init__(self, end: Callable[[], None], minutes: float | None, silent_minutes: float | None):
        self.end, self.minutes, self.silent_minutes = end, minutes, silent_minutes
        self.reason = ""
        """Why the process was ended."""
        self.started = self.heard = time.monotonic()
        self.over = threading.Event()
        if minutes is not None or silent_minutes is not None:
            threading.Thread(target=self._watch, daemon=True).start()

    def heartbeat(self) -> None:
        """The process gave a sign of life."""
        self.heard = time.monotonic()

    def stop(self) -> None:
        """The process has ended, or is going to be ended otherwise."""
        self.over.set()

    def _soonest(self) -> tuple[float, str]:
        ends = []
        if self.minutes is not None:
            ends.append((self.started + 60 * self.minutes, f"stopped after {self.minutes:g} minutes"))
        if self.silent_minutes is not None:
            silent = f"stopped after {self.silent_minutes:g} minutes without progress"
            ends.append((self.heard + 60 * self.silent_minutes, silent))
        return min(ends)

    def _watch(self) -> None:
        while (left := self._soonest()[0] - time.monotonic()) > 0:
            if self.over.wait(left):
                return
        self.reason = self._soonest()[1]
        self.end()


PLATFORMS = {"auto": "", "cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
_REPEATABLE = "xla_gpu_exclude_nondeterministic_ops"
"""XLA's switch for GPU programs that give the same bits each time: no sums by atomic additions in any order.

Which of several kernels is the fastest is still measured when compiling; the choice is kept in the compilation cache,
so a run that goes on makes the same one.
"""


def environment(device: str) -> dict[str, str]:
    """The environment of a process that is to use `device`."""
    env = dict(os.environ)
    if device != "auto":
        env["JAX_PLATFORMS"] = PLATFORMS[device]
    if device != "cpu" and _REPEATABLE not in env.get("XLA_FLAGS", ""):
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} --{_REPEATABLE}=true".strip()
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
    env.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return env


def probe(device: str, models: Sequence[ModelSpec]) -> tuple[dict[str, Any], dict[ModelSpec, dict[str, Any]]]:
    """What the device is and the models' options with their types, asked of a process of its own.

    Raises:
        UsageError: there is no such device, a mixer cannot be imported, or an option is wrong.
    """
    models = list(dict.fromkeys(models))
    asked = json.dumps([[model.name, dict(model.options)] for model in models])
    answer = _ask(asked, device)
    return answer["device"], dict(zip(models, answer["options"], strict=True))


def mixer_details() -> list[dict[str, Any]]:
    """Every mixer's docstring and options."""
    found: list[dict[str, Any]] = _ask("details", "cpu")["models"]
    return found


def _ask(what: str, device: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "lra.train.describe", what]
    done = subprocess.run(command, env=environment(device), capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UsageError(f"JAX finds no device for --device={device}: {last}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise UsageError(answer["error"])
    return answer
