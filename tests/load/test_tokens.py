"""Counting tokens of chunks, and the instants they get."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.load.tokens import Row, count, instants, spread


@given(st.integers(0, 10_000), st.integers(1, 500))
def test_a_spread_adds_up_is_even_and_begins_with_one_at_least(total: int, parts: int) -> None:
    shares = spread(total, parts)
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1
    assert shares[0] >= min(total, 1)


def test_four_tokens_of_one_chunk_have_four_gaps_of_a_quarter() -> None:
    assert instants([1000, 1400], [1, 4]) == [1000, 1100, 1200, 1300, 1400]


def test_tokens_of_the_first_chunk_all_come_with_it() -> None:
    assert instants([1000, 1010], [3, 1]) == [1000, 1000, 1000, 1010]


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 9)), max_size=30))
def test_each_token_has_an_instant_none_later_than_its_chunk(chunks: list[tuple[int, int]]) -> None:
    at, total = [], 0
    for gap, _ in chunks:
        total += gap
        at.append(total)
    found = instants(at, [n for _, n in chunks])
    assert len(found) == sum(n for _, n in chunks)
    assert found == sorted(found)
    assert found[-1:] == at[-1:]


ROWS = st.lists(
    st.builds(
        Row,
        st.integers(0, 10**6),
        st.integers(0, 2),
        st.none() | st.integers(0, 4),
        st.none() | st.integers(0, 30),
        st.sampled_from(["", "a", "<think>", "</think>"]),
    ),
    max_size=12,
)


@given(ROWS, st.none() | st.integers(0, 40), st.sampled_from([None, "stop", "length"]))
def test_any_rows_are_counted_and_usage_is_kept_to(
    rows: list[Row], usage: int | None, finish: str | None
) -> None:
    counted = count(rows, usage, finish)
    assert all(n > 0 for n in counted.chunk_tokens)
    assert 0 <= counted.reasoning <= len(counted.chunk_ns)
    if counted.by == "usage":
        assert sum(counted.chunk_tokens) == usage
