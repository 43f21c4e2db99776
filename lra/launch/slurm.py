"""A grid on other machines: one command a cell; submitted to Slurm as an array job. Imports no JAX.

What a cell's device is, only the machine that runs it can tell: each command makes its own cell, finds out whether
that is finished, and takes its lease in the results folder, which all machines share.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lra.errors import UsageError
from lra.grid.cell import Plan
from lra.results.provenance import ROOT


def build_commands(plans: Sequence[Plan], together: bool, arguments: Sequence[str]) -> list[list[str]]:
    """A command line (after run.py) a cell: the run's `arguments` but for what the grid says; seeds `together` or not.

    A later flag stands over an earlier one, so the cell's own come last.
    """
    seeds: dict[tuple[Any, ...], list[int]] = {}
    for p in plans:
        one = (p.task, str(p.model), p.length)
        seeds.setdefault(one if together else (*one, p.seeds), []).extend(p.seeds)
    return [
        [
            "run", *arguments, f"--tasks={task}", f"--models={model}",
            f"--lengths={length}", f"--seeds={','.join(map(str, of))}", "--launcher=local", "--jobs=1",
        ]
        for (task, model, length, *_), of in seeds.items()
    ]  # fmt: skip


def parse_settings(words: Sequence[str]) -> dict[str, int | str]:
    """submitit's parameters from 'name=value'. Raises `UsageError`."""
    found: dict[str, int | str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise UsageError(f"--slurm takes name=value, not '{word}'")
        found[name] = int(value) if value.isdigit() else value
    return found


def submit(
    lines: Sequence[Sequence[str]], folder: Path, parameters: dict[str, int | str], cluster: str = "slurm"
) -> list[Any]:
    """Submits command lines as one array job; its scripts and logs lie in `folder`. Returns submitit's jobs.

    Raises:
        UsageError: submitit is not installed, there is no such cluster here, or it does not take the parameters.
    """
    try:
        import submitit
    except ImportError:
        raise UsageError("--launcher=slurm needs submitit: pip install -e '.[cluster]'") from None
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(name="lra", **parameters)
        with executor.batch():
            run = [sys.executable, str(ROOT / "run.py")]
            return [executor.submit(submitit.helpers.CommandFunction([*run, *line])) for line in lines]
    except (RuntimeError, NameError, OSError, submitit.core.utils.FailedSubmissionError) as error:
        raise UsageError(f"--launcher=slurm: {str(error).splitlines()[0]}") from None
