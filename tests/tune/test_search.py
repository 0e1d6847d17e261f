"""The search's decisions, on published curves with noise, and no clock to wait for."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.tune.search import (
    DropMove,
    Known,
    ProbeMove,
    ReviveMove,
    Rules,
    StopMove,
    TrialMove,
    leader,
    next_move,
    rivals,
)
from tests.tune.simulated import (
    AXION,
    BATCHES,
    GRAVITON5,
    LOAD_S,
    PROBE_S,
    TRIAL_S,
    YITIAN,
    Point,
    Simulated,
    share_near_best,
    surface,
    thread_curve,
)

CURVES = {"yitian": YITIAN, "graviton5": GRAVITON5, "axion": AXION}
SURFACE = [
    *surface("llamacpp q4_k_m", YITIAN, BATCHES),
    *surface("onnxruntime int4", GRAVITON5, BATCHES, 0.4),
    *surface("torch int8", AXION, BATCHES, 1.1),
]


def moves(one: Simulated, kind: type) -> list:  # type: ignore[type-arg]
    return [move for move in one.moves if isinstance(move, kind)]


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("noise", [0.05, 0.1])
def test_the_published_optimum_is_found_though_more_threads_are_slower(
    name: str, noise: float
) -> None:
    """Yitian: 117 tok/s by 16 threads, 78 by 64; Graviton5: 247 by 16, 19 by 192."""
    tried: list[Simulated] = []

    def make(seed: int) -> Simulated:
        rules = Rules(budget_s=900.0, seed=seed)
        points = thread_curve("llamacpp q4_k_m", CURVES[name])
        tried.append(Simulated(points=points, seed=seed, sd=noise, rules=rules))
        return tried[-1]

    assert share_near_best(make, seeds=100, within=0.05) >= 0.95
    mean_s = sum(one.spent_s for one in tried) / len(tried)
    # On Yitian 117 and 113 tok/s take more than three repeats to tell apart.
    assert mean_s < (1.2 if name == "yitian" else 0.5) * tried[0].exhaustive_s(repeats=3)


@pytest.mark.parametrize(("noise", "budget_s"), [(0.05, 1200.0), (0.08, 1800.0)])
def test_the_best_of_90_is_found_in_a_fraction_of_the_time_that_all_of_them_take(
    noise: float, budget_s: float
) -> None:
    """Three engines, threads by published curves, six batch sizes by a published one."""

    def make(seed: int) -> Simulated:
        rules = Rules(budget_s=budget_s, seed=seed)
        return Simulated(points=SURFACE, seed=seed, sd=noise, rules=rules)

    assert share_near_best(make, seeds=60, within=0.05) >= 0.95
    assert budget_s < 0.3 * make(0).exhaustive_s(repeats=3)


def test_a_peak_beside_its_worst_neighbours_is_found() -> None:
    """Nothing is assumed of the way from one thread count to the next."""
    spike = {1: 10.0, 2: 9.0, 4: 8.0, 8: 60.0, 16: 7.0, 32: 6.0, 64: 20.0}

    def make(seed: int) -> Simulated:
        points = thread_curve("engine", spike)
        return Simulated(points=points, seed=seed, sd=0.08, rules=Rules(budget_s=600.0, seed=seed))

    assert share_near_best(make, seeds=30, within=0.05) == 1.0


def test_the_same_knowledge_gives_the_same_step() -> None:
    """So that a killed search goes on as if nothing had happened."""
    one = Simulated(points=SURFACE, seed=3, sd=0.05, rules=Rules(budget_s=900.0))
    other = Simulated(points=SURFACE, seed=3, sd=0.05, rules=Rules(budget_s=900.0))
    assert one.run() == other.run()
    assert one.moves == other.moves


def test_what_its_bound_excludes_is_never_probed_and_the_log_says_why() -> None:
    quick = [Point(family="int4", threads=t, batch=1, speed=100.0, limit=150.0) for t in (1, 2)]
    slow = [Point(family="float32", threads=t, batch=1, speed=19.0, limit=20.0) for t in (1, 2)]
    one = Simulated(points=[*slow, *quick], seed=1, sd=0.05, rules=Rules(budget_s=600.0))
    assert one.run() in (2, 3)
    assert one.known is not None
    assert not {0, 1} & set(one.known.probes)
    bounds = [left for m in moves(one, DropMove) for left in m.left if left.why == "bound"]
    assert [left.candidates for left in bounds] == [[0], [1]]
    assert "allow 20 tok/s at most, int4" in bounds[0].reason


def test_what_a_bound_excluded_comes_back_when_that_bound_is_not_trusted_any_longer() -> None:
    known = raced(probes={0: [100.0]}, trials={}, out={1: "bound", 2: "slower"})
    known.limits = [120.0, None, 80.0]
    assert next_move(known, Rules()) == ReviveMove((1,), 0)


def test_a_wide_interval_saves_a_candidate_from_its_bound() -> None:
    """The leader's lower end counts, not its value: it was probed once."""
    points = [
        Point(family="a", threads=1, batch=1, speed=100.0),
        Point(family="b", threads=1, batch=1, speed=95.0, limit=96.0),
    ]
    one = Simulated(points=points, seed=1, sd=0.01, bias=0.0, rules=Rules(budget_s=600.0))
    one.run()
    assert one.known is not None
    assert set(one.known.probes) == {0, 1}


