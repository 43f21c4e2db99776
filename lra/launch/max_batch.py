"""Search for the largest batch with which a cell fits into memory; each trial runs in its own process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from lra.grid.cell import Cell
from lra.results.records import Record


class _Failed(Exception):
    """A trial failed for a reason other than memory or time, so trying other batches is pointless."""


def search(cell: Cell, run: Callable[[Cell], Record]) -> Record:
    """Measures a cell at the largest batch that fits, searching from its recipe's batch; returns that record.

    The record lists the search in `trials`: batch, status and error of each. A trial that runs out of time counts as
    one that does not fit. If not even a batch of 1 fits, the record is that of a batch of 1.

    Args:
        run: runs a cell and returns its record.
    """
    trials: list[dict[str, Any]] = []

    def fits(batch: int) -> bool:
        record = run(_with_batch(cell, batch, {"trial": True}))
        trials.append({"batch": batch, "status": record["status"], "error": record["error"]})
        if record["status"] == "failed":
            raise _Failed
        return bool(record["status"] == "ok")

    train = cell.plan.recipe.train
    try:
        batch = find_largest(train.batch, fits, (2**32 - 1) // train.steps)
    except _Failed:
        batch = 0
    record = run(_with_batch(cell, batch or trials[-1]["batch"], {}))
    return record | {"trials": trials}


def find_largest(start: int, fits: Callable[[int], bool], limit: int) -> int:
    """Finds the largest number that fits, to within an eighth of it; 0 if 1 does not fit.

    Doubles from `start`, or halves if `start` does not fit, and then bisects. Nothing above `limit` is tried.

    Args:
        start: the first number to try.
        fits: whether a number fits; if one does, all smaller ones do.
        limit: the largest number to try.
    """
    low, high = 0, start
    while low < limit and fits(high):
        low, high = high, min(2 * high, limit)
    if low >= limit:
        return low
    while low == 0 and high > 1:
        half = high // 2
        low, high = (half, high) if fits(half) else (0, half)
    while high - low > max(1, low // 8) and low:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _with_batch(cell: Cell, batch: int, extra_bounds: dict[str, Any]) -> Cell:
    recipe = cell.plan.recipe
    changed = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, batch=batch))
    plan = dataclasses.replace(cell.plan, recipe=changed)
    return dataclasses.replace(cell, plan=plan, limits={**cell.limits, **extra_bounds})
