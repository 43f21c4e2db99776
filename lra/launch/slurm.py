"""Slurm launcher: one command per cell, submitted as one array job.

Only the machine that runs a cell knows its device, so each command expands its own cell there, checks whether it is
finished, and takes its lease in the results folder, which all machines share.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lra.errors import UsageError
from lra.grid.cell import Plan
from lra.results.provenance import ROOT


def build_commands(plans: Sequence[Plan], group_seeds: bool, arguments: Sequence[str]) -> list[list[str]]:
    """Builds one command line per cell, or per tuned model, task and length: the words after `run.py`.

    Args:
        group_seeds: whether seeds that differ in nothing else share a command.
        arguments: of the whole run, without the flags that each cell has of its own.
    """
    seeds_by_cell: dict[tuple[Any, ...], list[int]] = {}
    for p in plans:
        key = (p.task, str(p.model), p.length)
        # Trials train on the first seed of all, so the seeds of a tuned cell cannot be told apart.
        together = group_seeds or p.tuning is not None
        seeds_by_cell.setdefault(key if together else (*key, p.seeds), []).extend(p.seeds)
    return [
        [
            "run", *arguments, f"--tasks={task}", f"--models={model}",
            f"--lengths={length}", f"--seeds={','.join(map(str, seeds))}", "--launcher=local", "--jobs=1",
        ]
        for (task, model, length, *_), seeds in seeds_by_cell.items()
    ]  # fmt: skip


def parse_settings(assignments: Sequence[str]) -> dict[str, int | str]:
    """Parses submitit's parameters from 'name=value'. Raises `UsageError`."""
    settings: dict[str, int | str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not name or not equals:
            raise UsageError(f"--slurm takes name=value, not '{assignment}'")
        settings[name] = int(value) if value.isdigit() else value
    return settings


def submit(
    commands: Sequence[Sequence[str]], folder: Path, settings: dict[str, int | str], cluster: str = "slurm"
) -> list[Any]:
    """Submits commands as one array job.

    Args:
        commands: the words after `run.py`, one list per job.
        folder: for submitit's scripts and logs.
        settings: submitit's parameters.
        cluster: submitit's name for the kind of cluster; 'local' runs the jobs here.

    Returns:
        submitit's jobs.

    Raises:
        UsageError: submitit is not installed, there is no such cluster here, or it rejects the settings.
    """
    try:
        import submitit
    except ImportError:
        raise UsageError("--launcher=slurm needs submitit: pip install -e '.[cluster]'") from None
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(name="lra", **settings)
        with executor.batch():
            # An installed suite has no run.py.
            program = ROOT / "run.py"
            run = [sys.executable, *([str(program)] if program.exists() else ["-m", "lra"])]
            return [executor.submit(submitit.helpers.CommandFunction([*run, *command])) for command in commands]
    except (RuntimeError, NameError, OSError, submitit.core.utils.FailedSubmissionError) as error:
        raise UsageError(f"--launcher=slurm: {str(error).splitlines()[0]}") from None
