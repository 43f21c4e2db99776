"""Intervals and tests against figures worked out by hand or by SciPy's own functions."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from lra.report.stats import Estimate, average, difference, estimate, wilson

SHARES = st.lists(st.floats(0.05, 0.95), min_size=2, max_size=6)


def test_three_seeds_by_hand():
    estimated = estimate([0.40, 0.44, 0.48], 2000)
    assert estimated.mean == pytest.approx(44) and estimated.spread == pytest.approx(4) and estimated.count == 3
    # t of 2 degrees of freedom at 97.5 %: 4.30265; 4 / √3 = 2.3094
    assert estimated.margin == pytest.approx(4.30265 * 2.30940, rel=1e-5)
    assert estimated.interval == pytest.approx((44 - 9.93654, 44 + 9.93654), rel=1e-5)


def test_one_seed_has_the_test_set_s_binomial_error():
    estimated = estimate([0.443], 2000)
    # Wilson by hand: centre (0.443 + 0.00096036) / 1.00192073, half-width 0.0217467
    assert estimated.interval == pytest.approx((42.1362, 46.4856), abs=2e-3)
    assert estimated.variance == pytest.approx(1e4 * 0.443 * 0.557 / 2000)
    assert estimated.spread == 0 and math.isinf(estimated.df)


def test_wilson_stays_inside_0_and_1_and_agrees_with_scipy():
    for right, count in ((0, 50), (50, 50), (7, 50), (1999, 2000)):
        low, high = wilson(right / count, count)
        theirs = stats.binomtest(right, count).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_one_seed_of_an_unknown_test_set_has_no_interval():
    estimated = estimate([0.5], None)
    assert estimated.interval is None and estimated.margin is None
    assert difference(estimated, estimate([0.9], 2000)).p is None
    assert not difference(estimate([0.9], 2000), estimated).significant


def test_seeds_that_agree_to_the_last_digit_have_the_test_set_s_error():
    estimated = estimate([0.178, 0.178, 0.178], 2000)
    assert estimated.variance == pytest.approx(1e4 * 0.178 * 0.822 / 2000) and estimated.count == 3


@given(SHARES, SHARES)
def test_the_difference_is_welch_s(a, b):
    assume(min(max(values) - min(values) for values in (a, b)) > 1e-3)
    ours = difference(estimate(a, None), estimate(b, None))
    theirs = stats.ttest_ind([100 * x for x in a], [100 * x for x in b], equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert ours.p == pytest.approx(theirs.pvalue, abs=1e-9)
    assert ours.interval == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-6)


@given(SHARES, SHARES)
def test_the_difference_is_antisymmetric(a, b):
    there, back = difference(estimate(a, 2000), estimate(b, 2000)), difference(estimate(b, 2000), estimate(a, 2000))
    assert there.value == pytest.approx(-back.value) and there.p == pytest.approx(back.p)
    assert there.significant == back.significant


def test_two_single_seeds_are_compared_by_two_proportions():
    # z = 0.03 / √(0.25·2/2000) = 1.897, p = 0.058: not enough; 0.05 is.
    assert not difference(estimate([0.515], 2000), estimate([0.485], 2000)).significant
    assert difference(estimate([0.525], 2000), estimate([0.475], 2000)).p == pytest.approx(0.00153, abs=2e-5)


def test_a_single_seed_borrows_the_other_side_s_larger_spread():
    several = estimate([0.40, 0.50, 0.60], 2000)
    alone = estimate([0.58], 2000)
    assert difference(alone, estimate([0.50], 2000)).significant
    assert not difference(alone, several).significant
    # The spread of one seed, 10² / 1, beside that of a mean of three, 10² / 3; degrees of freedom by Satterthwaite.
    variance, df = 100 + 100 / 3, (100 + 100 / 3) ** 2 / (100**2 / 2 + (100 / 3) ** 2 / 2)
    compared = difference(alone, several)
    assert compared.p == pytest.approx(2 * stats.t.sf(8 / math.sqrt(variance), df))
    margin = stats.t.ppf(0.975, df) * math.sqrt(variance)
    assert compared.interval == pytest.approx((8 - margin, 8 + margin))


def test_an_average_adds_variances():
    estimated = average([Estimate(40, 3, 4.0, 2), Estimate(60, 5, 1.0, 4), 50.0])
    assert estimated.mean == pytest.approx(50) and estimated.count == 3
    assert estimated.variance == pytest.approx(5 / 9)
    # Satterthwaite: 5² / (4²/2 + 1²/4) = 3.0303
    assert estimated.df == pytest.approx(25 / 8.25)
    assert average([Estimate(40, 1, None), 50.0]).interval is None
