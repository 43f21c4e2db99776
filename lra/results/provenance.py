"""Provenance of records: commit, command line and package versions; the record of a cell that has not run yet."""

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
    """The suite's commit and this process's command line, as fields of a record."""
    return {"commit": commit(), "command": shlex.join(["python", *sys.argv])}


def commit() -> str | None:
    """The suite's commit, with '+changes' if the working tree differs from it; None if it is unknown.

    $LRA_COMMIT names it for a copy without its repository, as in a container.
    """
    if given := os.environ.get("LRA_COMMIT"):
        return given
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
    """The record of a cell that has not run yet, with status 'failed'."""
    plan = cell.plan
    return {
        "schema": records.SCHEMA,
        "status": "failed",
        "error": "",
        "key": cell.key,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cell": {
            "task": plan.task,
            "model": str(plan.model),
            "mixer": plan.model.name,
            "length": plan.length,
            "protocol": plan.protocol,
            "seeds": list(plan.seeds),
            "accelerator": cell.accelerator,
        },
        "recipe": dataclasses.asdict(plan.recipe),
        "overrides": list(plan.overrides),
        "data": {
            name: cell.data[name] for name in ("source", "fingerprint", "task_version", "counts", "majority", "notes")
        },
        "code": plan.code.to_json(),
        **origin,
        "results": [],
        **cell.limits,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}
