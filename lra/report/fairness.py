"""Whether a result is *apples to apples* by the benchmark's rule, computed from its record. Imports no JAX.

The rule (README of google-research/long-range-arena): the task's hyper-parameters unchanged, and at most 10 % more
parameters than the Transformer of that task; anything else is *free for all*. Here: the recipe is the protocol's own
for that model, save for how it is computed (`HOW`). The length is no part of it, because it names the column.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from typing import Any

from configs import PROTOCOLS
from configs.recipe import Encoder, Optimizer, Recipe, Schedule, Train
from lra.results import records
from tasks import TASKS

APPLES, FREE = "apples to apples", "free for all"
EXECUTION = frozenset({"train.precision", "train.accumulate", "train.remat"})
"""Settings of how a cell is computed; they leave what is computed as it was."""
PARAMETER_LIMIT = 1.10


def recipe_changes(record: records.Record) -> list[str]:
    """What a record's recipe has that its protocol's does not, as 'section.field=value'; empty where nothing."""
    cell = record["cell"]
    model = cell.get("mixer", cell["model"])
    try:
        theirs = _settings(_expected(cell["protocol"], cell["task"], model))
    except KeyError:
        return [f"no recipe of protocol {cell['protocol']} for {cell['task']} is known here"]
    ours = _settings(record["recipe"])
    # A field that the record's version did not have stands at its default; data are named by their fingerprint.
    default = _defaults()
    theirs = {k: v for k, v in theirs.items() if k in ours or not (k.startswith("data.") or default.get(k) == v)}
    changed = []
    for name in sorted({*ours, *theirs} - EXECUTION):
        if name not in ours:
            changed.append(f"{name} is not set")
        elif name not in theirs or ours[name] != theirs[name]:
            changed.append(f"{name}={ours[name]}")
    return changed


def excess_parameters(record: records.Record) -> list[str]:
    """One line where a record's model has too many more parameters than its Transformer."""
    cell, parameters = record["cell"], record.get("parameters")
    try:
        most = _transformer(cell["protocol"], cell["task"], cell["length"])
    except KeyError:
        return []
    if not parameters or parameters <= PARAMETER_LIMIT * most:
        return []
    return [f"{cell['task']}: {parameters / most:.2f} × the Transformer's parameters"]


@functools.cache
def _expected(protocol: str, task: str, model: str) -> dict[str, Any]:
    """The protocol's recipe as a record would hold it. Raises `KeyError` where there is none."""
    known = PROTOCOLS[protocol]
    if task not in (*known.tasks, *known.variants):
        raise KeyError(task)
    recipe = known.recipe(task, model)
    if recipe.data is None:
        recipe = dataclasses.replace(recipe, data=TASKS[task].rules)
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe)))
    return plain


def _settings(recipe: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section, values in recipe.items():
        pairs = values.items() if isinstance(values, dict) else (tuple(pair) for pair in values or ())
        flat |= {f"{section}.{name}": value for name, value in pairs}
    return flat


@functools.cache
def _defaults() -> dict[str, Any]:
    """The defaults of a recipe's own sections, by 'section.field'."""
    kinds = {"encoder": Encoder, "optimizer": Optimizer, "schedule": Schedule, "train": Train}
    return {
        f"{section}.{field.name}": field.default
        for section, kind in kinds.items()
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING
    }


@functools.cache
def _transformer(protocol: str, task: str, length: int) -> int:
    """Raises `KeyError` where the protocol or task is not known here."""
    known = TASKS[task]
    recipe = PROTOCOLS[protocol].recipe(task, "transformer")
    return transformer_parameters(recipe, known.vocab, known.classes, known.pair, length)


def transformer_parameters(recipe: Recipe, vocab: int, classes: int, pair: bool, length: int) -> int:
    """Parameters of a recipe's Transformer: the `Encoder` with the mixer `models.attention.Attention`."""
    e = recipe.encoder
    norm = 2 * e.dim
    mlp = 2 * e.dim * e.mlp + e.mlp + e.dim
    block = 2 * norm + 4 * e.dim * e.qkv + mlp
    seen = length + (e.pool == "cls")
    ends = vocab * e.dim + e.dim * (e.pool == "cls") + e.dim * seen * (e.positions == "learned") + norm
    documents = (4 if e.pair_head == "nli" else 2) if pair else 1
    widths = [documents * e.dim, e.mlp, *([e.mlp // 2] if pair else []), classes]
    head = sum(a * b + b for a, b in itertools.pairwise(widths))
    return ends + e.layers * block + head
