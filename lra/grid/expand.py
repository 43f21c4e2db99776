"""Expands protocol × tasks × models × lengths × seeds into cells, and computes their keys."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from configs import PROTOCOLS
from configs.recipe import Protocol, Recipe, RecipeError, override
from lra.errors import UsageError
from lra.grid.cell import Cell, Code, ModelSpec, Plan, ProbedMixer, Tuning, cell_key
from lra.grid.names import parse_models, resolve_names
from lra.grid.prepared import prepare_data, report_data
from lra.grid.spec import RunOptions
from lra.grid.sweep import Sweep
from models import MIXERS, code_versions
from tasks import TASKS
from tasks.io.cache import describe

_LONGEST = 2**24
"""No model or data set here is near it: greater lengths are typing errors."""


def make_plans(
    protocol: Protocol,
    tasks: Sequence[str],
    models: Sequence[str],
    lengths: Sequence[int],
    seeds: Sequence[int],
    settings: Sequence[str],
    sweep: Sweep | None = None,
) -> list[Plan]:
    """The grid: one plan for each task, model, length and seed.

    Args:
        protocol: supplies the recipes, and the defaults of the next four arguments where they are empty.
        tasks: names, or 'all'.
        models: items of a list of models (see `parse_models`).
        lengths: sequence lengths in tokens; some protocols count the CLS token (`Protocol.counts_cls`).
        seeds: training seeds.
        settings: 'section.field=value' overrides of every recipe.
        sweep: what each model is tuned over, on each task and length, at the first of the seeds; None: nothing.

    Raises:
        UsageError: a wrong name, length, seed or setting, or a trial whose settings contradict each other.
    """
    task_names = resolve_names("task", tasks or protocol.default_tasks or protocol.tasks, TASKS, protocol.tasks)
    specs = parse_models(models or protocol.default_models, tuple(MIXERS))
    for name in task_names:
        if name not in (*protocol.tasks, *protocol.variants):
            raise UsageError(_no_recipe(protocol, name))
    if any(length > _LONGEST for length in lengths):
        raise UsageError(f"lengths can be at most {_LONGEST:,} tokens, not {max(lengths):,}")
    if any(length < 1 for length in lengths) or any(not 0 <= seed < 2**32 for seed in seeds):
        raise UsageError("lengths must be at least 1, and seeds at least 0 and below 2³²")
    plans = []
    for name in task_names:
        for model in specs:
            recipe = protocol.recipe(name, model.name)
            if recipe.data is None:
                recipe = dataclasses.replace(recipe, data=TASKS[name].rules)
            try:
                recipe = override(recipe, settings)
                trials = tuple(sweep.trials(recipe)) if sweep else ()
            except RecipeError as error:
                raise UsageError(f"{name}, {model}: {error}") from None
            tuning = Tuning(sweep.words, trials, (seeds or protocol.seeds)[0]) if sweep else None
            code = _code(model, recipe)
            cls = protocol.counts_cls and recipe.encoder.pool == "cls"
            for length in dict.fromkeys(lengths or protocol.lengths.get(name, (TASKS[name].length,))):
                if length <= cls:
                    raise UsageError(
                        f"lengths of protocol {protocol.name} count the CLS token: they must be at least 2"
                    )
                for seed in dict.fromkeys(seeds or protocol.seeds):
                    overrides = tuple(settings)
                    plan = Plan(name, model, length - cls, protocol.name, (seed,), recipe, overrides, code, tuning)
                    plans.append(plan)
    return plans


def _code(model: ModelSpec, recipe: Recipe) -> Code:
    versions = code_versions(model.name, dataclasses.asdict(recipe.encoder))
    return Code(tuple(versions.items()), foreign=model.name not in MIXERS)


def trial_plans(plan: Plan) -> list[Plan]:
    """The trials of a tuned plan; none of another."""
    return [trial_plan(plan, settings) for settings in plan.tuning.trials] if plan.tuning else []


def trial_plan(plan: Plan, settings: Sequence[str]) -> Plan:
    """A tuned plan with a trial's settings, trained on the trials' seed."""
    assert plan.tuning
    recipe = override(plan.recipe, settings)
    code = dataclasses.replace(plan.code, versions=_code(plan.model, recipe).versions)
    return dataclasses.replace(
        plan, seeds=(plan.tuning.seed,), recipe=recipe, overrides=(*plan.overrides, *settings), code=code, tuning=None,
        trial=tuple(settings),
    )  # fmt: skip


def make_cells(
    plans: Sequence[Plan],
    device: dict[str, Any],
    mixers: Mapping[ModelSpec, ProbedMixer],
    options: RunOptions,
    report: Callable[[str], None],
    processes: int = 1,
) -> list[Cell]:
    """The runnable cells of plans on a device, with their data prepared in the cache.

    Args:
        plans: cells to make runnable.
        device: description of the device (`launch.process.probe`).
        mixers: each model's mixer, from the same probe.
        options: of the run.
        report: receives a line for each step of the preparation.
        processes: how many train each cell together.

    Raises:
        UsageError: as `make_cell`; or training could not learn from anything.
        tasks.DataError: no source has the data, or it is damaged.
    """
    plans = apply_mixers(plans, mixers)
    if options.sources is None:
        return [make_cell(plan, None, device, options.devices, options.limits, processes) for plan in plans]
    _check_pooling(plans)
    plans = group_seeds(plans, options.vmap_seeds, device)
    entries = prepare_data(plans, options.data, options.sources, report)
    report_data(entries, report)
    return [make_cell(plan, entries[plan], device, options.devices, processes=processes) for plan in plans]


def _no_recipe(protocol: Protocol, task: str) -> str:
    """One line for the user: which protocols have the task, and which tasks the protocol has."""
    others = [other.name for other in PROTOCOLS.values() if task in (*other.tasks, *other.variants)]
    where = f": use {' or '.join(f'--protocol={name}' for name in others)}" if others else ""
    tasks = ", ".join((*protocol.tasks, *protocol.variants))
    return f"protocol {protocol.name} has no recipe for task {task}{where}; {protocol.name} has {tasks}"


def apply_mixers(plans: Sequence[Plan], mixers: Mapping[ModelSpec, ProbedMixer]) -> list[Plan]:
    """The plans with their models' options in the recipe, overriding the protocol's, and their mixers' source."""
    applied = []
    for plan in plans:
        probed = mixers[plan.model]
        mixer = dict(plan.recipe.mixer) | dict(probed.options)
        recipe = dataclasses.replace(plan.recipe, mixer=tuple(sorted(mixer.items())))
        code = dataclasses.replace(plan.code, fingerprint=probed.fingerprint)
        applied.append(dataclasses.replace(plan, recipe=recipe, code=code))
    return applied


