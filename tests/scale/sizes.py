"""Memory and disk of one cell, measured while it runs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.helpers.cli import ROOT
from tests.soak.seen import Run

CELL = ["--tasks=listops_short", "--models=fnet", "--set=train.steps=300", "--set=train.eval_every=25",
        "--checkpoint_minutes=0", "--device=cpu"]  # fmt: skip
"""Of the quick protocol, with its own data."""


def peak(pid: int) -> int:
    """The most memory that a process has had, bytes; 0 where it has ended."""
    try:
        peak_line = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(peak_line[1]) * 1024 if peak_line else 0


def on_disk(folder: Path) -> int:
    """Bytes of all files under a folder, from which files and folders may vanish meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.path.getsize(os.path.join(place, name))
    return total


def measure() -> dict[str, int]:
    """Runs the cell and returns bytes by name."""
    folder = Path(tempfile.mkdtemp(prefix="sizes-"))
    places = [f"--data={folder}/data", f"--results={folder}/results", f"--out={folder}/out"]
    command = [sys.executable, "run.py", "run", *CELL, *places]
    sizes: dict[str, int] = {}

    def most(name: str, value: int) -> None:
        sizes[name] = max(sizes.get(name, 0), value)

    run = Run(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ, text=True))
    while run.alive:
        most("the run's process, memory", peak(run.pid))
        for pid in run.cells():
            most("the cell's process, memory", peak(pid))
        most("checkpoints while it trains (two, and one being written)", on_disk(folder / "results" / "checkpoints"))
        time.sleep(0.05)
    if run.process.returncode:
        raise RuntimeError(f"{command} ended with exit code {run.process.returncode}")
    results, data = folder / "results", folder / "data"
    sizes["record"] = on_disk(results / "records")
    sizes["log"] = on_disk(results / "logs")
    sizes["data, once for all cells of a task and length"] = sum(
        on_disk(entry) for entry in data.iterdir() if entry.is_dir() and entry.name != "compiled"
    )
    sizes["compiled programs, once for all seeds of a model"] = on_disk(data / "compiled")
    shutil.rmtree(folder)
    return sizes
