from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ArmbenchError
from harness.units import (
    format_bytes,
    format_cpu_list,
    format_duration,
    parse_bytes,
    parse_cpu_list,
    parse_duration,
)


@given(st.sets(st.integers(0, 5000)))
def test_a_cpu_list_survives_writing_and_reading(cpus: set[int]) -> None:
    assert parse_cpu_list(format_cpu_list(cpus)) == sorted(cpus)


def test_a_cpu_list_keeps_the_order_it_was_written_in() -> None:
    assert parse_cpu_list("8,0-2,1") == [8, 0, 1, 2]


@pytest.mark.parametrize("text", ["a", "3-1", "0-", "-1", "0;1", "0-99999999", "1-200000"])
def test_a_malformed_cpu_list_is_refused(text: str) -> None:
    with pytest.raises(ArmbenchError, match="CPU list"):
        parse_cpu_list(text)


@given(st.text())
def test_no_text_makes_a_parser_raise_anything_but_a_user_error(text: str) -> None:
    for parse in (parse_cpu_list, parse_duration, parse_bytes):
        try:
            parse(text)
        except ArmbenchError as error:
            assert error.message


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1.5h", 5400), ("20m", 1200), ("7", 7), ("250ms", 0.25)]
)
def test_durations_are_read_in_their_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


def test_sizes_know_binary_from_decimal_units() -> None:
    assert parse_bytes("1GiB") == 2**30
    assert parse_bytes("1GB") == 10**9
    assert parse_bytes("512k") == 512 * 1024


def test_sizes_and_durations_are_short_to_read() -> None:
    assert format_bytes(1_984_519_680) == "1.85 GiB"
    assert format_bytes(512) == "512 B"
    assert format_duration(0.0123) == "12 ms"
    assert format_duration(245) == "4 min 05 s"
    assert format_duration(4800) == "1 h 20 min"
