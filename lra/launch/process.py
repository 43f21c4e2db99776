"""Worker processes: start, log, watchdog and end; their environment; the probe of the device."""

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
from lra.grid.cell import ModelSpec, ProbedMixer
from lra.launch.progress import Display
from lra.results.lease import Lease
from lra.results.provenance import ROOT

LOG_BYTES = 2**23
"""Bytes of a log that are kept from its start; of anything printed after them, the last `_TAIL_BYTES`."""
_TAIL_BYTES = 2**16
_SECONDS_TO_SAVE = 60.0


class Stopped(Exception):
    """The run is stopping, and the cell could not save."""


class LeaseLost(Exception):
    """Another run has taken the cell over and continues it."""


class WorkerProcesses:
    """The worker processes of this run that are running now."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopping = threading.Event()
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def start(self, spec: str, env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Starts a worker, which is killed at the end of the `with` block if it is still running.

        Args:
            spec: one line of JSON for its standard input (`WorkerSpec`).
            env: its environment.
            log: file for its standard error.

        Raises:
            Stopped: the run is stopping.
        """
        with self.lock:
            if self.stopping.is_set():
                raise Stopped
            file = open(log, "wb", buffering=0)  # noqa: SIM115 (closed by the thread that writes it)
            # In its own session, so that Ctrl-C reaches only the parent, which then ends the cell.
            worker = subprocess.Popen(
                [sys.executable, "-m", "lra.train.worker"],
                env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
            self.running.add(worker)
        assert worker.stdin and worker.stdout and worker.stderr
        pump = threading.Thread(target=pump_log, args=(worker.stderr.fileno(), file), daemon=True)
        pump.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # it has exited already
                worker.stdin.write(spec.encode() + b"\n")
                worker.stdin.flush()
            yield worker
        finally:
            kill_tree(worker)
            worker.wait()
            pump.join()
            with self.lock:
                self.running.remove(worker)
            for pipe in (worker.stdin, worker.stdout, worker.stderr):
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def stop(self) -> None:
        """Starts no more workers and asks the running ones to save and exit; after a minute they are killed."""
        with self.lock:
            self.stopping.set()
            for worker in self.running:
                worker.terminate()
        timer = threading.Timer(_SECONDS_TO_SAVE, self.kill)
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        """Kills all running workers."""
        with self.lock:
            for worker in self.running:
                kill_tree(worker)


@dataclasses.dataclass(frozen=True)
class WorkerContext:
    """The lease, run, display and device that a cell's process belongs to."""

    lease: Lease
    workers: WorkerProcesses
    display: Display
    env: Mapping[str, str]
    """Variables that select its device."""
    sharing: int = 1
    """Cells that may use its device at once."""


class Watchdog:
    """Kills a process that runs longer than `minutes`, or reports nothing for `silent_minutes`; None: no limit."""

    def __init__(self, kill: Callable[[], None], minutes: float | None, silent_minutes: float | None):
        self.kill, self.minutes, self.silent_minutes = kill, minutes, silent_minutes
        self.reason = ""
        """Why the process was killed; empty if it was not."""
        self.started = self.last_heartbeat = time.monotonic()
        self.stopped = threading.Event()
        if minutes is not None or silent_minutes is not None:
            threading.Thread(target=self._watch, daemon=True).start()

    def heartbeat(self) -> None:
        """Notes that the process has reported progress."""
        self.last_heartbeat = time.monotonic()

    def stop(self) -> None:
        """Stops watching: the process has ended, or will be ended in another way."""
        self.stopped.set()

    def _next_limit(self) -> tuple[float, str]:
        """The limit that is reached first: its time and the reason to give."""
        limits = []
        if self.minutes is not None:
            limits.append((self.started + 60 * self.minutes, f"stopped after {self.minutes:g} minutes"))
        if self.silent_minutes is not None:
            silent = f"stopped after {self.silent_minutes:g} minutes without progress"
            limits.append((self.last_heartbeat + 60 * self.silent_minutes, silent))
        return min(limits)

    def _watch(self) -> None:
        while (seconds_left := self._next_limit()[0] - time.monotonic()) > 0:
            if self.stopped.wait(seconds_left):
                return
        self.reason = self._next_limit()[1]
        self.kill()


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and its descendants, which would hold its pipes open."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def exit_reason(code: int) -> str:
    """How the process of a cell ended that left no record, from its exit code."""
    if code < 0:
        return f"the cell's process was ended by {signal.Signals(-code).name}"
    return f"the cell's process ended with exit code {code}"


def pump_log(pipe: int, log: BinaryIO) -> None:
    """Copies a pipe to a log file: the first `LOG_BYTES`, then only the end of the remainder.

    A file that cannot be written, as on a full disk, does not block the process that prints.
    """
    bytes_left, tail, printed = LOG_BYTES, b"", 0
    with log:
        while chunk := os.read(pipe, _TAIL_BYTES):
            printed += len(chunk)
            with contextlib.suppress(OSError):
                log.write(chunk[:bytes_left])
            tail = (tail + chunk[bytes_left:])[-_TAIL_BYTES:]
            bytes_left = max(0, bytes_left - len(chunk))
        with contextlib.suppress(OSError):
            if left_out := max(0, printed - LOG_BYTES - len(tail)):
                log.write(f"\n[{left_out:,} bytes left out]\n".encode())
            log.write(tail)


_MESSAGES = {"step", "warning", "ended", "device", "no_device", "models", "error"}
"""Fields of which each message of our processes has one."""


def message_of(line: str | bytes) -> dict[str, Any] | None:
    """A process's message, a JSON object on a line; None for anything else that has been printed as it started."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and message.keys() & _MESSAGES else None


PLATFORMS = {"auto": "", "cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
_CHANGE_NUMBERS = (
    "JAX_ENABLE_X64", "JAX_DEFAULT_DTYPE_BITS", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_DEFAULT_PRNG_IMPL",
    "JAX_THREEFRY_PARTITIONABLE", "JAX_RANDOM_SEED_OFFSET", "JAX_DISABLE_JIT", "NVIDIA_TF32_OVERRIDE",
)  # fmt: skip
"""Variables that would change a cell's numbers, but not its key."""
_REPEATABLE = "xla_gpu_exclude_nondeterministic_ops"
"""XLA's flag for GPU programs that give the same bits each time: no sums by atomic additions in arbitrary order.

Compilation still times several kernels and picks the fastest. The choice is kept in the compilation cache, so a run
that is resumed makes the same one.
"""

_HUGE_PAGES = "glibc.malloc.hugetlb"
"""glibc's setting by which a CPU's large arrays lie in huge pages, where the kernel lets programs ask for them.

A program's temporaries are allocated anew by every call, and small pages cost a fault for each 4 KB: on 2 cores
training steps of `fnet` took 1.4 to 1.6 times as long (docs/measuring.md).
"""


def environment(device: str) -> dict[str, str]:
    """The environment of a process that uses `device` ('auto', 'cpu', 'gpu' or 'tpu'), without `_CHANGE_NUMBERS`."""
    env = {name: value for name, value in os.environ.items() if name not in _CHANGE_NUMBERS}
    # A log takes any character, in whatever locale.
    env["PYTHONIOENCODING"] = "utf-8:backslashreplace"
    if device != "auto":
        env["JAX_PLATFORMS"] = PLATFORMS[device]
    if device != "cpu" and _REPEATABLE not in env.get("XLA_FLAGS", ""):
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} --{_REPEATABLE}=true".strip()
    if _HUGE_PAGES not in env.get("GLIBC_TUNABLES", ""):
        env["GLIBC_TUNABLES"] = ":".join(filter(None, [env.get("GLIBC_TUNABLES"), f"{_HUGE_PAGES}=1"]))
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
    env.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return env


