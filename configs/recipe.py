"""Recipes and protocols as frozen dataclasses, and overrides from the command line."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class RecipeError(ValueError):
    """An invalid setting; the message is one line for the user."""


def added(default: Any) -> Any:
    """A field that the first records did not have: left at its default, it is no part of a recipe's `identity`."""
    return dataclasses.field(default=default, metadata={"added": True})


@dataclass(frozen=True)
class Encoder:
    """The shape of the encoder (see `models.core.encoder.Encoder`)."""

    dim: int
    heads: int
    layers: int
    qkv: int
    """Total width of queries, keys and values over all heads."""
    mlp: int
    pool: Literal["cls", "mean"] = "cls"
    positions: Literal["sinusoidal", "learned", "none", "rotary"] = "sinusoidal"
    pair_head: Literal["concat", "nli"] = "concat"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    reversible: bool = False
    """Blocks store no activations for the backward pass (see `models.core.reversible`)."""
    init: Literal["lecun", "xavier", "torch", "mega"] = added("lecun")
    """What parameters start from (see `models.core.initial`): as in Flax, the official benchmark, PyTorch, or MEGA."""
    input: Literal["embedding", "linear"] = added("embedding")
    """'linear': a linear map with bias, of a picture's pixel (one number) or of a token as a one-hot row."""
    input_mean: float = added(0.5)
    """A pixel's value, 0 to 1, enters the linear map as (value − mean) / std."""
    input_std: float = added(0.5)
    norm: Literal["layer", "rms", "scale", "batch"] = added("layer")
    """Kind of all norms (see `models.core.norms`)."""
    norm_momentum: float = added(0.9)
    """Share of the old value in each update of batch norm's running statistics."""
    prenorm: bool = added(True)
    """Norms before each mixer and feed-forward; else after the sum with the residual stream."""
    final_norm: bool = added(True)
    """Whether a norm follows the last block."""
    block: Literal["mlp", "silu_mlp", "silu_glu", "gelu", "half_glu1", "half_glu2", "full_glu", "glu"] = added("mlp")
    """What follows the mixer: a feed-forward with a residual of its own, with GELU, with SiLU as in MEGA (`silu_mlp`),
    or with a gate as in HGRN (`silu_glu`); or, as in state-space models, GELU with or without a gate in the mixer's
    residual (see `models.core.blocks`)."""
    head: Literal["mlp", "linear", "gelu_mlp"] = added("mlp")
    """'linear': one linear map; for a pair [e1, e2, e1 − e2, e1·e2] → D → GELU → classes. 'gelu_mlp', as in MEGA: D, or
    [e2, e1], → mlp → GELU → classes."""
    tied_dropout: bool = added(False)
    """Dropout zeroes a feature at all positions of a document, or at none."""


@dataclass(frozen=True)
class Optimizer:
    """Adam (Kingma & Ba 2015) with decoupled weight decay (Loshchilov & Hutter 2019) on every parameter."""

    learning_rate: float
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-9
    clip: float = 0.0
    """Largest global norm of the gradient; 0: no limit."""
    slow: str = added("A,step,B")
    """Roles of the parameters (see `lra.train.groups`) whose learning rate is multiplied by `slow_factor`."""
    slow_factor: float = added(1.0)
    undecayed: str = added("A,step,B")
    """Roles of the parameters that weight decay leaves out."""


@dataclass(frozen=True)
class Schedule:
    """Learning rate over steps: a linear warm-up times `decay` (see `lra.train.optimizer`)."""

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
    """Type of activations; parameters are float32. 'auto': bfloat16 on accelerators, float32 on a CPU."""
    accumulate: int = 1
    """Equal parts of a batch whose gradients are summed one by one: less memory, the same step."""
    remat: bool = False
    """Blocks are recomputed in the backward pass instead of stored: less memory, the same numbers."""
    validation_examples: int = added(0)
    """Examples of each validation; 0, or more than there are: all. Fewer are a fixed sample, the same for all models
    and seeds (`lra.train.data.sample_evaluated`)."""
    test_examples: int = added(0)
    """Examples of each test, likewise."""

    def evaluated(self, counts: Mapping[str, int]) -> dict[str, int]:
        """How many examples of validation and test are evaluated.

        Args:
            counts: examples of each split; a split that is missing there is missing in the result.
        """
        limits = {"validation": self.validation_examples, "test": self.test_examples}
        return {name: min(limit or counts[name], counts[name]) for name, limit in limits.items() if name in counts}


