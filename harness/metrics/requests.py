"""Requests as columns of NumPy arrays: made once, read by many rows of the metric table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import chain
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from harness.records.run import RequestRecord
from harness.units import NS_PER_S

Instants = NDArray[np.int64]  # nanoseconds
Counts = NDArray[np.int64]
Seconds = NDArray[np.float64]


class Requests:
    """`records` as columns: one element for each request, in their order.

    The instants of all tokens stand one after the other in `token_ns`, those of all chunks in
    `chunk_ns`; `tokens` and `chunks` say how many are each request's. `first_ns` and `last_ns`, of
    tokens, are there where every request has one.
    """

    def __init__(self, records: Sequence[RequestRecord]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def of(self, chosen: Callable[[RequestRecord], object]) -> Requests:
        """Those that are `chosen`; itself where all are."""
        found = [r for r in self.records if chosen(r)]
        return self if len(found) == len(self.records) else Requests(found)

    def column(self, value: Callable[[RequestRecord], int]) -> Instants:
        """`value` of each request."""
        return np.fromiter(map(value, self.records), np.int64, len(self.records))

    @cached_property
    def due_ns(self) -> Instants:
        return self.column(attrgetter("due_ns"))

    @cached_property
    def sent_ns(self) -> Instants:
        return self.column(attrgetter("sent_ns"))

    @cached_property
    def tokens(self) -> Counts:
        lists = map(attrgetter("token_ns"), self.records)
        return np.fromiter(map(len, lists), np.int64, len(self.records))

    @cached_property
    def token_ns(self) -> Instants:
        return _flat(map(attrgetter("token_ns"), self.records), self.tokens)

    @cached_property
    def first_ns(self) -> Instants:
        return self.column(lambda r: r.token_ns[0])

    @cached_property
    def last_ns(self) -> Instants:
        return self.column(lambda r: r.token_ns[-1])

    @cached_property
    def _one_by_one(self) -> bool:
        """Whether each token came in a chunk of its own, in every request."""
        return all(r.http is not None and r.http.chunk_ns is None for r in self.records)

    @cached_property
    def chunks(self) -> Counts:
        return self.tokens if self._one_by_one else self.column(lambda r: len(r.chunk_ns))

    @cached_property
    def chunk_ns(self) -> Instants:
        if self._one_by_one:
            return self.token_ns
        return _flat(map(attrgetter("chunk_ns"), self.records), self.chunks)


def _flat(lists: Iterable[Sequence[int]], counts: Counts) -> Instants:
    return np.fromiter(chain.from_iterable(lists), np.int64, int(counts.sum()))


def seconds(later: Instants, earlier: Instants) -> Seconds:
    """`later` − `earlier`, element by element."""
    return (later - earlier) / NS_PER_S


def gaps_ns(instants: Instants, counts: Counts) -> Instants:
    """Gaps between neighbours of the same request, `counts` of whose instants are each one's."""
    if len(instants) < 2:
        return instants[:0]
    within = np.ones(len(instants) - 1, dtype=bool)
    begins = np.cumsum(counts)[:-1]  # of the requests behind the first
    begins = begins[(begins > 0) & (begins < len(instants))]
    within[begins - 1] = False
    return np.diff(instants)[within]


def longest_gaps_ns(requests: Requests) -> Instants:
    """Of each request the longest gap between neighbouring tokens; 0 where it has below two."""
    longest = np.zeros(len(requests), dtype=np.int64)
    several = np.flatnonzero(requests.tokens > 1)
    counts = requests.tokens - 1
    begins = (np.cumsum(np.maximum(counts, 0)) - counts)[several]
    if len(several):
        found = gaps_ns(requests.token_ns, requests.tokens)
        longest[several] = np.maximum.reduceat(found, begins)
    return longest


def inside(instants: Instants, window: tuple[int, int]) -> int:
    """How many lie in `window`, half-open: the next window begins where this one ends."""
    return int(np.count_nonzero((instants >= window[0]) & (instants < window[1])))


def tokens_inside(requests: Requests, window: tuple[int, int]) -> int:
    """How many tokens came in `window`; only of requests across its edges is each looked at."""
    some = requests.of(attrgetter("token_ns"))
    touching = (some.last_ns >= window[0]) & (some.first_ns < window[1])
    whole = (some.first_ns >= window[0]) & (some.last_ns < window[1])
    across = Requests([some.records[at] for at in np.flatnonzero(touching & ~whole).tolist()])
    return int(some.tokens[whole].sum()) + inside(across.token_ns, window)
