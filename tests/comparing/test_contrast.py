"""Ratios and their intervals: against SciPy, and by what must hold for any data."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.comparing import contrast
from harness.comparing.contrast import Contrast
from harness.comparing.ratio import BOOTSTRAP_FROM, Side, contrast_of, rank_test, ratio
from harness.comparing.verdict import decide
from harness.records.comparison import Margin

positive = st.floats(1e-3, 1e6, allow_nan=False)
samples = st.lists(positive, min_size=3, max_size=12)
MARGIN = Margin(value=0.03, source="test")


def made(a: list[float], b: list[float], *, paired: bool = False) -> Contrast:
    found = contrast_of(Side(values=a), Side(values=b), paired=paired)
    assert found is not None
    return found


@given(samples, samples)
def test_swapping_the_sides_inverts_the_ratio_and_its_interval(
    a: list[float], b: list[float]
) -> None:
    there, back = made(a, b), made(b, a)
    assert there.value == pytest.approx(1 / back.value)
    first, second = there.interval(), back.interval()
    assert first is not None
    assert second is not None
    assert there.effect == pytest.approx(-back.effect)
    assert there.p_beyond(0.03) == pytest.approx(back.p_beyond(0.03), abs=1e-12)


@given(samples, samples, st.floats(1e-3, 1e3))
def test_the_unit_of_measurement_does_not_matter(
    a: list[float], b: list[float], factor: float
) -> None:
    plain, scaled = made(a, b), made([x * factor for x in a], [x * factor for x in b])
    assert scaled.effect == pytest.approx(plain.effect, abs=1e-9)
    assert scaled.se == pytest.approx(plain.se, rel=1e-6, abs=1e-9)


@given(samples, st.booleans())
def test_identical_samples_are_unchanged_or_inconclusive(a: list[float], paired: bool) -> None:
    found = ratio(Side(values=a), Side(values=list(a)), paired=paired)
    one = made(a, list(a), paired=paired)
    assert found.value == pytest.approx(1.0)
    p = one.p_beyond(MARGIN.value)
    for direction in ("higher", "lower"):
        assert decide(one, found, MARGIN, direction, p)[0] in ("unchanged", "inconclusive")


@pytest.mark.filterwarnings("ignore:Precision loss")
@given(samples, samples)
def test_welch_agrees_with_scipy_on_logarithms(a: list[float], b: list[float]) -> None:
    from scipy.stats import ttest_ind

    found = made(a, b)
    logs = [[math.log(x) for x in side] for side in (a, b)]
    if found.se is None or found.se < 1e-9:
        return
    reference = ttest_ind(logs[1], logs[0], equal_var=False)
    bounds = reference.confidence_interval(0.95)
    interval = found.interval(0.95)
    assert interval is not None
    assert math.log(interval[0]) == pytest.approx(bounds.low, rel=1e-6, abs=1e-9)
    assert math.log(interval[1]) == pytest.approx(bounds.high, rel=1e-6, abs=1e-9)
    assert found.p_beyond(0.0) == pytest.approx(reference.pvalue, rel=1e-6, abs=1e-12)


@pytest.mark.filterwarnings("ignore:Precision loss")
@given(st.lists(st.tuples(positive, positive), min_size=3, max_size=12))
def test_paired_differences_agree_with_scipy(pairs: list[tuple[float, float]]) -> None:
    from scipy.stats import ttest_rel

    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    found = made(a, b, paired=True)
    if found.se is None or found.se < 1e-9:
        return
    reference = ttest_rel([math.log(y) for y in b], [math.log(x) for x in a])
    assert found.p_beyond(0.0) == pytest.approx(reference.pvalue, rel=1e-6, abs=1e-12)


@given(samples, samples)
def test_p_is_below_5_percent_just_where_the_95_percent_interval_is_beyond_the_margin(
    a: list[float], b: list[float]
) -> None:
    found = made(a, b)
    bounds, p = found.interval(0.95), found.p_beyond(0.03)
    assert bounds is not None
    assert p is not None
    beyond = bounds[0] > 1.03 or bounds[1] < 1 / 1.03
    if abs(p - 0.05) > 1e-6:
        assert beyond == (p < 0.05)


def test_one_value_tells_a_ratio_but_no_interval() -> None:
    found = ratio(Side(values=[2.0]), Side(values=[3.0]))
    assert found.value == pytest.approx(1.5)
    assert (found.low, found.high, found.rank_p) == (None, None, None)
    assert found.reason is not None


def test_a_zero_has_no_ratio_and_says_so() -> None:
    found = ratio(Side(values=[0.0, 1.0, 2.0]), Side(values=[1.0, 1.0, 1.0]))
    assert found.value is None
    assert "zero" in str(found.reason)
    assert ratio(Side(), Side(values=[1.0])).reason == "no value on the baseline"


def test_differences_are_compared_where_the_rules_ask_for_them() -> None:
    found = ratio(Side(values=[0.0, 0.0, 0.0]), Side(values=[0.1, 0.1, 0.1]), scale="difference")
    assert found.value == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1)


def test_a_single_run_borrows_the_spread_of_many() -> None:
    many = Side(values=[1.0, 1.01, 0.99, 1.02, 0.98], unit="run")
    found = contrast_of(many, Side(values=[1.2], unit="run"), paired=False)
    assert found is not None
    assert found.df == 4
    assert found.se is not None
    two = Side(values=[1.0, 1.1], unit="run")
    few = contrast_of(two, Side(values=[1.2], unit="run"), paired=False)
    assert few is not None
    assert few.se is None


@pytest.mark.parametrize("n", [3, 4, 6, 9])
def test_the_permutation_of_signs_is_scipys_permutation_test(n: int) -> None:
    import numpy as np
    from scipy.stats import permutation_test

    rng = np.random.default_rng(n)
    a, b = rng.lognormal(0, 0.1, n), rng.lognormal(0.1, 0.1, n)
    p, floor = rank_test(list(a), list(b), paired=True)
    reference = permutation_test(
        (np.log(b) - np.log(a),), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert p == pytest.approx(reference.pvalue)
    assert floor == 2.0 ** (1 - n)
    assert p is not None
    assert p >= floor


def test_three_against_three_can_never_reach_5_percent_by_ranks() -> None:
    p, floor = rank_test([1.0, 1.1, 1.2], [2.0, 2.1, 2.2], paired=False)
    assert p == pytest.approx(0.1)
    assert floor == pytest.approx(0.1)
    p, floor = rank_test([1.0, 1.1, 1.2, 1.3], [2.0, 2.1, 2.2, 2.3], paired=False)
    assert p == pytest.approx(2 / 70)


def test_equal_values_are_no_evidence() -> None:
    assert rank_test([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], paired=False)[0] == 1.0
    assert rank_test([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], paired=True)[0] == 1.0


def test_the_bootstrap_waits_for_a_sample_that_can_carry_it() -> None:
    few = [1.0 + 0.01 * i for i in range(BOOTSTRAP_FROM - 1)]
    assert ratio(Side(values=few), Side(values=few)).bootstrap is None
    many = [1.0 + 0.01 * (i % 7) for i in range(BOOTSTRAP_FROM)]
    more = [1.1 * x for x in many]
    found = ratio(Side(values=many), Side(values=more))
    assert found.bootstrap is not None
    assert found.bootstrap[0] < 1.1 < found.bootstrap[1]
    near = [x * (1 + 0.001 * (i % 3)) for i, x in enumerate(more)]
    pairs = ratio(Side(values=many), Side(values=near), paired=True)
    assert pairs.bootstrap is not None
    assert pairs.bootstrap[1] - pairs.bootstrap[0] < found.bootstrap[1] - found.bootstrap[0]


def test_values_that_never_vary_have_an_exact_ratio() -> None:
    found = contrast.paired([0.0, 0.0], [math.log(2)] * 2, "ratio")
    assert found.p_beyond(0.03) == 0.0
    assert found.interval() == (pytest.approx(2.0), pytest.approx(2.0))
