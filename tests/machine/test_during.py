from __future__ import annotations

import time
from pathlib import Path

from harness.machine.during import MOST, During
from harness.machine.judge import judge
from harness.records.machine import Conditions, Reading


def at(mhz: float, number: int = 0) -> Conditions:
    return Conditions(at_ns=number, readings={"frequency_mhz": Reading(value=mhz, source="x")})


def test_readings_are_taken_while_something_runs() -> None:
    with During(interval_s=0.01) as during:
        time.sleep(0.2)
    taken = [c.at_ns for c in during.readings]
    assert len(taken) >= 2
    assert taken == sorted(taken)
    assert "load_1m" in during.readings[0].readings


def test_a_long_run_keeps_a_bounded_even_sample() -> None:
    count = iter(range(10**6))
    during = During(interval_s=1.0, read=lambda _: at(3000, next(count)))
    for _ in range(10 * MOST):
        during.take()
    assert len(during.readings) < MOST
    assert during.interval_s > 1.0


def test_a_clock_that_fell_in_between_and_came_back_is_seen() -> None:
    def names(*during: Conditions) -> set[str]:
        found = judge(at(3000), at(3000), own_cpu_s=1, seconds=1, cpus=1, during=during)
        return {f.name for f in found}

    assert "frequency_drift" not in names()
    assert "frequency_drift" in names(at(3000), at(2500), at(3000))


def test_the_root_is_an_argument(tmp_path: Path) -> None:
    seen: list[Path] = []

    def read(root: Path) -> Conditions:
        seen.append(root)
        return at(1)

    During(root=tmp_path, read=read).take()
    assert seen == [tmp_path]
