"""Requests as columns of NumPy arrays: made once, read by many rows of the metric table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import chain, pairwise
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from harness.records.run import RequestRecord
from harness.units import NS_PER_S

Instants = NDArray[np.int64]  # nanoseconds
Counts = NDArray[np.int64]
Seconds = NDArray[np.float64]
Mask = NDArray[np.bool_]

NEVER_NS = int(np.iinfo(np.int64).max)
UNKNOWN = -1  # of a count that is not known
_RISE_LEAST = 50
_FINISHES = {"length": 0, "stop": 1, "error": 2, "cancelled": 3, "unfinished": 4}


Column = Callable[[Sequence[RequestRecord]], Iterable[int]]


def _of_request(name: str, absent: int = 0) -> Column:
    read = attrgetter(name)
    return lambda records: (absent if v is None else v for v in map(read, records))


def _of_http(name: str, absent: int = 0) -> Column:
    http, read = attrgetter("http"), attrgetter(name)
    return lambda records: (
        absent if seen is None or (v := read(seen)) is None else v for seen in map(http, records)
    )


def _known(name: str) -> Column:
    read = attrgetter(name)
    return lambda records: (value is not None for value in map(read, records))


_COLUMNS: dict[str, Column] = {
    "due_ns": _of_request("due_ns"),
    "sent_ns": _of_request("sent_ns"),
    "done_ns": _of_http("done_ns"),
    "input_tokens": _of_request("input_tokens"),
    "tokens": lambda records: map(len, map(attrgetter("token_ns"), records)),
    "asked_output": _of_request("asked_output", UNKNOWN),
    "cached": _of_http("usage_cached", UNKNOWN),
    "thoughts": _of_http("reasoning_chunks"),
    "failed": _known("error"),
    "http": _known("http"),
    "finish": lambda records: map(_FINISHES.__getitem__, map(attrgetter("finish"), records)),
}


class Requests:
    """`records` as columns: one element for each request, in their order; each is made once.

    The instants of all tokens stand one after the other in `token_ns`, those of all chunks in
    `chunk_ns`; `tokens` and `chunks` say how many are each request's.
    """

    def __init__(self, records: Sequence[RequestRecord]) -> None:
        self._records = records
        self._all, self._mask = self, np.ones(len(records), dtype=bool)
        self._made: dict[str, Counts] = {}

    def where(self, mask: Mask) -> Requests:
        """Those that `mask` has; their columns are cut out of these. Itself where it has all."""
        if mask.all():
            return self
        found = Requests([])
        found._records, found._all, found._mask = self._records, self, mask
        return found

    def __len__(self) -> int:
        return int(np.count_nonzero(self._mask))

    @property
    def records(self) -> Sequence[RequestRecord]:
        """The requests themselves."""
        if self._all is self:
            return self._records
        every = self._all.records
        return [every[at] for at in np.flatnonzero(self._mask).tolist()]

    def column(self, name: str) -> Counts:
        """The column `name` of `_COLUMNS`."""
        if name not in self._made:
            self._made[name] = (
                np.fromiter(_COLUMNS[name](self._records), np.int64, len(self._records))
                if self._all is self
                else self._all.column(name)[self._mask]
            )
        return self._made[name]

    @property
    def due_ns(self) -> Instants:
        return self.column("due_ns")

    @property
    def sent_ns(self) -> Instants:
        """0 of a request that never left the client."""
        return self.column("sent_ns")

    @property
    def tokens(self) -> Counts:
        return self.column("tokens")

    @property
    def failed(self) -> Mask:
        return self.column("failed") > 0

    @property
    def over_http(self) -> Mask:
        return self.column("http") > 0

    def finished(self, *how: str) -> Mask:
        """Which ended in one of these ways."""
        return np.isin(self.column("finish"), [_FINISHES[one] for one in how])

    @cached_property
    def token_ns(self) -> Instants:
        if self._all is not self:
            mine: Instants = self._all.token_ns[np.repeat(self._mask, self._all.tokens)]
            return mine
        return _flat(map(attrgetter("token_ns"), self._records), self.tokens)

    @cached_property
    def first_ns(self) -> Instants:
        """The first token of each; 0 where it has none."""
        return self._at(np.cumsum(self.tokens) - self.tokens)

    @cached_property
    def last_ns(self) -> Instants:
        """The last token of each; 0 where it has none."""
        return self._at(np.cumsum(self.tokens) - 1)

    def _at(self, places: Counts) -> Instants:
        found, some = np.zeros(len(places), dtype=np.int64), self.tokens > 0
        found[some] = self.token_ns[places[some]]
        return found

    @cached_property
    def over_ns(self) -> Instants:
        """When each was over: at its last token, or when the answer was complete.

        One that failed without a sign of the server was over at 0, one unfinished is `NEVER_NS`.
        """
        over = np.maximum(self.last_ns, self.column("done_ns"))
        over[self.finished("unfinished")] = NEVER_NS
        return over

    @cached_property
    def _one_by_one(self) -> bool:
        """Whether each token came in a chunk of its own, in every request."""
        if self._all is not self:
            return self._all._one_by_one
        return all(r.http is not None and r.http.chunk_ns is None for r in self._records)

    @cached_property
    def chunks(self) -> Counts:
        if self._one_by_one:
            return self.tokens
        if self._all is not self:
            return self._all.chunks[self._mask]
        counts = (len(r.chunk_ns) for r in self._records)
        return np.fromiter(counts, np.int64, len(self._records))

    @cached_property
    def chunk_ns(self) -> Instants:
        if self._one_by_one:
            return self.token_ns
        if self._all is not self:
            mine: Instants = self._all.chunk_ns[np.repeat(self._mask, self._all.chunks)]
            return mine
        return _flat(map(attrgetter("chunk_ns"), self._records), self.chunks)


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


def peak_concurrency(sent_ns: Instants, over_ns: Instants) -> int:
    """The most requests under way at one instant, each from being sent until it was over.

    Half-open intervals: one that ends where another begins is not beside it. Requests that were
    never sent (0) or were over as they were sent count nowhere.
    """
    seen = (sent_ns > 0) & (over_ns > sent_ns)
    starts, ends = np.sort(sent_ns[seen]), np.sort(over_ns[seen])
    ended = np.searchsorted(ends, starts, side="right")
    return int(np.max(np.arange(1, len(starts) + 1) - ended, initial=0))


def rise(values: Seconds) -> float | None:
    """How far `values`, in the order in which their requests were due, rose in their second half.

    They make ten blocks; of the medians of the last five, the last ÷ the first where each is above
    the one before, else 1. None below 50 values, which cannot tell.
    """
    if len(values) < _RISE_LEAST:
        return None
    medians = [float(np.median(block)) for block in np.array_split(values, 10)[5:]]
    risen = all(later > earlier for earlier, later in pairwise(medians))
    return medians[-1] / medians[0] if risen and medians[0] > 0 else 1.0
