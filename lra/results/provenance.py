"""Provenance of records: commit, command line and package versions; the record of a cell that has not run yet."""

from __future__ import annotations

import dataclasses
import datetime
import json
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
    program = ["lra"] if Path(sys.argv[0]).name == "lra" else ["python", sys.argv[0]]  # installed, it has a long path
    return {"commit": commit(), "command": shlex.join([*program, *sys.argv[1:]])}


def commit() -> str | None:
    """The suite's commit, with '+changes' if the working tree differs from it; None if it is unknown.

    $LRA_COMMIT names it for a copy without its repository, as in a container. A copy within another repository does not
    have that repository's commit, but an installed one may have its own in its metadata.
    """
    return os.environ.get("LRA_COMMIT") or _commit_of_repository() or _commit_installed()


def _commit_of_repository() -> str | None:
    top, head = _git("rev-parse", "--show-toplevel"), _git("rev-parse", "HEAD")
    if not top or not head or Path(top).resolve() != ROOT:
        return None
    return head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    """What git prints about the suite's folder; None without git or outside a repository."""
    # A hook's variables would name another repository.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, encoding="utf-8", errors="replace", env=env,
            timeout=_GIT_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.strip()


_GIT_SECONDS = 20


def _commit_installed() -> str | None:
    """The commit that pip noted when it installed this code from a repository (PEP 610)."""
    try:
        installed = metadata.distribution("lra-suite")
        noted = json.loads(installed.read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return None
    if Path(str(installed.locate_file(""))).resolve() != ROOT:
        return None
    found: str | None = noted.get("vcs_info", {}).get("commit_id")
    return found


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
        "evaluated": plan.recipe.train.evaluated(cell.data["counts"]),
        "code": plan.code.to_json(),
        **origin,
        **({"tuning": dict(cell.choice)} if cell.choice else {}),
        "results": [],
        **cell.limits,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}