def _check_pooling(plans: Iterable[Plan]) -> None:
    """Raises `UsageError` for a mixer that is to read one way with CLS pooling: CLS would see itself alone."""
    for plan in (part for whole in plans for part in (trial_plans(whole) or [whole])):
        if plan.recipe.encoder.pool == "cls" and not dict(plan.recipe.mixer).get("bidirectional", True):
            raise UsageError(
                f"{plan.task}, {plan.model}: it reads from left to right, and the CLS token, which comes first, would "
                "see nothing: add --set encoder.pool=mean"
            )


def group_seeds(plans: Sequence[Plan], mode: str, device: dict[str, Any]) -> list[Plan]:
    """Merges plans that differ only in their seed, so that these seeds train as one program.

    Args:
        plans: one for each seed.
        mode: 'on' merges all, 'off' none; 'auto' merges on accelerators those whose step is too small to fill one,
            below `_SMALL_STEP` FLOPs. On a CPU a step fills all cores, so merging gains nothing.
        device: description of the device.
    """
    groups: dict[Plan, list[Plan]] = {}
    for plan in plans:
        merged = mode == "on" or (
            mode == "auto" and device["platform"] != "cpu" and estimate_step_flops(plan) < _SMALL_STEP
        )
        merged = merged and not plan.continues
        groups.setdefault(dataclasses.replace(plan, seeds=()) if merged else plan, []).append(plan)
    return [
        dataclasses.replace(plan, seeds=tuple(seed for member in group for seed in member.seeds))
        for plan, group in groups.items()
    ]


