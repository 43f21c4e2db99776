"""What a tuned cell's record says of its trials, and how rows and pages put it."""

from __future__ import annotations

from typing import Any

from lra.report.charts import counted
from lra.results.records import Record


def budget(record: Record) -> int:
    """Number of trials among which the record's settings were chosen; 0 if they were not tuned."""
    return len(_tuning(record).get("trials", []))


def budget_text(trials: int) -> str:
    """'tuned (8 trials)'."""
    return f"tuned ({counted(trials, 'trial')})"


def sweep_text(record: Record) -> str:
    """'tuned: optimizer.learning_rate=1e-4..1e-2:log'; empty if nothing was tuned."""
    words = " ".join(_tuning(record).get("sweep", []))
    return f"tuned: {words}" if words else ""


def swept(record: Record) -> set[str]:
    """The settings that were tuned, as 'section.field'."""
    return {word.partition("=")[0] for word in _tuning(record).get("sweep", [])}


def chosen(record: Record) -> list[str]:
    """The settings that were chosen, as 'section.field=value'; none if no trial has a score."""
    tuning = _tuning(record)
    place = tuning.get("chosen")
    return [] if place is None else list(tuning["trials"][place]["settings"])


def lines(record: Record) -> list[str]:
    """A line a trial: its settings, and its validation accuracy or why it has none."""
    tuning = _tuning(record)
    return [
        f"{' '.join(trial['settings'])}: {_outcome(trial)}{', chosen' if place == tuning.get('chosen') else ''}"
        for place, trial in enumerate(tuning.get("trials", []))
    ]


def _outcome(trial: dict[str, Any]) -> str:
    score = trial.get("validation_best")
    return f"validation {100 * score:.2f} %" if trial["status"] == "ok" and score is not None else str(trial["status"])


def _tuning(record: Record) -> dict[str, Any]:
    return record.get("tuning") or {}
