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
    of: Cell | None = None
    """Where several processes are to train it: the same cell for one."""

    @property
    def alone(self) -> Cell:
        """The same cell for one process. Its checkpoint and lease are for any number of them."""
        return self.of or self

    @property
    def name(self) -> str:
        """The record's file name without its ending: readable, and unique by the key."""
        p = self.plan
        seeds = "s" + "_".join(map(str, p.seeds))
        words = [p.task, str(p.model), f"L{p.length}", p.protocol, seeds, self.accelerator]
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
        if name not in (*protocol.tasks, *protocol.variants):
            known = ", ".join((*protocol.tasks, *protocol.variants))
            raise UsageError(f"protocol {protocol.name} has no recipe for task {name}; it has {known}")
    if any(length < 1 for length in lengths) or any(not 0 <= seed < 2**32 for seed in seeds):
        raise UsageError("lengths must be at least 1, and seeds at least 0 and below 2³²")
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
                    made.append(Plan(name, model, length, protocol.name, (seed,), recipe, tuple(settings)))
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


def together(wanted: Sequence[Plan], mode: str, device: dict[str, Any]) -> list[Plan]:
    """The plans with those that differ in their seed alone made one, to train as one program.

    Mode 'on' joins all, 'off' none. 'auto' joins them on accelerators where a step is too small to fill one: below
    `_SMALL_STEP` floating-point operations. On a CPU a step fills all cores, and nothing is gained.
    """
    groups: dict[Plan, list[Plan]] = {}
    for plan in wanted:
        joined = mode == "on" or (mode == "auto" and device["platform"] != "cpu" and step_cost(plan) < _SMALL_STEP)
        groups.setdefault(dataclasses.replace(plan, seeds=()) if joined else plan, []).append(plan)
    return [
        dataclasses.replace(plan, seeds=tuple(seed for one in group for seed in one.seeds))
        for plan, group in groups.items()
    ]


_SMALL_STEP = 1e11
"""About a millisecond of a data-centre GPU at a tenth of its peak; below it, launching kernels takes as long."""


def step_cost(plan: Plan) -> float:
    """Floating-point operations of a training step, roughly: the products with weights, six a weight and token."""
    e, tokens = plan.recipe.encoder, plan.recipe.train.batch * plan.length
    documents = 2 if TASKS[plan.task].pair else 1
    return 6.0 * documents * tokens * e.layers * (4 * e.dim * e.qkv + 2 * e.dim * e.mlp)


def accelerator_name(device: dict[str, Any], used: int = 1, processes: int = 1) -> str:
    """What a result's speed depends on, in words: 'NVIDIA H200', or a CPU's name and number of cores."""
    each = f" in each of {processes} processes" if processes > 1 else ""
    if device["platform"] == "cpu":
        parts = f", as {used} devices" if used > 1 else ""
        return f"CPU {device['host_cpu']}, {device['host_cores']} cores{parts}{each}"
    return (f"{used} × {device['kind']}" if used > 1 else str(device["kind"])) + each


RANDOM = {"source": "random tokens", "fingerprint": "", "counts": {}, "majority": {}, "notes": []}


def cell(
    plan: Plan,
    entry: Path | None,
    device: dict[str, Any],
    used: int = 1,
    bounds: Mapping[str, Any] = types.MappingProxyType({}),
    processes: int = 1,
) -> Cell:
    """The runnable cell of a plan on a device (`lra.device.describe`): precision resolved, key computed.

    Without an `entry` it is a measurement on random tokens, within `bounds`. Several `processes` share a batch, each
    with so many devices `used`.

    Raises:
        UsageError: there are fewer devices than are to be `used`, or a batch does not divide by their number.
    """
    recipe = plan.recipe
    if not 1 <= used <= device["count"]:
        raise UsageError(f"--devices={used}: there are 1 to {device['count']} devices to use")
    if recipe.train.batch % (used * processes * recipe.train.accumulate):
        factors = [("processes", processes)] * (processes > 1) + [("devices", used)]
        factors.append(("train.accumulate", recipe.train.accumulate))
        raise UsageError(
            f"{plan.task}, {plan.model}: train.batch ({recipe.train.batch}) must be a multiple of "
            f"{' × '.join(name for name, _ in factors)} ({' × '.join(str(factor) for _, factor in factors)})"
        )
    accelerator = accelerator_name(device, used)
    if recipe.train.precision == "auto":
        precision: Literal["float32", "bfloat16"] = "float32" if device["platform"] == "cpu" else "bfloat16"
        recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, precision=precision))
    data = {"task_version": TASKS[plan.task].version} | (RANDOM if entry is None else describe(entry))
    plan = dataclasses.replace(plan, recipe=recipe)
    made = Cell(plan, entry, data, accelerator, _key(plan, data, accelerator, bounds), bounds)
    if processes == 1:
        return made
    accelerator = accelerator_name(device, used, processes)
    key = _key(plan, data, accelerator, bounds)
    return dataclasses.replace(made, accelerator=accelerator, key=key, of=made)


def apart(cell: Cell) -> list[Cell]:
    """A cell for each seed of a cell."""
    plans = [dataclasses.replace(cell.plan, seeds=(seed,)) for seed in cell.plan.seeds]
    of = apart(cell.of) if cell.of else [None] * len(plans)
    return [
        dataclasses.replace(cell, plan=p, key=_key(p, cell.data, cell.accelerator, cell.bounds), of=one)
        for p, one in zip(plans, of, strict=True)
    ]


def _key(plan: Plan, data: Mapping[str, Any], accelerator: str, bounds: Mapping[str, Any]) -> str:
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