def test_finalists_take_turns_in_rounds_that_are_shuffled_anew() -> None:
    points = [Point(family=f, threads=1, batch=1, speed=100.0) for f in "abcd"]
    one = Simulated(points=points, seed=1, sd=0.02, rules=Rules(budget_s=2000.0))
    one.run()
    trials = moves(one, TrialMove)
    rounds = [[m.candidate for m in trials if m.round == n] for n in range(3)]
    assert all(sorted(each) == [0, 1, 2, 3] for each in rounds)
    assert [m.round for m in trials] == sorted(m.round for m in trials)
    assert len({tuple(each) for each in rounds}) > 1


def test_equals_end_as_a_tie_before_the_budget_is_spent() -> None:
    points = [Point(family=f, threads=1, batch=1, speed=100.0) for f in "ab"]
    one = Simulated(points=points, seed=2, sd=0.01, bias=0.0, rules=Rules(budget_s=3600.0))
    first = one.run()
    assert one.known is not None
    seen = one.known.by_trials()
    assert set(seen) == {0, 1}
    assert leader(seen) == first
    assert rivals(one.known, seen, 0.02) == []
    assert one.spent_s < 3600 / 4


def test_disturbed_trials_do_not_count_and_are_repeated() -> None:
    points = [Point(family=f, threads=1, batch=1, speed=s) for f, s in (("a", 100), ("b", 90))]
    one = Simulated(points=points, seed=1, sd=0.01, disturbed=0.4, rules=Rules(budget_s=4000.0))
    assert one.run() == 0
    assert one.known is not None
    assert sum(one.known.spoilt.values()) > 0
    assert one.known.count(0) >= 3


def test_a_machine_that_is_never_quiet_ends_the_search_without_a_winner() -> None:
    points = [Point(family=f, threads=1, batch=1, speed=100.0) for f in "ab"]
    one = Simulated(points=points, seed=1, sd=0.01, disturbed=1.0, rules=Rules(budget_s=4000.0))
    with pytest.raises(ValueError, match="empty"):
        one.run()
    assert one.moves[-1] == StopMove("no candidate is left")
    drops = [left for m in moves(one, DropMove) for left in m.left]
    assert {left.why for left in drops} == {"disturbed"}


def test_an_exhaustive_search_measures_everything_equally_often_and_probes_nothing() -> None:
    points = thread_curve("a", YITIAN)
    one = Simulated(points=points, seed=1, sd=0.05, rules=Rules(exhaustive=True, repeats=2))
    assert points[one.run()].threads in (16, 32)
    assert moves(one, ProbeMove) == []
    assert [one.known.count(c) for c in range(len(points))] == [2] * len(points)  # type: ignore[union-attr]
    assert one.spent_s == 2 * TRIAL_S * len(points)


def test_a_broken_promise_and_a_crash_exclude_the_fastest() -> None:
    known = Known(
        names=["fast", "crashing", "right"],
        families=["a", "b", "c"],
        groups=[[0], [1], [2]],
        limits=[None] * 3,
        probes={0: [200.0], 1: [150.0], 2: [100.0]},
        broken={0: "TPOT 180 ms, at most 100 ms wanted"},
        failed={1: 2},
        doubts={1: "killed by SIGSEGV"},
    )
    move = next_move(known, Rules())
    assert isinstance(move, DropMove)
    assert [(left.candidates, left.why) for left in move.left] == [([0], "slo"), ([1], "failed")]
    assert "killed by SIGSEGV" in move.left[1].reason


def test_what_was_slower_than_a_winner_that_fails_gets_another_chance() -> None:
    """Three engines exclude the rest in probes, and crash at the whole length."""
    points = [
        Point(family=f, threads=1, batch=1, speed=s, crashes=True)
        for f, s in (("a", 500.0), ("b", 450.0), ("c", 440.0))
    ]
    points += thread_curve("right", YITIAN)
    points.append(Point(family="bound", threads=1, batch=1, speed=125.0, limit=126.0))
    one = Simulated(points=points, seed=1, sd=0.03, rules=Rules(budget_s=1500.0))
    assert one.run() == len(points) - 1
    assert one.known is not None
    assert {one.known.out[c] for c in range(3)} == {"failed"}


def ended(known: Known, rules: Rules, chance: random.Random, speeds: list[float]) -> str:
    """The reason for which a search from `known` on stops; trials cost 20 s and have 3 % noise."""
    while True:
        move = next_move(known, rules)
        if isinstance(move, StopMove):
            return move.reason
        if isinstance(move, DropMove):
            known.out |= {c: left.why for left in move.left for c in left.candidates}
        elif isinstance(move, ReviveMove):
            known.mark = move.mark
            for c in move.candidates:
                del known.out[c]
        elif isinstance(move, TrialMove):
            value = speeds[move.candidate] * math.exp(chance.gauss(0, 0.03))
            known.trials.setdefault(move.candidate, []).append(value)
            known.spent_s += 20.0