@dataclass(frozen=True)
class Ablation:
    """What the model is not given, in training as in every evaluation; sizes in tokens, 0: nothing is changed.

    It is set like the task's settings, as `data.window` (docs/reach.md).
    """

    window: int = added(0)
    """The layers see windows of this size and nothing beyond (`models.core.encoder.Encoder.encode_windows`)."""
    within: int = added(0)
    """The order of tokens within each block of this size is random (`lra.train.shuffles`)."""
    blocks: int = added(0)
    """The order of the blocks of this size is random."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a cell's result except the task's arrays, the model and the seed."""

    encoder: Encoder
    optimizer: Optimizer
    schedule: Schedule
    train: Train
    data: Any = None
    """Settings of the task (its `rules`); None: the task's defaults."""
    mixer: tuple[tuple[str, Any], ...] = ()
    """Options of the mixer that differ from its defaults, sorted by name."""
    ablation: Ablation = Ablation()


SECTIONS: dict[str, Any] = {
    "encoder": Encoder, "optimizer": Optimizer, "schedule": Schedule, "train": Train, "ablation": Ablation,
}  # fmt: skip
"""The sections of a recipe that are the same for all tasks and mixers, by name."""


@dataclass(frozen=True)
class Protocol:
    """A way of running the benchmark: its tasks and models, and a recipe for each pair."""

    name: str
    summary: str
    tasks: tuple[str, ...]
    """Tasks with a recipe, to which `--tasks=all` expands."""
    recipe: Callable[[str, str], Recipe]
    """(task, model) → recipe."""
    default_tasks: tuple[str, ...] = ()
    """Tasks that run if the user names none; empty: all."""
    default_models: tuple[str, ...] = ("transformer", "fnet")
    variants: tuple[str, ...] = ()
    """Further tasks with a recipe, which `--tasks=all` leaves out."""
    seeds: tuple[int, ...] = (0,)
    lengths: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    """Sequence lengths by task, where they differ from the task's default."""
    counts_cls: bool = False
    """Whether lengths count the CLS token, so that documents are a token shorter where a recipe pools by CLS."""
    own_recipes: bool = False
    """Whether models differ in width, depth and schedule, so that no result is *apples to apples*."""
    remarks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By model: what readers of its results have to know of its recipe, as that it could not be verified."""


def override(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """The recipe with 'section.field=value' settings applied in order.

    Raises:
        RecipeError: a malformed setting, an unknown field (suggests the nearest), or an invalid value.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise RecipeError(f"--set takes section.field=value, not '{setting}'")
        fields = {path: (section, hint) for path, section, hint in _fields(recipe)}
        if path not in fields:
            raise RecipeError(suggest("setting", path, fields))
        (section, hint), name = fields[path], path.partition(".")[2]
        value = parse_value(text, hint, path)
        recipe = dataclasses.replace(
            recipe, **{section: dataclasses.replace(getattr(recipe, section), **{name: value})}
        )
    validate_recipe(recipe)
    return recipe


_hints = functools.cache(typing.get_type_hints)


def _fields(recipe: Recipe) -> Iterable[tuple[str, str, Any]]:
    """What can be set: its path on the command line, its section, and its type."""
    for section in dataclasses.fields(recipe):
        part = getattr(recipe, section.name)
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            for name, hint in _hints(type(part)).items():
                yield f"{shown_section(section.name)}.{name}", section.name, hint


def field_type(recipe: Recipe, path: str) -> Any:
    """The type of a setting. Raises `RecipeError` for an unknown one, suggesting the nearest."""
    fields = {name: hint for name, _, hint in _fields(recipe)}
    if path not in fields:
        raise RecipeError(suggest("setting", path, fields))
    return fields[path]


def shown_section(name: str) -> str:
    """A section as users write and read it: what an ablation takes away, it takes from the data."""
    return "data" if name == "ablation" else name


def parse_value(text: str, hint: Any, path: str) -> Any:
    """Parses a value of the command line.

    Args:
        text: the value as written.
        hint: the type to parse it as: bool, int, float, str or a `Literal` of strings.
        path: name of the setting, for the error message.

    Raises:
        RecipeError: the text is no such value.
    """
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if text not in choices:
            raise RecipeError(suggest(f"value of {path}", text, choices))
        return text
    if hint is str:
        return text
    if hint not in _EXPECTED:
        raise RecipeError(f"{path} cannot be set from the command line")
    try:
        if hint is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        number = float(text)
        if hint is float:
            if not math.isfinite(number):
                raise ValueError
            return number
        if not number.is_integer() or abs(number) > 2**53:  # beyond, a float differs from the number written
            raise ValueError
        return int(number)
    except (ValueError, KeyError, OverflowError):
        raise RecipeError(f"{path} takes {_EXPECTED[hint]}, not '{text}'") from None


_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number"}


