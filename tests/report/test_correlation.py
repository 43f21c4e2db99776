"""Rank correlations and their intervals, against SciPy and a bootstrap written out."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lra.report import correlation

POINTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=12)


def by_scipy(x, y):
    """Spearman's rho and Kendall's tau-b; NaN where one side is constant."""
    if len(set(x)) == 1 or len(set(y)) == 1:
        return math.nan, math.nan
    return stats.spearmanr(x, y).statistic, stats.kendalltau(x, y).statistic


@settings(deadline=None)
@given(POINTS, st.randoms(use_true_random=False))
def test_samples_with_ties_and_repeats_have_scipy_s_correlations(points, random):
    x, y = np.array(points, float).T
    counts = np.array([[1] * len(x), *([random.randrange(3) for _ in x] for _ in range(4))], float)
    counts[:, 0] += 1  # no sample is empty
    rhos, taus = correlation.rank_correlations(x, y, counts)
    for rho, tau, times in zip(rhos, taus, counts.astype(int), strict=True):
        expected = by_scipy(np.repeat(x, times), np.repeat(y, times))
        np.testing.assert_allclose((rho, tau), expected, atol=1e-12)


def test_the_interval_is_that_of_a_bootstrap_written_out(monkeypatch):
    monkeypatch.setattr(correlation, "RESAMPLES", 300)
    random = np.random.default_rng(5)
    x = random.normal(size=9)
    y = x + random.normal(size=9)
    resampled = [
        by_scipy(np.repeat(x, times), np.repeat(y, times))
        for times in np.random.default_rng(0).multinomial(9, np.full(9, 1 / 9), 300)
    ]
    for found, value, values in zip(
        correlation.correlate(x, y), by_scipy(x, y), zip(*resampled, strict=True), strict=True
    ):
        low, high = np.quantile(values, [0.025, 0.975])
        np.testing.assert_allclose((found.value, found.low, found.high), (value, low, high), atol=1e-12)
        assert found.low < found.value < found.high


def test_resamples_with_a_constant_side_are_left_out_of_the_interval():
    rho, tau = correlation.correlate(np.array([1.0, 1, 1, 2]), np.array([1.0, 2, 3, 4]))
    assert rho.value == pytest.approx(math.sqrt(0.6)) and tau.value == pytest.approx(3 / math.sqrt(3 * 6))
    assert 0 < rho.low < rho.high <= 1 and 0 < tau.low < tau.high <= 1


def test_a_constant_side_has_no_correlation():
    for found in correlation.correlate(np.full(5, 10.0), np.arange(5.0)):
        assert math.isnan(found.value) and math.isnan(found.low) and math.isnan(found.high)


def test_equal_scores_that_were_added_up_in_another_order_are_ties():
    x = np.array([0.1 + 0.2, 0.3, 0.4, 0.5])
    assert x[0] != x[1]
    rho, tau = correlation.correlate(x, np.array([1.0, 1.0, 2.0, 3.0]))
    assert rho.value == pytest.approx(1) and tau.value == pytest.approx(1)


def test_the_same_points_have_the_same_interval_in_any_order_of_magnitude():
    x, y = np.array([3.0, 1, 4, 1, 5, 9, 2, 6]), np.array([2.0, 7, 1, 8, 2, 8, 1, 8])
    assert correlation.correlate(x, y) == correlation.correlate(np.exp(x), 100 + y)
