"""The command line, in this process or in one of its own, and what it leaves behind."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from lra.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "--set=train.steps=6", "--set=train.eval_every=3", "--set=train.batch=8", "--set=encoder.dim=8",
    "--set=encoder.qkv=8", "--set=encoder.mlp=8", "--set=encoder.layers=1", "--set=data.train=64",
    "--set=data.validation=20", "--set=data.test=20", "--workers=1", "--device=cpu",
]  # fmt: skip
"""Options that make a cell of the quick protocol last some seconds."""
SHARED = "LRA_TESTS"
"""The environment variable with the folder that all tests of a run share (tests/conftest.py)."""
allowed = True
"""Whether the test that runs is marked as one that starts processes of the command line."""


def _quick(arguments: tuple[str, ...]) -> list[str]:
    """The arguments; unless a test asks for it, no cell measures how far its model looks, which takes seconds."""
    verb = arguments[:1] == ("run",)
    runs = verb or not arguments or arguments[0].startswith("--")
    if not runs or any(word in arguments for word in ("--reach", "--noreach", "--help", "--version")):
        return [*arguments]
    return [*arguments[:verb], "--noreach", *arguments[verb:]]


def call(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs a command line in this process, which spares the start of one; cells have their own all the same."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(_quick(arguments))
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def cli(*arguments: str, cwd: Path = ROOT, **more: Any) -> subprocess.CompletedProcess[str]:
    """Runs `run.py` to its end."""
    assert allowed, "the marker `process` is missing"
    command = [sys.executable, str(ROOT / "run.py"), *_quick(arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, **more)


def start(*arguments: str, cwd: Path = ROOT, **more: Any) -> subprocess.Popen[str]:
    """Starts `run.py`."""
    assert allowed, "the marker `process` is missing"
    command = [sys.executable, str(ROOT / "run.py"), *_quick(arguments)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


_WITHOUT_JAX = """
import sys
from lra.cli.main import main

for line in sys.argv[1:]:
    assert main(line.split()) == 0
    print("--- end")
assert "jax" not in sys.modules
"""


def without_jax(*lines: str, cwd: Path = ROOT) -> list[str]:
    """Runs command lines in one process, which must not import JAX; returns what each printed."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_JAX, *lines], cwd=cwd, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split("--- end\n")[:-1]


def places(folder: Path) -> list[str]:
    """The options that keep what a command writes below a folder, but for what all tests share: data and programs."""
    return [f"--data={os.environ[SHARED]}/data", *outputs(folder)]


def outputs(folder: Path) -> list[str]:
    """The options that keep results below a folder."""
    return [f"--results={folder}/results", f"--out={folder}/out"]


def record_files(folder: Path) -> list[Path]:
    return sorted((folder / "results" / "records").glob("*.json"))


def saved_records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in record_files(folder)]


def only_record(folder: Path) -> dict[str, Any]:
    (record,) = saved_records(folder)
    return record


def checkpoints(folder: Path) -> list[int]:
    """The steps of all checkpoints in a results folder."""
    found = (folder / "results" / "checkpoints").glob("*/*")
    return sorted(int(path.name) for path in found if path.name.isdigit())


def children_of(pid: int) -> list[int]:
    """The processes that any thread of a process has started."""
    found: list[str] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += file.read_text().split()
    return [int(pid) for pid in found]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
