"""The data that cells need: prepared in the cache where they are missing, and named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lra.grid.cell import Plan
from lra.grid.spec import DataOptions
from tasks import TASKS, Task
from tasks.io.cache import describe, prepare, summary


def prepare_data(
    plans: Sequence[Plan], cache: Path, sources: DataOptions, report: Callable[[str], None]
) -> dict[Plan, Path]:
    """Prepares the plans' data where it is missing from the cache.

    Args:
        plans: the plans that need data.
        cache: folder of the data cache.
        sources: where the data comes from.
        report: receives a line for each step of the preparation.

    Returns:
        Each plan's folder in the cache.

    Raises:
        tasks.DataError: no source has the data, or it is damaged.
    """
    entries: dict[Any, Path] = {}
    for plan in plans:
        data = (plan.task, plan.length, plan.recipe.data)
        if data not in entries:
            task: Task = TASKS[plan.task]
            entries[data] = prepare(
                task, plan.length, 0, sources.source, rules=plan.recipe.data, cache=cache, workers=sources.workers,
                report=lambda line, name=plan.task: report(f"{name}: {line}"),  # type: ignore[misc]
                source_dir=sources.source_dir, allow_unverified=sources.allow_unverified,
            )  # fmt: skip
    return {plan: entries[plan.task, plan.length, plan.recipe.data] for plan in plans}


def report_data(entries: Mapping[Plan, Path], report: Callable[[str], None]) -> None:
    """Names the copies of real data that cells are trained on, with their notes, such as expressions that are cut."""
    named = {entry: f"{plan.task}, length {plan.length:,}" for plan, entry in entries.items()}
    for entry, data in named.items():
        contents = describe(entry)
        if contents["notes"] or contents["settings"]["source"]["kind"] != "generate":
            report_entry(data, entry, report)


def report_entry(data: str, entry: Path, report: Callable[[str], None]) -> None:
    """Names one copy of a task's data, with its notes."""
    report(f"{data}: {summary(entry)}")
    for note in describe(entry)["notes"]:
        report(f"  {note}")
