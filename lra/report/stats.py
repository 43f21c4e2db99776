"""Intervals and tests of accuracies: over seeds where there are several, by the test set's size where there is one.

Accuracies are in %. All intervals are 95 % intervals, all tests two-sided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean accuracy and its error, as far as it is known.

    Over several seeds the error is that of their mean. One seed says nothing about the spread over seeds: its error is
    the binomial error of the test set, a lower bound. So is that of several seeds that agree to the last digit.
    """

    mean: float
    """%."""
    count: int
    """Seeds."""
    variance: float | None
    """Of the mean, %²; None where it is unknown."""
    df: float = math.inf
    """Degrees of freedom of `variance`; infinite for a binomial one."""
    spread: float = 0.0
    """Sample standard deviation over seeds, %; 0 for one seed."""
    interval: tuple[float, float] | None = None
    """95 %, in %."""

    @property
    def margin(self) -> float | None:
        """Half the interval's width, %: the number after ±."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2


@dataclass(frozen=True)
class Difference:
    """The difference a − b of two means, points of %; interval and p are None where an error is unknown."""

    value: float
    interval: tuple[float, float] | None
    p: float | None

    @property
    def significant(self) -> bool:
        """Whether the two differ by more than their errors explain, at 5 %."""
        return self.p is not None and self.p < 1 - LEVEL


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a binomial share from `count` trials (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    z = _quantile(math.inf)
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    margin = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return centre - margin, centre + margin


def estimate(scores: Sequence[float], examples: int | None) -> Estimate:
    """The mean over seeds of the share of `examples` that were answered correctly.

    Args:
        scores: one share from 0 to 1 for each seed, at least one.
        examples: size of the split that was scored; None where it is unknown.
    """
    count, mean = len(scores), math.fsum(scores) / len(scores)
    spread = math.sqrt(math.fsum((s - mean) ** 2 for s in scores) / (count - 1)) if count > 1 else 0.0
    if spread > 1e-12:
        variance = spread**2 / count
        margin = _quantile(count - 1) * math.sqrt(variance)
        ends = (mean - margin, mean + margin)
        return Estimate(100 * mean, count, 1e4 * variance, count - 1, 100 * spread, _percent(ends))
    if not examples:
        return Estimate(100 * mean, count, None)
    low, high = wilson(mean, examples)
    return Estimate(100 * mean, count, 1e4 * mean * (1 - mean) / examples, math.inf, 0.0, _percent((low, high)))


def average(parts: Sequence[Estimate | float]) -> Estimate:
    """The mean of several tasks' estimates; a plain number is a convention without error (a failure counted as 50).

    The variances add up; degrees of freedom by Satterthwaite (1946).
    """
    estimates = [part for part in parts if isinstance(part, Estimate)]
    mean = math.fsum(part.mean if isinstance(part, Estimate) else part for part in parts) / len(parts)
    count = min((part.count for part in estimates), default=0)
    variances = [part.variance for part in estimates]
    if not estimates or any(v is None for v in variances):
        return Estimate(mean, count, None)
    scaled = [(v / len(parts) ** 2, part.df) for v, part in zip(variances, estimates, strict=True) if v]
    variance, df = _add_variances(scaled)
    margin = _quantile(df) * math.sqrt(variance)
    return Estimate(mean, count, variance, df, 0.0, (mean - margin, mean + margin))


def difference(a: Estimate, b: Estimate) -> Difference:
    """Tests a − b by Welch's test (1947) on the two means.

    A side with one seed borrows the other side's spread over seeds where that exceeds its own binomial error. Treating
    the errors as independent is conservative: both sides were scored on the same test set.
    """
    value = a.mean - b.mean
    left, right = _variance(a, b), _variance(b, a)
    if left is None or right is None:
        return Difference(value, None, None)
    variance, df = _add_variances([left, right])
    if variance == 0:
        return Difference(value, (value, value), 0.0 if value else 1.0)
    error = math.sqrt(variance)
    margin = _quantile(df) * error
    return Difference(value, (value - margin, value + margin), float(2 * stdtr(df, -abs(value) / error)))


def _variance(side: Estimate, other: Estimate) -> tuple[float, float] | None:
    """The variance of a side's mean and its degrees of freedom."""
    if side.variance is None:
        return None
    if side.count == 1 and other.spread**2 > side.variance:
        return other.spread**2, other.df
    return side.variance, side.df


def _add_variances(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The variance of a sum of independent (variance, df), and its degrees of freedom."""
    variance = math.fsum(v for v, _ in parts)
    inverse_df = math.fsum(v * v / df for v, df in parts)
    return variance, variance**2 / inverse_df if inverse_df else math.inf


def _quantile(df: float) -> float:
    return float(stdtrit(df if math.isfinite(df) else 1e12, 0.5 + LEVEL / 2))


def _percent(ends: tuple[float, float]) -> tuple[float, float]:
    return 100 * ends[0], 100 * ends[1]