def raced(**changes: Any) -> Known:
    """A search of candidates without limits whose trials have begun."""
    given: dict[str, Any] = {"names": list("ABC"), "spent_s": 100.0, **changes}
    names = given["names"]
    return Known(
        families=list(names),
        groups=[[c] for c in range(len(names))],
        limits=[None] * len(names),
        cost_s=dict.fromkeys(range(len(names)), 20.0),
        **given,
    )


@pytest.mark.parametrize("why", ["broken", "failed", "spoilt"])
def test_what_a_leader_beat_in_trials_comes_back_when_it_is_barred(why: str) -> None:
    """C stays out: B, which came back, has beaten it in trials too."""
    known = raced(
        probes={0: [150.0], 1: [100.0], 2: [95.0]},
        trials={0: [150.0, 149.0], 1: [100.0, 101.0], 2: [60.0, 61.0]},
        out={1: "slower", 2: "slower"},
    )
    setattr(known, why, {0: "the SLO is not kept"} if why == "broken" else {0: 9})
    assert ended(known, Rules(budget_s=1200.0), random.Random(1), [150.0, 100.0, 60.0]) == "decided"
    assert known.alive == [1]
    assert known.count(2) == 2


def test_a_budget_that_ends_inside_a_round_leaves_the_best_in_front() -> None:
    """B has the third trial by the order of that round, and is slower all the same."""
    known = raced(names=["A", "B"], trials={0: [100.0, 101.0], 1: [90.0, 91.0, 90.0]})
    assert leader(known.by_trials()) == 0


def test_what_came_back_leads_only_when_it_has_caught_up() -> None:
    known = raced(names=["A", "B"], trials={0: [100.0] * 4, 1: [110.0]})
    assert leader(known.by_trials()) == 0
    known.trials[1] *= 3
    assert leader(known.by_trials()) == 1


def test_a_rival_is_held_against_the_leaders_own_uncertainty() -> None:
    """Its interval ends 1.8 % above the leader's mean, that of their ratio 4 % above one."""
    known = raced(names=["A", "B"], trials={0: [100.0] * 3, 1: [96.0] * 3})
    seen = known.by_trials()
    assert seen[1].high < 1.02 * seen[0].value
    assert rivals(known, seen, 0.02) == [1]


def test_decided_is_seldom_said_where_another_is_better() -> None:
    """By more than the tie of 2 %: at most one search in twelve."""
    wrong = decided = 0
    for seed in range(150):
        points = [Point(family=f, threads=1, batch=1, speed=s) for f, s in (("a", 100), ("b", 97))]
        rules = Rules(budget_s=36000.0, seed=seed)
        one = Simulated(points=points, seed=seed, sd=0.05, bias=0.03, rules=rules)
        chosen = one.run()
        if one.moves[-1] == StopMove("decided"):
            decided += 1
            wrong += chosen == 1
    assert decided > 75
    assert wrong <= decided / 12


def test_a_family_without_a_probe_goes_first_and_a_better_one_more_often() -> None:
    points = [Point(family="good", threads=t, batch=1, speed=100.0) for t in range(1, 21)]
    points += [Point(family="bad", threads=t, batch=1, speed=50.0) for t in range(1, 21)]
    one = Simulated(points=points, seed=1, sd=0.01, rules=Rules(budget_s=400.0))
    one.run()
    order = [points[m.candidates[0]].family for m in moves(one, ProbeMove) if m.rung == 0]
    assert set(order[:2]) == {"good", "bad"}
    assert order[:12].count("good") > 2 * order[:12].count("bad")


speeds = st.lists(st.floats(1.0, 1000.0), min_size=1, max_size=12)


@settings(max_examples=40)
@given(speeds, st.integers(0, 1000), st.floats(30.0, 3000.0), st.floats(0.0, 0.5))
def test_every_search_ends_within_its_budget_and_tells_who_went_once(
    values: list[float], seed: int, budget_s: float, disturbed: float
) -> None:
    chance = random.Random(seed)
    points = [
        Point(
            family=chance.choice("abc"),
            threads=n,
            batch=1,
            speed=speed,
            limit=chance.choice([None, speed * chance.uniform(1.0, 2.0)]),
        )
        for n, speed in enumerate(values)
    ]
    one = Simulated(
        points=points,
        seed=seed,
        sd=0.05,
        disturbed=disturbed,
        rules=Rules(budget_s=budget_s, seed=seed),
    )
    try:
        one.run()
    except ValueError:
        assert not one.known or not one.known.by_trials()
    assert isinstance(one.moves[-1], StopMove)
    # A probe and the first trial are made whatever the budget; nothing is begun without room.
    assert one.spent_s <= max(budget_s, PROBE_S + LOAD_S) + TRIAL_S
