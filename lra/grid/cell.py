"""Cells, the unit of the grid: one task, model, length, protocol and set of seeds on one kind of device."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.recipe import Recipe, identity


@dataclass(frozen=True)
class ModelSpec:
    """A model of the command line: 'performer:features=64,kernel=softmax' or 'package.module:Class'."""

    name: str
    """A name in `models.MIXERS`, or 'package.module:Class'."""
    options: tuple[tuple[str, str], ...] = ()
    """The mixer's options, (name, value) as written."""

    def __str__(self) -> str:
        return self.name + (":" + ",".join(f"{k}={v}" for k, v in self.options) if self.options else "")


@dataclass(frozen=True)
class ProbedMixer:
    """A model's mixer as the processes find it that run its cells."""

    options: Mapping[str, Any]
    """The model's options, with their types."""
    fingerprint: str
    """Of the mixer's source (`lra.grid.source`); empty if it is not found."""


@dataclass(frozen=True)
class Code:
    """The code that a plan's numbers come from."""

    versions: tuple[tuple[str, int], ...] = ()
    """Versions above 1 of our mixer and of parts of the encoder (`models.code_versions`)."""
    fingerprint: str = ""
    """Of the mixer's source (`lra.grid.source`)."""
    foreign: bool = False
    """Whether the mixer is none of ours: then its fingerprint is part of the cell's key, as it has no version."""

    def to_json(self) -> dict[str, Any]:
        """As a record holds it."""
        return {"fingerprint": self.fingerprint, "versions": dict(self.versions)}


@dataclass(frozen=True)
class Tuning:
    """How a cell's settings are chosen: on validation, among trials, which train on one seed."""

    sweep: tuple[str, ...]
    """The axes as the user wrote them."""
    trials: tuple[tuple[str, ...], ...]
    """Settings of each trial, as `--set` takes them."""
    seed: int
    """The training seed of all trials: the first that the user asked for."""


@dataclass(frozen=True)
class Plan:
    """A requested cell, before its data and device are known."""

    task: str
    model: ModelSpec
    length: int
    protocol: str
    seeds: tuple[int, ...]
    """One seed, or several that train as one program."""
    recipe: Recipe
    overrides: tuple[str, ...]
    code: Code = Code()
    tuning: Tuning | None = None
    """Of a tuned cell, whose `recipe` is the one that the trials change."""
    trial: tuple[str, ...] = ()
    """The settings that this plan tries, as a trial of a tuned cell: it is trained and validated, and not tested."""

    @property
    def continues(self) -> bool:
        """Whether it goes on from a trial: it is tuned, and on the trials' seed."""
        return self.tuning is not None and self.seeds == (self.tuning.seed,)


@dataclass(frozen=True)
class Cell:
    """A cell that can run: its data is in the cache and its device is known."""

    plan: Plan
    entry: Path | None
    """The data's folder in the cache; None for a measurement on random tokens."""
    data: dict[str, Any]
    """Description of the data: source, counts, fingerprint, notes."""
    accelerator: str
    """The device it runs on, as `expand.accelerator_name` names it."""
    key: str
    """SHA-256 of everything that decides the result."""
    limits: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Limits of a measurement, as fields of its record: `memory_limit_bytes`, `max_batch`."""
    single: Cell | None = None
    """For a cell trained by several processes: the same cell for one process."""
    trials: tuple[Cell, ...] = ()
    """Of a tuned cell whose settings are not chosen yet: its trials."""
    choice: Mapping[str, Any] | None = None
    """Of a tuned cell whose settings are chosen: the field `tuning` of its record."""
    continues: Cell | None = None
    """The trial whose training this cell goes on from."""

    @property
    def single_process(self) -> Cell:
        """The same cell for one process, whose checkpoint and lease serve any number of processes."""
        return self.single or self

    @property
    def name(self) -> str:
        """The record's file name without its ending: readable, cut if it is long, and unique by the key."""
        plan = self.plan
        return record_name(
            plan.task, str(plan.model), plan.length, plan.protocol, plan.seeds, self.accelerator, self.key
        )


def record_name(
    task: str, model: str, length: int, protocol: str, seeds: Iterable[int], accelerator: str, key: str
) -> str:
    """The name of a cell's record."""
    return join_name([task, model, f"L{length}", protocol, "s" + "_".join(map(str, seeds)), accelerator], key)


def join_name(words: Iterable[str], key: str) -> str:
    """Words as a file's name: with letters, digits, '_' and '.' alone, cut if it is long, and unique by the key."""
    readable = "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", word) for word in words)
    return f"{readable[:_NAME_LENGTH]}-{key[:10]}"


_NAME_LENGTH = 160
"""Letters of a cell's name before its key. File systems allow 255 bytes, and files written beside it add to them."""


def unique(cells: Iterable[Cell]) -> list[Cell]:
    """The cells, each once: tuned cells share their trials."""
    return list({(cell.plan.trial, cell.name): cell for cell in cells}.values())


def split_seeds(cell: Cell) -> list[Cell]:
    """One cell for each seed of a cell."""
    plans = [dataclasses.replace(cell.plan, seeds=(seed,)) for seed in cell.plan.seeds]
    singles = split_seeds(cell.single) if cell.single else [None] * len(plans)
    return [
        dataclasses.replace(
            cell, plan=plan, key=cell_key(plan, cell.data, cell.accelerator, cell.limits), single=single
        )
        for plan, single in zip(plans, singles, strict=True)
    ]


def cell_key(plan: Plan, data: Mapping[str, Any], accelerator: str, limits: Mapping[str, Any]) -> str:
    """SHA-256 of everything that decides a cell's result. Changing it disowns every existing record.

    Args:
        plan: with its recipe's precision resolved.
        data: description of the data: `task_version` and `fingerprint` count.
        accelerator: as `expand.accelerator_name` names it.
        limits: limits of a measurement; empty for training.

    A tuned cell's key holds its trials' settings, not which of them was chosen. A trial's is that of the same cell
    without tuning.
    """
    content = {
        "task": plan.task,
        "task_version": data["task_version"],
        "fingerprint": data["fingerprint"],
        "model": plan.model.name,
        "length": plan.length,
        "protocol": plan.protocol,
        "seeds": plan.seeds,
        "recipe": identity(dataclasses.asdict(plan.recipe)),
        "accelerator": accelerator,
        **limits,
    }
    if plan.tuning:
        content["tuning"] = {"trials": plan.tuning.trials, "seed": plan.tuning.seed}
    if plan.code.versions:
        content["versions"] = dict(plan.code.versions)
    if plan.code.foreign and plan.code.fingerprint:
        content["source"] = plan.code.fingerprint
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
