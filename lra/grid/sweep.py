"""Sweeps: what each model is tuned over, and the trials of its budget (`--sweep`, `--trials`).

Without a budget the trials are all combinations of the listed values. With one they are drawn from a Halton sequence,
which fills ranges more evenly than independent draws (Halton 1960, doi:10.1007/BF01386213), shifted at random modulo 1
(Cranley & Patterson 1976, doi:10.1137/0713071). The first 8 of 16 trials are those of a budget of 8: a budget can grow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from configs.recipe import Recipe, RecipeError, field_type, override
from lra.errors import UsageError

Settings = tuple[str, ...]
"""Of one trial: 'section.field=value', one for each axis."""
MAX_TRIALS = 1000
_SEED = 0
"""Of the random shift; another number would be another set of trials."""
_FIXED = ("train.validation_examples", "train.test_examples")
"""Settings that change what is scored."""


@dataclass(frozen=True)
class Axis:
    """A setting, and the values that it may take: a list, or a range."""

    name: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    """Whether a range is even in the logarithm."""

    @property
    def is_range(self) -> bool:
        """Whether it is a range."""
        return not self.values

    def at(self, place: float, whole: bool) -> str:
        """The setting at a place from 0 to 1; numbers have three significant digits, whole ones all."""
        if self.values:
            return f"{self.name}={self.values[int(place * len(self.values))]}"
        low, high = (self.low - 0.5, self.high + 0.5) if whole and not self.log else (self.low, self.high)
        value = low * (high / low) ** place if self.log else low + (high - low) * place
        return f"{self.name}={round(value)}" if whole else f"{self.name}={value:.3g}"


@dataclass(frozen=True)
class Sweep:
    """What every model of a grid is tuned over."""

    axes: tuple[Axis, ...]
    """In the order of their names, so that the order of the flags does not matter."""
    words: tuple[str, ...]
    """The axes as the user wrote them, in the same order."""
    budget: int | None
    """Number of trials; None: all combinations."""

    def trials(self, recipe: Recipe) -> list[Settings]:
        """The settings of each trial of a recipe.

        Raises:
            RecipeError: a setting is unknown, has another type, or contradicts another.
            UsageError: there are too few or too many combinations.
        """
        whole = [_is_whole(axis, recipe) for axis in self.axes]
        if self.budget is None:
            count = math.prod(len(axis.values) for axis in self.axes)
            if count > MAX_TRIALS:
                raise UsageError(
                    f"--sweep has {count:,} combinations, and at most {MAX_TRIALS:,} are tried: add --trials"
                )
            lists = [[f"{axis.name}={value}" for value in axis.values] for axis in self.axes]
            found = list(itertools.product(*lists))
        else:
            found = self._draw(self.budget, whole)
        for settings in found:
            override(recipe, settings)
        return found

    def _draw(self, budget: int, whole: Sequence[bool]) -> list[Settings]:
        """So many different settings, in the order of the sequence."""
        found: dict[Settings, None] = {}
        for point in itertools.islice(_points(len(self.axes)), _MAX_DRAWS * budget):
            parts = zip(self.axes, point, whole, strict=True)
            found.setdefault(tuple(axis.at(place, is_whole) for axis, place, is_whole in parts))
            if len(found) == budget:
                return list(found)
        raise UsageError(f"--trials={budget}: {len(found)} different settings were found in --sweep: lower it")


_MAX_DRAWS = 200
"""Draws for each trial, before the combinations count as used up."""


def _is_whole(axis: Axis, recipe: Recipe) -> bool:
    """Whether the axis takes whole numbers. Raises `RecipeError` for an unknown setting, or a range of no numbers."""
    kind = field_type(recipe, axis.name)
    if axis.is_range and kind not in (int, float):
        raise RecipeError(f"--sweep: {axis.name} takes no numbers: list its values, as {axis.name}=A,B")
    if axis.is_range and kind is int and not (axis.low.is_integer() and axis.high.is_integer()):
        raise RecipeError(f"--sweep: {axis.name} takes whole numbers, not {axis.low:g}..{axis.high:g}")
    return kind is int


def parse(words: Sequence[str], budget: int | None, settings: Sequence[str]) -> Sweep | None:
    """The sweep of a command line; None without one.

    Args:
        words: 'section.field=A,B,C' or 'section.field=LOW..HIGH', with ':log' behind it for one even in the logarithm.
        budget: trials of each model and task; None: all combinations.
        settings: what `--set` sets for all trials.

    Raises:
        UsageError: a malformed or doubled axis, or a range without a budget.
    """
    if not words:
        if budget is not None:
            raise UsageError("--trials needs --sweep: --sweep optimizer.learning_rate=1e-4..1e-2:log")
        return None
    if budget is not None and not 1 <= budget <= MAX_TRIALS:
        raise UsageError(f"--trials must be 1 to {MAX_TRIALS:,}, not {budget}")
    axes = sorted(((_parse_axis(word), word) for word in words), key=lambda pair: pair[0].name)
    names = [axis.name for axis, _ in axes]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"--sweep has {twice} twice: list its values in one")
    for setting in settings:
        if (name := setting.partition("=")[0]) in names:
            raise UsageError(f"--set and --sweep both have {name}: leave one out")
    if budget is None and (ranges := next((axis.name for axis, _ in axes if axis.is_range), None)):
        raise UsageError(f"--sweep: {ranges} is a range, which needs a number of trials: add --trials=8")
    return Sweep(tuple(axis for axis, _ in axes), tuple(word for _, word in axes), budget)


def _parse_axis(word: str) -> Axis:
    name, equals, text = word.partition("=")
    if not equals or not name or not text:
        raise UsageError(f"--sweep takes section.field=A,B or section.field=LOW..HIGH, not '{word}'")
    if name.startswith("data.") or name in _FIXED:
        raise UsageError(f"--sweep: {name} changes what is scored, so its trials could not be compared: use --set")
    if ".." not in text:
        values = tuple(text.split(","))
        if "" in values or len(set(values)) < len(values):
            raise UsageError(f"--sweep {word} has an empty value, or one twice")
        return Axis(name, values)
    ends, colon, scale = text.partition(":")
    try:
        low, high = map(float, ends.split(".."))
    except ValueError:
        raise UsageError(f"--sweep {word}: a range is two numbers, as 1e-4..1e-2") from None
    if colon and scale != "log":
        raise UsageError(f"--sweep {word}: after a range comes ':log' or nothing")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"--sweep {word}: a range goes from a number to a larger one")
    if scale and low <= 0:
        raise UsageError(f"--sweep {word}: a logarithmic range begins above 0")
    return Axis(name, low=low, high=high, log=bool(scale))


def _points(axes: int) -> Iterator[Sequence[float]]:
    """Points of the unit cube, without end."""
    from scipy.stats import qmc  # takes half a second to import

    sequence, shift = qmc.Halton(axes, scramble=False), np.random.default_rng(_SEED).random(axes)
    while True:
        yield from ((sequence.random(64) + shift) % 1).tolist()
