"""Rank correlations with bootstrap intervals over the points."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lra.report.stats import LEVEL

RESAMPLES = 10_000
_DECIMALS = 6
"""Values that agree to this many decimals are ties: the sums of equal scores may differ in their last bits."""


@dataclass(frozen=True)
class Correlation:
    """A rank correlation and the ends of its 95 % interval; NaN where it is undefined."""

    value: float
    low: float
    high: float


def correlate(x: np.ndarray, y: np.ndarray) -> tuple[Correlation, Correlation]:
    """Spearman's rho and Kendall's tau-b of points x, y [N], with percentile intervals (Efron 1979).

    The bootstrap draws N points with replacement, `RESAMPLES` times, always from the same seed. A resample in which x
    or y is constant has no correlation and is left out of the interval.
    """
    x, y = np.round(x, _DECIMALS), np.round(y, _DECIMALS)
    count = len(x)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    (rho,), (tau,) = rank_correlations(x, y, np.ones((1, count)))
    rhos, taus = rank_correlations(x, y, drawn.astype(float))
    return _with_interval(rho, rhos), _with_interval(tau, taus)


def rank_correlations(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spearman's rho and Kendall's tau-b [R] of R samples; NaN where x or y is constant.

    Both follow from the signs of all differences: a point's rank, less the mean rank, is half the sum of the signs of
    its differences from all points, ties included, and tau-b is the cosine of the two matrices of signs.

    Args:
        x: [N].
        y: [N].
        counts: how often each sample holds each point, [R, N].
    """
    sign_x, sign_y = (np.sign(np.subtract.outer(values, values)) for values in (x, y))
    rank_x, rank_y = counts @ sign_x.T, counts @ sign_y.T

    def total(pairs: np.ndarray) -> np.ndarray:
        return ((counts @ pairs) * counts).sum(1)

    def products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (counts * a * b).sum(1)

    with np.errstate(invalid="ignore"):
        rho = products(rank_x, rank_y) / np.sqrt(products(rank_x, rank_x) * products(rank_y, rank_y))
        tau = total(sign_x * sign_y) / np.sqrt(total(sign_x**2) * total(sign_y**2))
    return rho, tau


def _with_interval(value: float, resampled: np.ndarray) -> Correlation:
    defined = resampled[np.isfinite(resampled)]
    if not len(defined):
        return Correlation(value, math.nan, math.nan)
    low, high = np.percentile(defined, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Correlation(float(value), float(low), float(high))
