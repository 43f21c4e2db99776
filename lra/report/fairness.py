"""Whether a result is *apples to apples* by the benchmark's rule, computed from its record.

The rule (README of google-research/long-range-arena): the task's hyper-parameters unchanged, and at most 10 % more
parameters than the Transformer of that task; anything else is *free for all*. Here: the recipe is the protocol's own
for that model, except for how it is computed (`EXECUTION`), and for an evaluation of more examples than the protocol's
(`EVALUATION`). The length is no part of it, because it names the column.
What was tuned (`--sweep`) counts as no change, but then the row is of the kind *tuned (N trials)* and is ranked only
with rows of the same number of trials, as in AlgoPerf (Dahl et al. 2023, arXiv:2306.07179): a larger budget is not a
better model. Results that were trained elsewhere (`submit`) are *external*.
In a protocol of published recipes, whose models differ in width, depth and schedule, every result is free for all.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from typing import Any

from configs import PROTOCOLS
from configs.recipe import SECTIONS, Encoder, Recipe, shown_section
from lra.report import tuned
from lra.results.records import Record
from tasks import TASKS

APPLES, FREE, EXTERNAL = "apples to apples", "free for all", "external"
EXECUTION = frozenset({"train.precision", "train.accumulate", "train.remat"})
"""Settings of how a cell is computed; they do not change what is computed."""
EVALUATION = frozenset({"train.validation_examples", "train.test_examples"})
"""Settings of how many examples are evaluated (0: all); more than the protocol asks for change no model."""
PARAMETER_LIMIT = 1.10
OWN_RECIPE = "width, depth and schedule are its family's own"
"""Why a result of a protocol of published recipes is free for all."""


EXPLAINED = {
    APPLES: "The protocol's own hyper-parameters, at most 10 % more parameters than its Transformer.",
    FREE: "Other hyper-parameters than the protocol's, over 10 % more parameters than its Transformer, or a recipe of "
    "the model's family alone.",
    EXTERNAL: "Trained elsewhere and scored here: predictions that were handed in. Nobody has checked their recipes "
    "and budgets, so they are not ranked; speed, memory and parameters are as reported.",
}  # fmt: skip
"""Each kind of rows, for their tables."""
TUNED = (
    "Settings chosen on validation among this many trials, on the first seed. Ranked only with rows of the same budget."
)


def kind_of(record: Record, reasons: tuple[str, ...]) -> str:
    """The kind of a row with such a record: one of `EXPLAINED`, or with its budget of trials.

    Args:
        record: a record of the row.
        reasons: why it is free for all.
    """
    if "external" in record:
        return EXTERNAL
    trials = tuned.budget(record)
    if not trials:
        return FREE if reasons else APPLES
    return f"{FREE}, {tuned.budget_text(trials)}" if reasons else tuned.budget_text(trials)


def explain(kind: str) -> str:
    """What rows of a kind have in common, in words."""
    return EXPLAINED.get(kind) or (f"{EXPLAINED[FREE]} {TUNED}" if kind.startswith(FREE) else TUNED)


def recipe_changes(record: Record) -> list[str]:
    """The settings in which a record's recipe differs from its protocol's, as 'section.field=value'.

    Those that were tuned do not count.
    """
    cell = record["cell"]
    if "external" in record:
        return []
    model = cell.get("mixer", cell["model"])
    try:
        theirs = _settings(_expected(cell["protocol"], cell["task"], model))
    except KeyError:
        return [f"no recipe of protocol {cell['protocol']} for {cell['task']} is known here"]
    ours = _settings(record["recipe"])
    # A field that the record's version did not have counts as its default; data are identified by their fingerprint.
    defaults = _defaults()
    theirs = {k: v for k, v in theirs.items() if k in ours or not (k.startswith("data.") or defaults.get(k) == v)}
    changed = []
    enough = {name for name in EVALUATION if _covers(ours.get(name, 0), theirs.get(name, 0))}
    for name in sorted({*ours, *theirs} - EXECUTION - enough - tuned.swept(record)):
        if name not in ours:
            changed.append(f"{name} is not set")
        elif name not in theirs or ours[name] != theirs[name]:
            changed.append(f"{name}={ours[name]}")
    return changed


def _covers(ours: Any, theirs: int) -> bool:
    """Whether at least as many examples are evaluated as the protocol asks for."""
    return ours == 0 or (isinstance(ours, int) and 0 < theirs <= ours)


def excess_parameters(record: Record) -> list[str]:
    """One line if a record's model exceeds the Transformer's parameters by more than the rule allows, else none."""
    cell, parameters = record["cell"], record.get("parameters")
    if _has_own_recipes(cell["protocol"]):  # its Transformer's size is no measure
        return []
    try:
        baseline = _transformer(cell["protocol"], cell["task"], cell["length"])
    except KeyError:
        return []
    if not parameters or parameters <= PARAMETER_LIMIT * baseline:
        return []
    return [f"{cell['task']}: {parameters / baseline:.2f} × the Transformer's parameters"]


def protocol_reasons(record: Record) -> list[str]:
    """Why no result of the record's protocol is apples to apples, and the protocol's remark on the model's recipe."""
    cell = record["cell"]
    if "external" in record:
        return [*filter(None, [record["external"].get("note")])]
    if not _has_own_recipes(cell["protocol"]):
        return []
    remark = PROTOCOLS[cell["protocol"]].remarks.get(cell.get("mixer", cell["model"]))
    return [OWN_RECIPE, *([remark] if remark else [])]


