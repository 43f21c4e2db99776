"""Where a record comes from: commit, command line, package versions; a record's first fields."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from lra.grid.cell import Cell
from lra.results import records

ROOT = Path(__file__).resolve().parent.parent.parent


def current_origin() -> dict[str, Any]:
    """The suite's commit and this process's command line, as records have them."""
    return {"commit": commit(), "command": shlex.join(["python", *sys.argv])}


def commit() -> str | None:
    """The suite's commit, with '+changes' where the working tree differs from it; None where nothing says.

    A copy without its repository, as in a container, can be told by $LRA_COMMIT.
    """
    if told := os.environ.get("LRA_COMMIT"):
        return told
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    except OSError:  # no git
        return None
    if head.returncode:
        return None
    changes = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True)
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def initial_record(cell: Cell, origin: Mapping[str, Any]) -> records.Record:
    """What is known of a record before the cell runs; its status is 'failed' until it is known better."""
    p = cell.plan
    return {
        "schema": records.SCHEMA,
        "status": "failed",
        "error": "",
        "key": cell.key,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cell": {
            "task": p.task,
            "model": str(p.model),
            "mixer": p.model.name,
            "length": p.length,
            "protocol": p.protocol,
            "seeds": list(p.seeds),
            "accelerator": cell.accelerator,
        },
        "recipe": dataclasses.asdict(p.recipe),
        "overrides": list(p.overrides),
        "data": {
            name: cell.data[name] for name in ("source", "fingerprint", "task_version", "counts", "majority", "notes")
        },
        **origin,
        "results": [],
        **cell.limits,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("jax", "jaxlib", "flax", "optax", "numpy"):
        found[name] = metadata.version(name)
    return found