_SMALL_STEP = 1e11
"""About a millisecond of a data-centre GPU at a tenth of its peak; below it, launching kernels takes as long."""


def estimate_step_flops(plan: Plan) -> float:
    """Rough FLOPs of a training step: six per weight and token, matrix products only."""
    encoder, tokens = plan.recipe.encoder, plan.recipe.train.batch * plan.length
    documents = 2 if TASKS[plan.task].pair else 1
    weights = 4 * encoder.dim * encoder.qkv + 2 * encoder.dim * encoder.mlp
    return 6.0 * documents * tokens * encoder.layers * weights


_RANDOM_TOKENS = {"source": "random tokens", "fingerprint": "", "counts": {}, "majority": {}, "notes": []}


def make_cell(
    plan: Plan,
    entry: Path | None,
    device: dict[str, Any],
    device_count: int = 1,
    limits: Mapping[str, Any] = types.MappingProxyType({}),
    processes: int = 1,
) -> Cell:
    """The runnable cell of a plan: precision resolved, key computed.

    Args:
        plan: the requested cell.
        entry: folder of its data in the cache; None: a measurement on random tokens.
        device: description of the device (`lra.train.device.describe`).
        device_count: devices of each process that share each batch.
        limits: limits of a measurement, as `Cell.limits`.
        processes: how many train the cell together, and share each batch.

    Raises:
        UsageError: there are fewer devices than `device_count`, or the batch cannot be divided among them.
    """
    recipe = plan.recipe
    trials = tuple(make_cell(trial, entry, device, device_count, limits, processes) for trial in trial_plans(plan))
    if not 1 <= device_count <= device["count"]:
        raise UsageError(f"--devices={device_count}: there are 1 to {device['count']} devices to use")
    if recipe.train.batch % (device_count * processes * recipe.train.accumulate):
        factors = [("processes", processes)] * (processes > 1) + [("devices", device_count)]
        factors.append(("train.accumulate", recipe.train.accumulate))
        raise UsageError(
            f"{plan.task}, {plan.model}: train.batch ({recipe.train.batch}) must be a multiple of "
            f"{' × '.join(name for name, _ in factors)} ({' × '.join(str(factor) for _, factor in factors)})"
        )
    accelerator = accelerator_name(device, device_count)
    if recipe.train.precision == "auto":
        precision: Literal["float32", "bfloat16"] = "float32" if device["platform"] == "cpu" else "bfloat16"
        recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, precision=precision))
    data = {"task_version": TASKS[plan.task].version} | (_RANDOM_TOKENS if entry is None else describe(entry))
    plan = dataclasses.replace(plan, recipe=recipe)
    cell = Cell(plan, entry, data, accelerator, cell_key(plan, data, accelerator, limits), limits, trials=trials)
    if processes == 1:
        return cell
    accelerator = accelerator_name(device, device_count, processes)
    key = cell_key(plan, data, accelerator, limits)
    return dataclasses.replace(cell, accelerator=accelerator, key=key, single=cell)


def accelerator_name(device: dict[str, Any], device_count: int = 1, processes: int = 1) -> str:
    """The name of the hardware that a result's speed depends on: 'NVIDIA H200', '2 × NVIDIA H200', 'CPU …, 2 cores'.

    Args:
        device: description of the device.
        device_count: devices of each process that share each batch.
        processes: how many train a cell together.
    """
    each = f" in each of {processes} processes" if processes > 1 else ""
    if device["platform"] == "cpu":
        parts = f", as {device_count} devices" if device_count > 1 else ""
        return f"CPU {device['host_cpu']}, {device['host_cores']} cores{parts}{each}"
    return (f"{device_count} × {device['kind']}" if device_count > 1 else str(device["kind"])) + each
