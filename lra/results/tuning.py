"""Tuned cells: which of their trials is best on validation, and what their record says of all of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lra.errors import UsageError
from lra.grid.cell import Cell
from lra.results import provenance, records
from lra.results.folder import is_finished, record_path


def unfinished_trials(cell: Cell, results: Path) -> list[Cell]:
    """A cell's trials that have no result yet. Raises `UsageError` if a record cannot be read now."""
    return [trial for trial in cell.trials if not is_finished(results, trial)]


def choose(cell: Cell, results: Path) -> Cell:
    """A tuned cell with the settings of the trial that is best on validation, of equals the earliest.

    If no trial has a score, the cell's choice has `chosen` None.

    Args:
        cell: a tuned cell, all of whose trials are finished.
        results: the results folder.

    Raises:
        UsageError: a trial's record cannot be read now.
    """
    assert cell.plan.tuning
    tried = [_summary(trial, results) for trial in cell.trials]
    scores = [trial["validation_best"] if trial["status"] == "ok" else None for trial in tried]
    best = max((score for score in scores if score is not None), default=None)
    chosen = None if best is None else scores.index(best)
    choice = {
        "sweep": list(cell.plan.tuning.sweep), "seed": cell.plan.tuning.seed, "trials": tried, "chosen": chosen,
    }  # fmt: skip
    return apply(cell, choice)


def apply(cell: Cell, choice: Mapping[str, Any]) -> Cell:
    """A tuned cell with the settings that were chosen among its trials.

    On the trials' seed it continues the chosen one, so that nothing is trained twice and the test split is scored once.
    """
    if choice["chosen"] is None:
        return dataclasses.replace(cell, trials=(), choice=choice)
    winner = cell.trials[choice["chosen"]]
    plan = dataclasses.replace(cell.plan, recipe=winner.plan.recipe, code=winner.plan.code)
    return dataclasses.replace(cell, plan=plan, trials=(), choice=choice, continues=winner if plan.continues else None)


def _summary(trial: Cell, results: Path) -> dict[str, Any]:
    """A trial as the record of its cell holds it."""
    try:
        record = records.read(record_path(results, trial))
    except ValueError as problem:
        raise UsageError(f"{problem}: run again, and this trial is repeated") from None
    (result,) = record.get("results") or [{}]
    return {
        "settings": list(trial.plan.trial),
        "status": record["status"],
        "error": record.get("error") or "",
        **{name: result.get(name) for name in ("steps", "best_step", "validation_best", "validation_last")},
        "wall_seconds": record.get("wall_seconds"),
        "key": record["key"],
    }


def record_without_choice(cell: Cell, origin: Mapping[str, Any]) -> records.Record:
    """The record of a tuned cell none of whose trials has a score: all diverged, or did not fit into memory."""
    assert cell.choice
    counts = Counter(trial["status"] for trial in cell.choice["trials"])
    words = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    status = "diverged" if counts["diverged"] else "oom"
    return provenance.initial_record(cell, origin) | {
        "status": status, "error": f"no trial has a score: {words}",
    }  # fmt: skip
