"""From protocol × tasks × models × lengths × seeds to cells: names checked, data prepared, keys computed."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from configs import PROTOCOLS
from configs.recipe import Protocol, RecipeError, nearest, override
from lra.errors import UsageError
from lra.grid.cell import Cell, ModelSpec, Plan, cell_key
from lra.grid.spec import DataOptions, RunOptions
from models import MIXERS
from tasks import TASKS, Task
from tasks.io.cache import describe, prepare


def parse_models(words: Sequence[str], every: Sequence[str]) -> list[ModelSpec]:
    """The models of a comma-separated list, in which 'option=value' belongs to the model before it.

    Raises:
        UsageError: a name that is neither a model's, 'all', nor the place of a class.
    """
    found: list[ModelSpec] = []
    for word in words:
        before, _, last = word.rpartition(":")
        if "=" in word and not before:
            if not found:
                raise UsageError(f"--models: the option '{word}' stands before any model")
            found[-1] = ModelSpec(found[-1].name, (*found[-1].options, _option(word)))
        elif "=" in last:
            found.append(ModelSpec(before, (_option(last),)))
        else:
            found += [ModelSpec(name) for name in (every if word == "all" else [word])]
    for model in found:
        if model.name not in MIXERS and ":" not in model.name:
            raise UsageError(nearest("model", model.name, [*MIXERS, "all"]))
    return list(dict.fromkeys(ModelSpec(m.name, tuple(sorted(m.options))) for m in found))


def _option(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value


def resolve_names(what: str, names: Sequence[str], known: Iterable[str], every: Sequence[str]) -> list[str]:
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
    chosen_tasks = resolve_names("task", tasks or protocol.default_tasks or protocol.tasks, TASKS, protocol.tasks)
    chosen_models = parse_models(models or protocol.default_models, tuple(MIXERS))
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
            except RecipeError as error:
                raise UsageError(f"{name}, {model}: {error}") from None
            for length in dict.fromkeys(lengths or protocol.lengths.get(name, (TASKS[name].length,))):
                for seed in dict.fromkeys(seeds or protocol.seeds):
                    made.append(Plan(name, model, length, protocol.name, (seed,), recipe, tuple(settings)))
    return made


def apply_options(wanted: Sequence[Plan], typed: Mapping[ModelSpec, Mapping[str, Any]]) -> list[Plan]:
    """The plans with their models' options in the recipe, over the protocol's own."""
    made = []
    for plan in wanted:
        mixer = dict(plan.recipe.mixer) | dict(typed[plan.model])
        recipe = dataclasses.replace(plan.recipe, mixer=tuple(sorted(mixer.items())))
        made.append(dataclasses.replace(plan, recipe=recipe))
    return made


def cells(
    plans: Sequence[Plan],
    device: dict[str, Any],
    mixer_options: Mapping[ModelSpec, Mapping[str, Any]],
    options: RunOptions,
    report: Callable[[str], None],
    processes: int = 1,
) -> list[Cell]:
    """The runnable cells of plans on a device; their data are prepared in the cache.

    Args:
        device, mixer_options: what the device probe found (`launch.process.probe`).
        report: takes a line on how far the preparation is.
        processes: that train each cell together.

    Raises:
        UsageError: as `make_cell`.
        tasks.DataError: no source has the data, or they are damaged.
    """
    plans = apply_options(plans, mixer_options)
    if options.sources is None:
        return [make_cell(plan, None, device, options.devices, options.limits, processes) for plan in plans]
    plans = group_seeds(plans, options.vmap_seeds, device)
    entries = prepare_data(plans, options.data, options.sources, report)
    return [make_cell(plan, entries[plan], device, options.devices, processes=processes) for plan in plans]


def prepare_data(
    plans: Sequence[Plan], cache: Path, sources: DataOptions, report: Callable[[str], None]
) -> dict[Plan, Path]:
    """The cache entry of each plan's data, prepared where it is missing.

    Raises:
        tasks.DataError: no source has the data, or they are damaged.
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


def group_seeds(wanted: Sequence[Plan], mode: str, device: dict[str, Any]) -> list[Plan]:
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


def make_cell(
    plan: Plan,
    entry: Path | None,
    device: dict[str, Any],
    used: int = 1,
    bounds: Mapping[str, Any] = types.MappingProxyType({}),
    processes: int = 1,
) -> Cell:
    """The runnable cell of a plan on a device (`lra.train.device.describe`): precision resolved, key computed.

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
    made = Cell(plan, entry, data, accelerator, cell_key(plan, data, accelerator, bounds), bounds)
    if processes == 1:
        return made
    accelerator = accelerator_name(device, used, processes)
    key = cell_key(plan, data, accelerator, bounds)
    return dataclasses.replace(made, accelerator=accelerator, key=key, single=made)