def _has_own_recipes(protocol: str) -> bool:
    return protocol in PROTOCOLS and PROTOCOLS[protocol].own_recipes


@functools.cache
def _expected(protocol: str, task: str, model: str) -> dict[str, Any]:
    """The protocol's recipe in a record's form. Raises `KeyError` for a task that the protocol does not have."""
    definition = PROTOCOLS[protocol]
    if task not in (*definition.tasks, *definition.variants):
        raise KeyError(task)
    recipe = definition.recipe(task, model)
    if recipe.data is None:
        recipe = dataclasses.replace(recipe, data=TASKS[task].rules)
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe)))
    return plain


def _settings(recipe: dict[str, Any]) -> dict[str, Any]:
    """A record's recipe by 'section.field'."""
    flat: dict[str, Any] = {}
    for section, values in recipe.items():
        pairs = values.items() if isinstance(values, dict) else (tuple(pair) for pair in values or ())
        flat |= {f"{shown_section(section)}.{name}": value for name, value in pairs}
    return flat


@functools.cache
def _defaults() -> dict[str, Any]:
    """The defaults of a recipe's sections, by 'section.field'; without the data, which each task defines."""
    return {
        f"{shown_section(section)}.{field.name}": field.default
        for section, kind in SECTIONS.items()
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING
    }


@functools.cache
def _transformer(protocol: str, task: str, length: int) -> int:
    """Parameters of the protocol's Transformer. Raises `KeyError` for an unknown protocol or task."""
    definition = TASKS[task]
    recipe = PROTOCOLS[protocol].recipe(task, "transformer")
    picture = bool(definition.shape)
    return transformer_parameters(recipe, definition.vocab, definition.classes, definition.pair, length, picture)


def transformer_parameters(
    recipe: Recipe, vocab: int, classes: int, pair: bool, length: int, picture: bool = False
) -> int:
    """Counts the parameters of a recipe's Transformer: the `Encoder` with the mixer `transformer`.

    Args:
        recipe: gives the encoder's widths and depth; its head is not MEGA's.
        vocab: number of tokens.
        classes: number of classes.
        pair: whether an example is a pair of documents.
        length: tokens of an example, without the class token.
        picture: whether the tokens are pixels.
    """
    e = recipe.encoder
    norm = {"scale": 1, "rms": e.dim}.get(e.norm, 2 * e.dim)
    block = norm + 4 * e.dim * e.qkv + _after_the_mixer(e, norm)
    positions = length + (e.pool == "cls")
    inputs = (1 if picture else vocab) * e.dim + e.dim if e.input == "linear" else vocab * e.dim
    inputs += e.dim * (e.pool == "cls") + e.dim * positions * (e.positions == "learned")
    widths = _head_widths(e, pair, classes)
    head = sum(inputs * outputs + outputs for inputs, outputs in itertools.pairwise(widths))
    return inputs + e.layers * block + norm * e.final_norm + head


def _after_the_mixer(e: Encoder, norm: int) -> int:
    """Parameters of a block's feed-forward and its norm, or of its gate."""
    gate = e.dim * e.dim + e.dim
    gates = {"gelu": 0, "half_glu1": gate, "half_glu2": gate, "full_glu": 2 * gate, "glu": 2 * gate}
    if e.block in gates:
        return gates[e.block]
    hidden = 2 if e.block == "silu_glu" else 1
    return norm + hidden * (e.dim * e.mlp + e.mlp) + e.mlp * e.dim + e.dim


def _head_widths(e: Encoder, pair: bool, classes: int) -> list[int]:
    if e.head == "linear":
        return [4 * e.dim, e.dim, classes] if pair else [e.dim, classes]
    documents = (4 if e.pair_head == "nli" else 2) if pair else 1
    return [documents * e.dim, e.mlp, *([e.mlp // 2] if pair else []), classes]
