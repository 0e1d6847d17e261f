from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ArmbenchError
from harness.load.lengths import draw, format_lengths, mean_tokens, parse_lengths
from harness.records.load import Lengths

WRITTEN = [
    "64",
    "uniform:32-128",
    "normal:64/16",
    "lognormal:64/0.5",
    "trace",
    "prompts:my prompts.jsonl",
]


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@pytest.mark.parametrize("text", WRITTEN)
def test_lengths_survive_reading_and_writing(text: str) -> None:
    assert format_lengths(parse_lengths(text)) == text


def test_a_comma_serves_as_well_as_a_slash() -> None:
    assert parse_lengths("normal:64,16") == parse_lengths("normal:64/16")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-5",
        "1.5",
        "999999999999",
        "uniform:9-3",
        "uniform:0-3",
        "uniform:",
        "normal:64",
        "normal:0/3",
        "normal:64/-3",
        "lognormal:64/9",
        "prompts:",
        "trace:",
        "gaussian:3/4",
        "lognormal:nan/1",
    ],
)
def test_text_that_is_no_length_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ArmbenchError, match="not a length") as caught:
        parse_lengths(text)
    assert "uniform:32-128" in (caught.value.hint or "")


@given(st.text() | st.from_regex(r"(uniform|normal|lognormal|prompts)?:?[0-9./,-]{0,12}"))
def test_no_text_makes_the_parser_raise_anything_but_a_user_error(text: str) -> None:
    try:
        lengths = parse_lengths(text)
    except ArmbenchError:
        return
    assert parse_lengths(format_lengths(lengths)) == lengths or lengths.kind == "prompts"
    if lengths.kind not in ("trace", "prompts"):
        assert all(tokens >= 1 for tokens in draw(lengths, 20, rng()))


def test_fixed_lengths_do_not_vary() -> None:
    assert draw(parse_lengths("64"), 5, rng()) == [64] * 5


def test_uniform_lengths_reach_both_ends_evenly() -> None:
    drawn = draw(parse_lengths("uniform:1-4"), 40_000, rng())
    for value in (1, 2, 3, 4):
        assert drawn.count(value) == pytest.approx(10_000, rel=0.05)


def test_normal_lengths_have_the_mean_and_spread_asked_for() -> None:
    drawn = draw(parse_lengths("normal:100/10"), 20_000, rng())
    assert statistics.fmean(drawn) == pytest.approx(100, rel=0.01)
    assert statistics.stdev(drawn) == pytest.approx(10, rel=0.03)


def test_lognormal_lengths_have_the_median_and_log_spread_asked_for() -> None:
    lengths = parse_lengths("lognormal:1000/0.5")
    drawn = draw(lengths, 20_000, rng())
    assert statistics.median(drawn) == pytest.approx(1000, rel=0.02)
    assert statistics.stdev(map(math.log, drawn)) == pytest.approx(0.5, rel=0.03)
    assert statistics.fmean(drawn) == pytest.approx(mean_tokens(lengths) or 0, rel=0.03)


def test_drawn_lengths_stay_within_their_bounds() -> None:
    wide = Lengths(kind="normal", mean=50, sd=500, low=10, high=90)
    drawn = draw(wide, 1000, rng())
    assert (min(drawn), max(drawn)) == (10, 90)
    assert min(draw(Lengths(kind="normal", mean=1, sd=50), 1000, rng())) == 1


def test_lengths_from_a_file_are_not_drawn() -> None:
    with pytest.raises(ArmbenchError, match="come from a file"):
        draw(parse_lengths("trace"), 1, rng())
    assert mean_tokens(parse_lengths("trace")) is None
