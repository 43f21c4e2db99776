"""A grid on a Ray cluster: one task a cell, with the devices it needs; what it made comes home. Imports no JAX."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lra.launch import ROOT
from lra.recipe import UsageError

RETRIES = 3
"""How often a cell is tried again whose machine or worker has died."""
_BROUGHT_HOME = ("records/*.json", "logs/*.log", "grids/*.json")
_NO_CODE = [".git", ".venv", "/data", "/results", "/leaderboard", "/tests", "/build"]
_DIES_WITH_ITS_WORKER = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM);"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)

Files = dict[str, bytes]


def run(
    lines: Sequence[Sequence[str]], results: Path, device: str, devices: int, address: str | None, again: bool
) -> int:
    """Runs command lines on a cluster, each with so many `devices`; on CPUs, each with a machine's cores.

    A cell's records go with it unless it is to be run `again`. Returns how many command lines failed, and prints why.

    Raises:
        UsageError: Ray is not installed, there is no cluster at the address, or it has not enough devices.
    """
    try:
        import ray
    except ImportError:
        raise UsageError("--launcher=ray needs Ray: pip install -e '.[cluster]'") from None
    try:
        code = {"working_dir": str(ROOT), "excludes": _NO_CODE}
        ray.init(address=address, runtime_env=code, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"--ray_address={address}: {str(error).splitlines()[0]}") from None
    failed = 0
    try:
        needs = _needs([node["Resources"] for node in ray.nodes() if node["Alive"]], device, devices)
        task = ray.remote(_run_there).options(max_retries=RETRIES, **needs)
        known = _files(results, ("records/*.json",)) if not again else {}
        waiting = {task.remote(list(line), known): line for line in lines}
        print(f"{len(lines)} cells on {len(ray.nodes())} machines", flush=True)
        while waiting:
            ((ready,), _) = ray.wait(list(waiting), num_returns=1)
            line = waiting.pop(ready)
            try:
                code_, told, files = ray.get(ready)
            except ray.exceptions.RayError as error:
                code_, told, files = 1, str(error).splitlines()[0], {}
            _write(results, files)
            failed += bool(code_)
            print(told or f"failed: {' '.join(line)}", flush=True)
    finally:
        ray.shutdown()
    return failed


def _needs(nodes: Sequence[dict[str, float]], device: str, devices: int) -> dict[str, float]:
    """What a task asks Ray for. Raises `UsageError` where no machine has it."""
    gpus = max((node.get("GPU", 0) for node in nodes), default=0)
    if device == "gpu" or (device == "auto" and gpus):
        if gpus < devices:
            raise UsageError(f"--launcher=ray: no machine of the cluster has {devices} GPUs")
        return {"num_gpus": devices}
    return {"num_cpus": min(node["CPU"] for node in nodes if node.get("CPU"))}


def _run_there(line: list[str], known: Files) -> tuple[int, str, Files]:
    """Runs a command line on the machine that this is called on; returns its exit code, last words and files.

    Its folder has a name of its own, so that a second try on the same machine goes on from the checkpoint.
    """
    folder = Path(tempfile.gettempdir()) / f"lra-{os.getuid()}-{hashlib.sha256(repr(line).encode()).hexdigest()[:16]}"
    _write(folder, {name: content for name, content in known.items() if not (folder / name).exists()})
    places = [f"--results={folder}", f"--out={folder}/leaderboard"]
    done = subprocess.run(
        [sys.executable, "-c", _DIES_WITH_ITS_WORKER, "run.py", *line, *places],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    cells = [words for words in done.stdout.splitlines() if words.startswith("[")]
    files = {name: content for name, content in _files(folder, _BROUGHT_HOME).items() if known.get(name) != content}
    if not any((folder / "checkpoints").glob("*")):
        shutil.rmtree(folder)
    return done.returncode, "\n".join([*cells, done.stderr.strip()]).strip(), files


def _files(folder: Path, patterns: Sequence[str]) -> Files:
    return {str(file.relative_to(folder)): file.read_bytes() for p in patterns for file in folder.glob(p)}


def _write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_bytes(content)
        os.replace(beside, path)