def probe(device: str, models: Sequence[ModelSpec]) -> tuple[dict[str, Any], dict[ModelSpec, ProbedMixer]]:
    """Asks a separate process, which imports JAX, for the device's description and each model's mixer.

    Raises:
        UsageError: there is no such device, a mixer cannot be imported, or an option is wrong.
    """
    models = list(dict.fromkeys(models))
    request = json.dumps([[model.name, dict(model.options)] for model in models])
    answer = _describe(request, device)
    mixers = (ProbedMixer(**mixer) for mixer in answer["mixers"])
    return answer["device"], dict(zip(models, mixers, strict=True))


def mixer_details() -> list[dict[str, Any]]:
    """Every mixer's docstring and options."""
    details: list[dict[str, Any]] = _describe("details", "cpu")["models"]
    return details


def _describe(request: str, device: str) -> dict[str, Any]:
    """Runs `lra.train.describe` with `request` and returns its answer."""
    command = [sys.executable, "-m", "lra.train.describe", request]
    done = subprocess.run(
        command, env=environment(device), capture_output=True, encoding="utf-8", errors="backslashreplace"
    )
    answers = filter(None, map(message_of, reversed(done.stdout.splitlines())))
    answer = next(
        answers, {"error": f"the process that looks for devices and mixers failed: {_last_line(done.stderr)}"}
    )
    if "no_device" in answer:
        reason, install = answer["no_device"], f"; {_INSTALL[device]}" if device in _INSTALL else ""
        raise UsageError(f"JAX finds no device for --device={device}: {reason}{install}")
    if "error" in answer:
        raise UsageError(answer["error"])
    return answer


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


_INSTALL = {
    "gpu": "on Linux with an NVIDIA driver, pip install -e '.[gpu]' installs JAX for GPUs",
    "tpu": "on a TPU machine, pip install 'jax[tpu]' installs JAX for TPUs",
}
