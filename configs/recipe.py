"""What a cell runs, as frozen dataclasses; overrides from the command line. Imports no JAX."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class RecipeError(ValueError):
    """A setting that no recipe can have; the message is one line for the user."""


def suggest(what: str, name: str, known: Iterable[str]) -> str:
    """One line: `name` is not a known `what`, and which one may be meant."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
    return f"unknown {what} '{name}': {hint}"


@dataclass(frozen=True)
class Encoder:
    """The shape of the encoder (see `models.core.encoder.Encoder`)."""

    dim: int
    heads: int
    layers: int
    qkv: int
    """Width of queries, keys and values, all heads together."""
    mlp: int
    pool: Literal["cls", "mean"] = "cls"
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    pair_head: Literal["concat", "nli"] = "concat"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    reversible: bool = False
    """Blocks keep no activations for the backward pass (see `models.core.reversible`)."""


@dataclass(frozen=True)
class Optimizer:
    """Adam (Kingma & Ba 2015) with decoupled weight decay (Loshchilov & Hutter 2019) on every parameter."""

    learning_rate: float
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-9
    clip: float = 0.0
    """Largest global norm of the gradient; 0 is no limit."""


@dataclass(frozen=True)
class Schedule:
    """Learning rate over steps: a linear warm-up times `decay` (see `lra.train.learning_rate`)."""

    decay: Literal["rsqrt", "cosine", "linear", "constant"]
    warmup: int


@dataclass(frozen=True)
class Train:
    """The training budget."""

    steps: int
    batch: int
    eval_every: int
    """Steps between validations."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of activations; parameters are float32. 'auto' is bfloat16 on accelerators, float32 on CPU."""
    accumulate: int = 1
    """Equal parts a batch is differentiated in, one after the other: less memory, the same step."""
    remat: bool = False
    """Blocks are computed again in the backward pass instead of being kept: less memory, the same numbers."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a cell's result but the task's arrays, the model and the seed."""

    encoder: Encoder
    optimizer: Optimizer
    schedule: Schedule
    train: Train
    data: Any = None
    """The task's own settings (its `rules`); None stands for the task's defaults."""
    mixer: tuple[tuple[str, Any], ...] = ()
    """The mixer's own options where they are not its defaults, by name."""


@dataclass(frozen=True)
class Protocol:
    """A way of running the benchmark: which tasks and models, and a recipe for each."""

    name: str
    summary: str
    tasks: tuple[str, ...]
    """Tasks with a recipe: what `--tasks=all` means."""
    recipe: Callable[[str, str], Recipe]
    """(task, model) → recipe."""
    default_tasks: tuple[str, ...] = ()
    """What runs when no tasks are named; all of them when empty."""
    default_models: tuple[str, ...] = ("transformer", "fnet")
    variants: tuple[str, ...] = ()
    """Further tasks with a recipe, which `--tasks=all` leaves out."""
    seeds: tuple[int, ...] = (0,)
    lengths: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    """The protocol's lengths of a task where they are not the task's own."""


def validate_recipe(recipe: Recipe) -> None:
    """Raises `RecipeError` on values that no run can have."""
    e, o, t = recipe.encoder, recipe.optimizer, recipe.train
    for name, value in (
        ("encoder.dim", e.dim), ("encoder.heads", e.heads), ("encoder.layers", e.layers), ("encoder.qkv", e.qkv),
        ("encoder.mlp", e.mlp), ("train.steps", t.steps), ("train.batch", t.batch),
        ("train.eval_every", t.eval_every), ("train.accumulate", t.accumulate),
    ):  # fmt: skip
        if value < 1:
            raise RecipeError(f"{name} must be at least 1, not {value}")
    for name, rate in (("encoder.dropout", e.dropout), ("encoder.attention_dropout", e.attention_dropout)):
        if not 0 <= rate < 1:
            raise RecipeError(f"{name} must be at least 0 and less than 1, not {rate}")
    if e.qkv % e.heads:
        raise RecipeError(f"encoder.qkv ({e.qkv}) must be a multiple of encoder.heads ({e.heads})")
    if t.batch % t.accumulate:
        raise RecipeError(f"train.batch ({t.batch}) must be a multiple of train.accumulate ({t.accumulate})")
    if t.remat and e.reversible:
        raise RecipeError("train.remat has nothing to do where encoder.reversible is set: leave one out")
    if recipe.schedule.warmup < 0 or o.clip < 0 or o.weight_decay < 0 or o.eps <= 0 or o.learning_rate < 0:
        raise RecipeError("learning rate, weight decay, clip and warmup must not be negative, and eps must be positive")
    if not (0 <= o.b1 < 1 and 0 <= o.b2 < 1):
        raise RecipeError("optimizer.b1 and optimizer.b2 must be at least 0 and less than 1")
    if t.steps * t.batch >= 2**32:
        raise RecipeError("train.steps × train.batch must be below 2³²")


def override(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """The recipe with 'section.field=value' settings applied, in their order.

    Raises:
        RecipeError: a setting of another form, a name that is no field (with the nearest one), a value of the
            wrong type, or a value that no run can have.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise RecipeError(f"--set takes section.field=value, not '{setting}'")
        fields = dict(_fields(recipe))
        if path not in fields:
            raise RecipeError(suggest("setting", path, fields))
        section, _, name = path.partition(".")
        value = parse_value(text, fields[path], path)
        recipe = dataclasses.replace(
            recipe, **{section: dataclasses.replace(getattr(recipe, section), **{name: value})}
        )
    validate_recipe(recipe)
    return recipe


def _fields(recipe: Recipe) -> Iterable[tuple[str, Any]]:
    for section in dataclasses.fields(recipe):
        part = getattr(recipe, section.name)
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            for name, hint in typing.get_type_hints(type(part)).items():
                yield f"{section.name}.{name}", hint


def parse_value(text: str, hint: Any, path: str) -> Any:
    """A command line's text as a value of type `hint`. Raises `RecipeError` naming `path`."""
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if text not in choices:
            raise RecipeError(suggest(f"value of {path}", text, choices))
        return text
    try:
        if hint is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if hint is int:
            number = float(text)
            if not number.is_integer() or abs(number) > 2**53:  # beyond it a float is not what was written
                raise ValueError
            return int(number)
        if hint is float:
            value = float(text)
            if not math.isfinite(value):
                raise ValueError
            return value
    except (ValueError, KeyError, OverflowError):
        raise RecipeError(f"{path} takes a {hint.__name__}, not '{text}'") from None
    if hint is str:
        return text
    raise RecipeError(f"{path} cannot be set from the command line")


def from_dict(kind: type[T], values: Mapping[str, Any]) -> T:
    """A (nested) frozen dataclass from what `dataclasses.asdict` gave. The data section stays a dictionary."""
    hints = typing.get_type_hints(kind)
    made = {
        name: from_dict(hints[name], value) if dataclasses.is_dataclass(hints[name]) else value
        for name, value in values.items()
    }
    return kind(**made)