def validate_recipe(recipe: Recipe) -> None:
    """Raises `RecipeError` if a value is out of range or contradicts another."""
    e, o, t = recipe.encoder, recipe.optimizer, recipe.train
    for name, value in (
        ("encoder.dim", e.dim), ("encoder.heads", e.heads), ("encoder.layers", e.layers), ("encoder.qkv", e.qkv),
        ("encoder.mlp", e.mlp), ("train.steps", t.steps), ("train.batch", t.batch),
        ("train.eval_every", t.eval_every), ("train.accumulate", t.accumulate),
    ):  # fmt: skip
        if value < 1:
            raise RecipeError(f"{name} must be at least 1, not {value}")
    for name, examples in (
        ("train.validation_examples", t.validation_examples), ("train.test_examples", t.test_examples),
    ):  # fmt: skip
        if examples < 0:
            raise RecipeError(f"{name} must be at least 1, or 0 for all, not {examples}")
    a = recipe.ablation
    for name, size in (("data.window", a.window), ("data.within", a.within), ("data.blocks", a.blocks)):
        if size < 0:
            raise RecipeError(f"{name} must be at least 1 token, or 0 for no change, not {size}")
    for name, rate in (("encoder.dropout", e.dropout), ("encoder.attention_dropout", e.attention_dropout)):
        if not 0 <= rate < 1:
            raise RecipeError(f"{name} must be at least 0 and less than 1, not {rate}")
    if e.input_std <= 0:
        raise RecipeError(f"encoder.input_std must be positive, not {e.input_std}")
    if not 0 <= e.norm_momentum < 1:
        raise RecipeError(f"encoder.norm_momentum must be at least 0 and less than 1, not {e.norm_momentum}")
    if e.qkv % e.heads:
        raise RecipeError(f"encoder.qkv ({e.qkv}) must be a multiple of encoder.heads ({e.heads})")
    if t.batch % t.accumulate:
        raise RecipeError(f"train.batch ({t.batch}) must be a multiple of train.accumulate ({t.accumulate})")
    if t.remat and e.reversible:
        raise RecipeError("train.remat has no effect with encoder.reversible: leave one out")
    if e.reversible and (e.block != "mlp" or not e.prenorm or e.norm == "batch"):
        raise RecipeError(
            "encoder.reversible needs encoder.block=mlp, encoder.prenorm=true and another norm than batch"
        )
    if e.positions == "rotary" and e.qkv // e.heads % 2:
        raise RecipeError(f"rotary positions need an even encoder.qkv / encoder.heads, not {e.qkv} / {e.heads}")
    if recipe.schedule.warmup < 0 or o.clip < 0 or o.weight_decay < 0 or o.eps <= 0 or o.learning_rate < 0:
        raise RecipeError("learning rate, weight decay, clip and warmup must not be negative, and eps must be positive")
    if not (0 <= o.b1 < 1 and 0 <= o.b2 < 1):
        raise RecipeError("optimizer.b1 and optimizer.b2 must be at least 0 and less than 1")
    if o.slow_factor < 0:
        raise RecipeError(f"optimizer.slow_factor must not be negative, not {o.slow_factor}")
    for name, roles in (("optimizer.slow", o.slow), ("optimizer.undecayed", o.undecayed)):
        if roles and not all(role and role == role.strip() for role in roles.split(",")):
            raise RecipeError(f"{name} takes roles with single commas between them, as 'A,step,B', not '{roles}'")
    if t.steps * t.batch >= 2**32:
        raise RecipeError("train.steps × train.batch must be below 2³²")


def identity(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a recipe, given as `dataclasses.asdict` or as a record holds it.

    Fields made by `added` count only where they differ from their defaults, so that adding one leaves the keys of
    cells, and the recipes of older records, as they are.
    """
    counted = {
        name: {field: value for field, value in part.items() if _ADDED.get(f"{name}.{field}", _ADDED) != value}
        if isinstance(part, Mapping)
        else part
        for name, part in recipe.items()
    }
    return {name: part for name, part in counted.items() if part or name != "ablation"}


_ADDED = {
    f"{section}.{field.name}": field.default
    for section, kind in SECTIONS.items()
    for field in dataclasses.fields(kind)
    if "added" in field.metadata
}
"""Defaults of the fields made by `added`, by 'section.field'."""


def suggest(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for the user: `name` is no known `kind`; suggests the nearest known name, or lists all."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
    return f"unknown {kind} '{name}': {hint}"


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """The inverse of `dataclasses.asdict` for nested frozen dataclasses. The recipe's `data` stays a dictionary."""
    hints = typing.get_type_hints(cls)
    fields = {
        name: from_dict(hints[name], value) if dataclasses.is_dataclass(hints[name]) else value
        for name, value in values.items()
    }
    return cls(**fields)
