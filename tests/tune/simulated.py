"""A machine that is only numbers: published curves, noise, and a clock that nobody waits for.

Speeds are output tok/s by threads of llama.cpp (llama-bench tg128, Q4_K_M, threads = physical
cores, mean of 5), as SpareCores publishes them: sc-inspector-data @804d3c7, 2026-08-22.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from msgspec import Struct, field

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
)

# Qwen1.5-0.5B on Yitian 710: ecs.g8y.large to 16xlarge, 2026-04.
YITIAN = {2: 26.5, 4: 44.2, 8: 81.0, 16: 117.3, 32: 112.5, 64: 77.6}
# The same on Graviton5: m9g.4xlarge to 48xlarge, 2026-06-11.
GRAVITON5 = {16: 247.0, 48: 124.3, 64: 77.6, 192: 19.1}
# Llama-server, Qwen2.5-1.5B Q4_0 on c4a-standard-16 (a third party's logbook, 2026-08-14).
AXION = {1: 17.0, 2: 30.5, 4: 55.4, 8: 92.8, 16: 52.4}
# Llama-3-8B Q4_K_M on 64 Neoverse N2, S_TG by batch: llama.cpp PR 13886, 2025-05-29.
BATCHES = {1: 24.3, 2: 47.9, 4: 84.0, 8: 114.7, 16: 135.8, 32: 147.3}

LOAD_S = 8.0
PROBE_S = 3.0
TRIAL_S = 25.0


class Point(Struct, frozen=True, kw_only=True):
    """One candidate with the speed that it really has."""

    family: str
    threads: int
    batch: int
    speed: float
    limit: float | None = None
    crashes: bool = False  # in whole trials, not in probes


class Simulated(Struct, kw_only=True):
    """A search over `points`, whose measurements have relative noise `sd`.

    `bias` is the standard deviation of what a probe is wrong by, the same in all probes of a
    candidate. A trial is spoilt with probability `disturbed`.
    """

    points: list[Point]
    seed: int
    sd: float
    bias: float = 0.05
    disturbed: float = 0.0
    rules: Rules = Rules()
    moves: list[object] = field(default_factory=list)
    known: Known | None = None

    def begin(self) -> Known:
        groups: dict[tuple[str, int], list[int]] = {}
        for i, p in enumerate(self.points):
            groups.setdefault((p.family, p.threads), []).append(i)
        return Known(
            names=[f"{p.family} {p.threads}T ×{p.batch}" for p in self.points],
            families=[p.family for p in self.points],
            groups=list(groups.values()),
            limits=[p.limit for p in self.points],
        )

    def run(self) -> int:
        """The candidate that the search chose."""
        known = self.known = self.begin()
        chance = random.Random(self.seed)
        biases = [chance.gauss(0, self.bias) for _ in self.points]
        for _ in range(100_000):
            move = next_move(known, self.rules)
            self.moves.append(move)
            if isinstance(move, StopMove):
                return leader(known.by_trials())
            self._take(known, move, chance, biases)
        raise AssertionError("the search does not end")

    def _take(self, known: Known, move: object, chance: random.Random, biases: list[float]) -> None:
        if isinstance(move, DropMove):
            gone = {c: left.why for left in move.left for c in left.candidates}
            assert gone, "a move must change what is known"
            assert not gone.keys() & known.out.keys()
            known.out |= gone
        elif isinstance(move, ReviveMove):
            assert move.mark > known.mark
            known.mark = move.mark
            for c in move.candidates:
                del known.out[c]
        elif isinstance(move, ProbeMove):
            process = chance.gauss(0, self.sd)
            for c in move.candidates:
                error = process + biases[c] + chance.gauss(0, self.sd / 2)
                known.probes.setdefault(c, []).append(self.points[c].speed * 2.718281828**error)
                known.cost_s[c] = TRIAL_S
            known.spent_s += LOAD_S + PROBE_S * len(move.candidates)
        elif isinstance(move, TrialMove):
            known.spent_s += TRIAL_S
            if self.points[move.candidate].crashes:
                known.failed[move.candidate] = known.failed.get(move.candidate, 0) + 1
                return
            if chance.random() < self.disturbed:
                known.spoilt[move.candidate] = known.spoilt.get(move.candidate, 0) + 1
                return
            value = self.points[move.candidate].speed * 2.718281828 ** chance.gauss(0, self.sd)
            known.trials.setdefault(move.candidate, []).append(value)

    @property
    def best(self) -> float:
        return max(p.speed for p in self.points)

    @property
    def spent_s(self) -> float:
        assert self.known is not None
        return self.known.spent_s

    def exhaustive_s(self, repeats: int) -> float:
        """What it takes to measure every candidate `repeats` times."""
        return TRIAL_S * repeats * len(self.points)


def thread_curve(family: str, curve: dict[int, float], scale: float = 1.0) -> list[Point]:
    return [Point(family=family, threads=t, batch=1, speed=v * scale) for t, v in curve.items()]


def surface(
    family: str, threads: dict[int, float], batches: dict[int, float], scale: float = 1.0
) -> list[Point]:
    """Speeds by threads and batch: the batch's gain on each thread count's speed."""
    return [
        Point(family=family, threads=t, batch=b, speed=scale * v * gain / batches[1])
        for t, v in threads.items()
        for b, gain in batches.items()
    ]


def share_near_best(make: Callable[[int], Simulated], seeds: int, within: float) -> float:
    """Share of `seeds` searches whose choice is really `within` of the best."""
    hits = 0
    for seed in range(seeds):
        one = make(seed)
        hits += one.points[one.run()].speed >= (1 - within) * one.best
    return hits / seeds
