"""A cell: one task, model, length, protocol and set of seeds on one kind of device; its key and name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.recipe import Recipe


@dataclass(frozen=True)
class ModelSpec:
    """A model as asked for on the command line: 'performer:features=64,kernel=softmax', or 'package.module:Class'."""

    name: str
    """In `models.MIXERS`, or the place of a class."""
    options: tuple[tuple[str, str], ...] = ()
    """The mixer's own options, as texts."""

    def __str__(self) -> str:
        return self.name + (":" + ",".join(f"{k}={v}" for k, v in self.options) if self.options else "")


@dataclass(frozen=True)
class Plan:
    """A cell that has been asked for, before its data and device are known."""

    task: str
    model: ModelSpec
    length: int
    protocol: str
    seeds: tuple[int, ...]
    """One seed, or several that train together."""
    recipe: Recipe
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """A cell that can run: its data lies in the cache and its device is known."""

    plan: Plan
    entry: Path | None
    """The data's folder in the cache; None for a measurement on random tokens."""
    data: dict[str, Any]
    """What is known of the data: source, counts, fingerprint, notes."""
    accelerator: str
    """What it runs on, by `accelerator_name`."""
    key: str
    """sha-256 of everything that decides the result."""
    bounds: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of the record that bound a measurement: `memory_limit_bytes`, `max_batch`."""
    single: Cell | None = None
    """Where several processes are to train it: the same cell for one."""

    @property
    def single_process(self) -> Cell:
        """The same cell for one process. Its checkpoint and lease are for any number of them."""
        return self.single or self

    @property
    def name(self) -> str:
        """The record's file name without its ending: readable, and unique by the key."""
        p = self.plan
        seeds = "s" + "_".join(map(str, p.seeds))
        words = [p.task, str(p.model), f"L{p.length}", p.protocol, seeds, self.accelerator]
        return "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", w) for w in words) + "-" + self.key[:10]


def split_seeds(cell: Cell) -> list[Cell]:
    """A cell for each seed of a cell."""
    plans = [dataclasses.replace(cell.plan, seeds=(seed,)) for seed in cell.plan.seeds]
    of = split_seeds(cell.single) if cell.single else [None] * len(plans)
    return [
        dataclasses.replace(cell, plan=p, key=cell_key(p, cell.data, cell.accelerator, cell.bounds), single=one)
        for p, one in zip(plans, of, strict=True)
    ]


def cell_key(plan: Plan, data: Mapping[str, Any], accelerator: str, bounds: Mapping[str, Any]) -> str:
    decides = {
        "task": plan.task,
        "task_version": data["task_version"],
        "fingerprint": data["fingerprint"],
        "model": plan.model.name,
        "length": plan.length,
        "protocol": plan.protocol,
        "seeds": plan.seeds,
        "recipe": dataclasses.asdict(plan.recipe),
        "accelerator": accelerator,
        **bounds,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
