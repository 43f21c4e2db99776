"""From what the user asks for to cells: names checked, data prepared, keys computed. Imports no JAX."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs import PROTOCOLS
from lra.recipe import Protocol, Recipe, UsageError, nearest, override
from models import MIXERS
from tasks import TASKS, Task
from tasks.cache import describe, prepare


@dataclass(frozen=True)
class Model:
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
    model: Model
    length: int
    protocol: str
    seed: int
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

    @property
    def name(self) -> str:
        """The record's file name without its ending: readable, and unique by the key."""
        p = self.plan
        words = [p.task, str(p.model), f"L{p.length}", p.protocol, f"s{p.seed}", self.accelerator]
        return "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", w) for w in words) + "-" + self.key[:10]


def models_named(words: Sequence[str], every: Sequence[str]) -> list[Model]:
    """The models of a comma-separated list, in which 'option=value' belongs to the model before it.

    Raises:
        UsageError: a name that is neither a model's, 'all', nor the place of a class.
    """
    found: list[Model] = []
    for word in words:
        before, _, last = word.rpartition(":")
        if "=" in word and not before:
            if not found:
                raise UsageError(f"--models: the option '{word}' stands before any model")
            found[-1] = Model(found[-1].name, (*found[-1].options, _option(word)))
        elif "=" in last:
            found.append(Model(before, (_option(last),)))
        else:
            found += [Model(name) for name in (every if word == "all" else [word])]
    for model in found:
        if model.name not in MIXERS and ":" not in model.name:
            raise UsageError(nearest("model", model.name, [*MIXERS, "all"]))
    return list(dict.fromkeys(Model(m.name, tuple(sorted(m.options))) for m in found))


def _option(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value


def choose(what: str, names: Sequence[str], known: Iterable[str], every: Sequence[str]) -> list[str]:
    """The names asked for, `all` replaced by `every`, doubles dropped. Raises `UsageError` on a wrong one."""
    known = list(known)
    for name in names:
        if name != "all" and name not in known:
            raise UsageError(nearest(what, name, [*known, "all"]))
    return list(dict.fromkeys(n for name in names for n in (every if name == "all" else [name])))


def protocol_named(name: str) -> Protocol:
    """The protocol, or `UsageError` with the nearest one."""
    if name not in PROTOCOLS:
        raise UsageError(nearest("protocol", name, PROTOCOLS))
    return PROTOCOLS[name]


def plans(
    protocol: Protocol,
    tasks: Sequence[str],
    models: Sequence[str],
    lengths: Sequence[int],
    seeds: Sequence[int],
    settings: Sequence[str],
) -> list[Plan]:
    """The grid. Empty `tasks`, `models`, `lengths` and `seeds` stand for the protocol's own.

    Raises:
        UsageError: a name, length, seed or setting that is wrong, before any work.
    """
    chosen_tasks = choose("task", tasks or protocol.default_tasks or protocol.tasks, TASKS, protocol.tasks)
    chosen_models = models_named(models or protocol.default_models, tuple(MIXERS))
    for name in chosen_tasks:
        if name not in protocol.tasks:
            raise UsageError(
                f"protocol {protocol.name} has no recipe for task {name}; it has {', '.join(protocol.tasks)}"
            )
    if any(length < 1 for length in lengths) or any(seed < 0 for seed in seeds):
        raise UsageError("lengths must be at least 1 and seeds at least 0")
    made = []
    for name in chosen_tasks:
        for model in chosen_models:
            recipe = protocol.recipe(name, model.name)
            if recipe.data is None:
                recipe = dataclasses.replace(recipe, data=TASKS[name].rules)
            try:
                recipe = override(recipe, settings)
            except UsageError as error:
                raise UsageError(f"{name}, {model}: {error}") from None
            for length in dict.fromkeys(lengths or protocol.lengths.get(name, (TASKS[name].length,))):
                for seed in dict.fromkeys(seeds or protocol.seeds):
                    made.append(Plan(name, model, length, protocol.name, seed, recipe, tuple(settings)))
    return made


def with_options(wanted: Sequence[Plan], typed: Mapping[Model, Mapping[str, Any]]) -> list[Plan]:
    """The plans with their models' options in the recipe, over the protocol's own."""
    made = []
    for plan in wanted:
        mixer = dict(plan.recipe.mixer) | dict(typed[plan.model])
        recipe = dataclasses.replace(plan.recipe, mixer=tuple(sorted(mixer.items())))
        made.append(dataclasses.replace(plan, recipe=recipe))
    return made


def prepared(
    wanted: Sequence[Plan], source: str, data: Path, workers: int, report: Callable[[str], None], **more: Any
) -> dict[Plan, Path]:
    """The cache entry of each plan's data, made where it is missing; `more` goes to `tasks.cache.prepare`.

    Raises:
        tasks.DataError: no source has the data, or they are damaged.
    """
    entries: dict[Any, Path] = {}
    for plan in wanted:
        what = (plan.task, plan.length, plan.recipe.data)
        if what not in entries:
            task: Task = TASKS[plan.task]
            entries[what] = prepare(
                task, plan.length, 0, source, rules=plan.recipe.data, cache=data, workers=workers,
                report=lambda line, name=plan.task: report(f"{name}: {line}"),  # type: ignore[misc]
                **more,
            )  # fmt: skip
    return {plan: entries[plan.task, plan.length, plan.recipe.data] for plan in wanted}


def accelerator_name(device: dict[str, Any]) -> str:
    """What a result's speed depends on, in words: 'NVIDIA H200', or a CPU's name and number of cores."""
    if device["platform"] == "cpu":
        return f"CPU {device['host_cpu']}, {device['host_cores']} cores"
    return str(device["kind"])


RANDOM = {"source": "random tokens", "fingerprint": "", "counts": {}, "majority": {}, "notes": []}


def cell(
    plan: Plan, entry: Path | None, device: dict[str, Any], bounds: Mapping[str, Any] = types.MappingProxyType({})
) -> Cell:
    """The runnable cell of a plan on a device (`lra.device.describe`): precision resolved, key computed.

    Without an `entry` it is a measurement on random tokens, within `bounds`.
    """
    recipe = plan.recipe
    accelerator = accelerator_name(device)
    if recipe.train.precision == "auto":
        precision: Literal["float32", "bfloat16"] = "float32" if device["platform"] == "cpu" else "bfloat16"
        recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, precision=precision))
    data = {"task_version": TASKS[plan.task].version} | (RANDOM if entry is None else describe(entry))
    decides = {
        "task": plan.task,
        "task_version": data["task_version"],
        "fingerprint": data["fingerprint"],
        "model": plan.model.name,
        "length": plan.length,
        "protocol": plan.protocol,
        "seed": plan.seed,
        "recipe": dataclasses.asdict(recipe),
        "accelerator": accelerator,
        **bounds,
    }
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return Cell(dataclasses.replace(plan, recipe=recipe), entry, data, accelerator, key, bounds)
