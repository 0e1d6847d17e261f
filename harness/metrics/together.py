"""What several instances did while all of them did it: windows, and shares of their work.

Rates of processes that did not run at the same time must not be added. A rate here is the work of
all instances inside the time that they had in common, over that time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from harness.records.run import Case, RequestRecord, Trial
from harness.units import NS_PER_S

# With less time in common than this share of what an instance spends in a phase, a rate of that
# phase would rest on its edges.
LEAST_COMMON = 0.2

Span = tuple[int, int]


class Pass(NamedTuple):
    """One batch's way through one phase of one instance.

    `stamps` are its instants: between any two neighbours lies the same share of the work.
    """

    instance: int
    stamps: Sequence[int]
    batch: list[RequestRecord]

    @property
    def ns(self) -> int:
        return self.stamps[-1] - self.stamps[0]

    def share(self, spans: Iterable[Span]) -> float:
        """How much of its work lies inside `spans`, 0 to 1."""
        gaps = [(a, b) for a, b in pairwise(self.stamps) if b > a]
        if not gaps:
            return 0.0
        inside = 0.0
        for start, end in spans:
            inside += sum(max(0, min(b, end) - max(a, start)) / (b - a) for a, b in gaps)
        return inside / len(gaps)


class Together(NamedTuple):
    """Passes with the share of each that counts, and the time in which they count."""

    shares: list[tuple[Pass, float]]
    seconds: float


def spans(trial: Trial) -> dict[int, Span]:
    """From the begin of the first request of each instance to its last token."""
    return _spans(r for r in trial.records if r.token_ns)


def longest_ns(trial: Trial) -> int:
    """The longest time from an instance's begin to the end of what it did whole.

    A request that was cut off kept its instance busy until the others were done, and how far it
    reached beyond that says nothing: a prompt that is being passed can't be cut.
    """
    whole = _spans(r for r in trial.records if r.token_ns and r.finish != "cancelled")
    return max((end - start for start, end in whole.values()), default=0)


def _spans(records: Iterable[RequestRecord]) -> dict[int, Span]:
    found: dict[int, Span] = {}
    for record in records:
        start = record.sent_ns if record.started_ns is None else record.started_ns
        low, high = found.get(record.instance, (start, record.token_ns[-1]))
        found[record.instance] = min(low, start), max(high, record.token_ns[-1])
    return found


def window(trial: Trial) -> Span | None:
    """From the last begin of an instance to the first end of one; None where there is none."""
    known = spans(trial).values()
    if not known:
        return None
    start, end = max(low for low, _ in known), min(high for _, high in known)
    return (start, end) if end > start else None


def common(passes: Iterable[Pass], instances: int) -> list[Span]:
    """The times in which every one of `instances` is inside one of its passes."""
    edges = [(p.stamps[0], 1) for p in passes] + [(p.stamps[-1], -1) for p in passes]
    found: list[Span] = []
    under_way, since = 0, 0
    for at, step in sorted(edges, key=lambda edge: (edge[0], edge[1])):
        if under_way == instances and at > since:
            found.append((since, at))
        under_way += step
        since = at
    return found


def together(passes: Sequence[Pass], instances: int) -> Together | None:
    """What counts of `passes`: of a single instance everything.

    None where `instances` have too little time in common: see `LEAST_COMMON`.
    """
    spent = sum(p.ns for p in passes)
    if instances == 1:
        return Together([(p, 1.0) for p in passes], spent / NS_PER_S)
    shared = common(passes, instances)
    held = sum(end - start for start, end in shared)
    if held < LEAST_COMMON * spent / instances:
        return None
    return Together([(p, p.share(shared)) for p in passes], held / NS_PER_S)


def by_instance(trial: Trial, case: Case) -> list[tuple[Trial, Case]]:
    """Each instance's own part of `trial`, as a trial of one instance in the common window.

    These are figures of an instance that worked beside the others; they are never added up.
    """
    alone = msgspec.structs.replace(
        case, variant=msgspec.structs.replace(case.variant, instances=1)
    )
    parts = []
    for number, seen in enumerate(trial.instances):
        part = msgspec.structs.replace(
            trial,
            records=[r for r in trial.records if r.instance == number],
            warmup=[r for r in trial.warmup if r.instance == number],
            usage=seen.usage,
            placement=seen.placement,
            load_s=seen.load_s,
            instances=[],
        )
        parts.append((part, alone))
    return parts
