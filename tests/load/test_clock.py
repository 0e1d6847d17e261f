"""Clocks: stamps across a set wall clock, lags in bins, and a timer that fires once."""

from __future__ import annotations

import select
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.load import clock
from harness.load.clock import Lags, Timer, WallOffset


def test_a_wall_clock_that_is_set_shows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mono, wall = 0, 10**18

    def tick() -> int:
        nonlocal mono
        mono += 100
        return mono

    monkeypatch.setattr(clock.time, "monotonic_ns", tick)
    monkeypatch.setattr(clock.time, "time_ns", lambda: wall + tick())
    offset = WallOffset()
    assert offset.offset_ns == wall
    assert not offset.stepped()
    wall += 3_000_000
    assert offset.stepped()
    assert not offset.stepped()
    assert (offset.offset_ns, offset.steps) == (wall, 1)


def test_a_reading_with_a_pause_in_it_is_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    offset = WallOffset()
    monkeypatch.setattr(clock, "_pair", lambda: (10_000_000, offset.offset_ns + 5_000_000))
    assert not offset.stepped()


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_right_to_its_bin(values: list[int], share: float) -> None:
    lags = Lags()
    for value in values:
        lags.add(value)
    found = lags.quantile(share)
    assert found is not None
    nearest = min(abs(found * 1e9 - v) for v in values)
    assert nearest <= (1 << 10 if found < 4.19e-3 else 1 << 20)
    if share == 1:
        assert found * 1e9 == pytest.approx(max(values))


def test_lags_of_several_processes_add_up_and_nothing_is_none() -> None:
    one, two, both = Lags(), Lags(), Lags()
    one.add(-5)
    one.add(3_000)
    two.add(10**10)
    both.merge([one.columns(), two.columns()])
    assert both.summary() == pytest.approx((3e-6, 10, 10), abs=1e-6)
    assert Lags().summary() is None


def test_a_timer_fires_at_its_time_and_not_before() -> None:
    timer, epoll = Timer(), select.epoll()
    epoll.register(timer.fileno(), select.EPOLLIN | select.EPOLLET)
    for _ in range(3):
        at = time.monotonic_ns() + 5_000_000
        timer.arm(at)
        assert epoll.poll(0) == []
        assert epoll.poll(5)
        assert time.monotonic_ns() >= at
    timer.arm(1)  # long past
    assert epoll.poll(5)
    timer.close()
    epoll.close()
