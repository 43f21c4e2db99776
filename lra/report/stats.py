"""Intervals and tests of accuracies: over seeds where there are several, by the test set's size where there is one.

Accuracies are in %. Every interval is a 95 % one and every test two-sided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean accuracy and what is known of its error.

    Over several seeds the error is that of their mean. One seed says nothing of the spread over seeds: its error is
    the test set's binomial one, a lower bound. The same stands in where several seeds agree to the last digit.
    """

    mean: float
    """%."""
    count: int
    """Seeds."""
    variance: float | None
    """Of the mean, %²; None where nothing is known of it."""
    df: float = math.inf
    """Degrees of freedom of `variance`; infinite for a binomial one."""
    spread: float = 0.0
    """Sample standard deviation over seeds, %; 0 for one seed."""
    interval: tuple[float, float] | None = None
    """95 %, in %."""

    @property
    def margin(self) -> float | None:
        """Half the interval's width, %: what stands after ±."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2


@dataclass(frozen=True)
class Difference:
    """Of two means: a − b in points of %, with its interval and the test's p; both None where an error is unknown."""

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
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return centre - half, centre + half


def estimate(scores: Sequence[float], examples: int | None) -> Estimate:
    """The mean of one score a seed, each a share of `examples` that were answered rightly.

    Args:
        scores: shares from 0 to 1, at least one.
        examples: size of the split they were scored on; None where it is not known.
    """
    count, mean = len(scores), math.fsum(scores) / len(scores)
    spread = math.sqrt(math.fsum((s - mean) ** 2 for s in scores) / (count - 1)) if count > 1 else 0.0
    if spread > 1e-12:
        variance = spread**2 / count
        half = _quantile(count - 1) * math.sqrt(variance)
        ends = (mean - half, mean + half)
        return Estimate(100 * mean, count, 1e4 * variance, count - 1, 100 * spread, _percent(ends))
    if not examples:
        return Estimate(100 * mean, count, None)
    low, high = wilson(mean, examples)
    return Estimate(100 * mean, count, 1e4 * mean * (1 - mean) / examples, math.inf, 0.0, _percent((low, high)))


def average(parts: Sequence[Estimate | float]) -> Estimate:
    """The mean of several tasks' estimates; a plain number is a convention (a failure counted as 50) without error.

    The variances add up; degrees of freedom by Satterthwaite (1946).
    """
    known = [part for part in parts if isinstance(part, Estimate)]
    mean = math.fsum(part.mean if isinstance(part, Estimate) else part for part in parts) / len(parts)
    count = min((part.count for part in known), default=0)
    variances = [part.variance for part in known]
    if not known or any(v is None for v in variances):
        return Estimate(mean, count, None)
    variance, df = _add_variances(
        [(v / len(parts) ** 2, part.df) for v, part in zip(variances, known, strict=True) if v]
    )
    half = _quantile(df) * math.sqrt(variance)
    return Estimate(mean, count, variance, df, 0.0, (mean - half, mean + half))


def difference(a: Estimate, b: Estimate) -> Difference:
    """a − b by Welch's test (1947) on the two means.

    A side with one seed borrows the other side's spread over seeds where that is larger than its own binomial error.
    The errors are taken as independent, which is cautious: both sides were scored on the same test set.
    """
    value = a.mean - b.mean
    left, right = _borrow_variance(a, b), _borrow_variance(b, a)
    if left is None or right is None:
        return Difference(value, None, None)
    variance, df = _add_variances([left, right])
    if variance == 0:
        return Difference(value, (value, value), 0.0 if value else 1.0)
    error = math.sqrt(variance)
    half = _quantile(df) * error
    return Difference(value, (value - half, value + half), float(2 * stdtr(df, -abs(value) / error)))


def _borrow_variance(one: Estimate, other: Estimate) -> tuple[float, float] | None:
    if one.variance is None:
        return None
    if one.count == 1 and other.spread**2 > one.variance:
        return other.spread**2, other.df
    return one.variance, one.df


def _add_variances(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The variance of a sum of independent (variance, df), and its degrees of freedom."""
    variance = math.fsum(v for v, _ in parts)
    doubt = math.fsum(v * v / df for v, df in parts)
    return variance, variance**2 / doubt if doubt else math.inf


def _quantile(df: float) -> float:
    return float(stdtrit(df if math.isfinite(df) else 1e12, 0.5 + LEVEL / 2))


def _percent(ends: tuple[float, float]) -> tuple[float, float]:
    return 100 * ends[0], 100 * ends[1]
