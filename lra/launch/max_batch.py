"""The largest batch with which a cell fits into memory, each trial in a process of its own. Imports no JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from lra.grid.cell import Cell
from lra.results.records import Record


class _Failed(Exception):
    """A trial ended for another reason than memory or time, so no larger or smaller batch can tell more."""


def search(cell: Cell, run: Callable[[Cell], Record]) -> Record:
    """The record of the measurement at the largest batch that fits, found from the recipe's batch.

    `run` runs a cell and returns its record. The record has every trial in `trials`: batch, status, error. A trial
    that runs out of time counts as one that does not fit. Where not even a batch of 1 fits, the record is that
    trial's.
    """
    trials: list[dict[str, Any]] = []

    def fits(batch: int) -> bool:
        record = run(_at(cell, batch, {"trial": True}))
        trials.append({"batch": batch, "status": record["status"], "error": record["error"]})
        if record["status"] == "failed":
            raise _Failed
        return bool(record["status"] == "ok")

    train = cell.plan.recipe.train
    try:
        batch = largest(train.batch, fits, (2**32 - 1) // train.steps)
    except _Failed:
        batch = 0
    record = run(_at(cell, batch or trials[-1]["batch"], {}))
    return record | {"trials": trials}


def _at(cell: Cell, batch: int, more: dict[str, Any]) -> Cell:
    recipe = cell.plan.recipe
    changed = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, batch=batch))
    plan = dataclasses.replace(cell.plan, recipe=changed)
    return dataclasses.replace(cell, plan=plan, limits={**cell.limits, **more})


def largest(start: int, fits: Callable[[int], bool], most: int) -> int:
    """The largest number that fits, to within an eighth of it; 0 where 1 does not.

    From `start` by doubling, or by halving where `start` does not fit, then by bisection. None above `most` is tried.
    """
    low, high = 0, start
    while low < most and fits(high):
        low, high = high, min(2 * high, most)
    if low >= most:
        return low
    while low == 0 and high > 1:
        half = high // 2
        low, high = (half, high) if fits(half) else (0, half)
    while high - low > max(1, low // 8) and low:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
