"""How many repeats it takes, and what they can show."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.comparing import enough, power, rules
from harness.errors import ArmbenchError
from tests.comparing.builders import one


@given(st.floats(0.001, 0.2), st.floats(2, 60), st.floats(0, 0.1))
def test_the_detectable_effect_is_where_power_reaches_80_percent(
    se: float, df: float, margin: float
) -> None:
    least = power.detectable(margin, se, df)
    assert least > margin
    assert power.power_at(least, margin, se, df) == pytest.approx(0.8, abs=1e-6)


@given(st.floats(0.005, 0.1), st.floats(0.01, 0.3))
def test_the_repeats_needed_are_enough_and_one_less_is_not(sd: float, effect: float) -> None:
    margin = 0.005
    n = power.repeats_needed(effect, margin, sd)
    if n is None:
        return

    def reached(count: int) -> bool:
        return power.power_at(effect, margin, sd * math.sqrt(2 / count), 2 * count - 2) >= 0.8

    assert reached(n)
    assert n <= 3 or not reached(n - 1)


def test_pairs_need_fewer_repeats_than_sides_apart() -> None:
    apart = power.repeats_needed(0.05, 0.0, 0.05)
    paired = power.repeats_needed(0.05, 0.0, 0.05, paired=True)
    assert apart is not None
    assert paired is not None
    assert paired < apart


def test_textbook_case_effect_of_one_spread_takes_17_a_side() -> None:
    assert power.repeats_needed(1.0, 0.0, 1.0) == 17  # Cohen 1988, table 2.4.1: d 1.0, power 0.80


def test_an_effect_within_the_margin_can_never_be_shown() -> None:
    assert power.repeats_needed(0.02, 0.03, 0.001) is None


def test_more_than_ten_thousand_repeats_are_no_answer() -> None:
    assert power.repeats_needed(0.0301, 0.03, 0.5) is None


def test_bounds_of_a_spread_agree_with_scipy() -> None:
    from scipy.stats import chi2

    low, high = power.spread_bounds(1.0, 3)
    assert low == pytest.approx(math.sqrt(2 / chi2.ppf(0.975, 2)))
    assert high == pytest.approx(math.sqrt(2 / chi2.ppf(0.025, 2)))
    assert (round(low, 2), round(high, 1)) == (0.52, 6.3)  # as the module says
    assert power.spread_upper(1.0, 3) == pytest.approx(math.sqrt(2 / chi2.ppf(0.2, 2)))


def test_power_stays_a_probability_far_out() -> None:
    assert power.power_at(100.0, 0.0, 0.001, 4) == 1.0
    assert power.power_at(0.0, 100.0, 0.001, 4) == 0.0
    assert power.power_at(0.04, 0.03, 0.0, 4) == 1.0
    assert power.power_at(0.02, 0.03, 0.0, 4) == 0.0
    assert power.detectable(0.03, 0.0, 4) == 0.03


def test_a_result_says_what_its_repeats_can_show() -> None:
    steady = one("a", {"decode_tok_per_s": [10.0, 10.1, 9.9, 10.0]})
    found = enough.rows(steady, rules.read(), 0.08)
    assert [row.metric for row in found] == ["decode_tok_per_s"]
    row = found[0]
    assert row.n == 4
    assert row.spread == pytest.approx(0.0082, abs=0.0005)
    assert row.detectable is not None
    assert row.repeats is not None
    assert row.repeats_safe is not None
    assert row.detectable > 0.03
    assert row.repeats <= row.repeats_safe


def test_one_repeat_has_no_power_and_says_why() -> None:
    row = enough.rows(one("a", {"decode_tok_per_s": [10.0]}), rules.read(), 0.05)[0]
    assert (row.spread, row.detectable, row.repeats) == (None, None, None)
    assert "no spread" in str(row.reason)


def test_an_effect_inside_the_noise_is_answered_with_the_margin() -> None:
    columns = {"decode_tok_per_s": [10.0, 10.1, 9.9]}
    row = enough.rows(one("a", columns), rules.read(), 0.02)[0]
    assert row.repeats is None
    assert "within the noise margin" in str(row.reason)


@pytest.mark.parametrize("effect", [0.0, -0.1, math.inf, math.nan])
def test_an_effect_that_is_none_is_refused(effect: float) -> None:
    with pytest.raises(ArmbenchError, match="can't be looked for"):
        enough.rows(one("a", {"decode_tok_per_s": [10.0, 10.1]}), rules.read(), effect)
