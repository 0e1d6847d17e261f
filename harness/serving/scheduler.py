"""What each step of a served engine holds: pure decisions, without clock and without I/O.

Every sequence that decodes is in every step. Beside them a step passes at most `chunk` tokens of
prompts that are being filled. A request starts when a slot is free and the KV budget has room for
its whole input and output, so that nothing ever has to be thrown out again; while the next one does
not fit, nobody overtakes it, so that a large request is not starved by small ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from harness.records.load import ServeSetting
from harness.serving.fairness import FairQueue

Finish = Literal["stop", "length"]


def room(setting: ServeSetting, max_waiting: int) -> tuple[int, int]:
    """Requests that may be here, running or waiting: (of one client, of all together).

    One client alone fills the slots and waits `max_waiting` deep. An eighth of that is kept beyond
    it, so that a client that fills the queue does not shut the others out.
    """
    one = setting.slots + max_waiting
    return one, one + max(1, max_waiting // 8)


def longest(setting: ServeSetting) -> int:
    """The most input and output tokens of one request together."""
    return min(setting.context, setting.kv_tokens)


class Asked(Struct, frozen=True):
    """One request. An end-of-sequence token does not end it before `min_tokens`."""

    id: int
    client: str
    tokens: Sequence[int]
    max_tokens: int
    min_tokens: int = 0
    ignore_eos: bool = False

    @property
    def kv_tokens(self) -> int:
        return len(self.tokens) + self.max_tokens


class Row(NamedTuple):
    """One sequence's share of a step, as engines.Feed has it, and whose it is."""

    id: int
    slot: int
    tokens: Sequence[int]
    wanted: bool


class Step(NamedTuple):
    """Rows of a step, those that decode first; `started` are the requests that got a slot."""

    rows: list[Row]
    decoding: int
    prefill_tokens: int
    started: list[int]


class Produced(NamedTuple):
    """One token of request `id`; with `finish` its last."""

    id: int
    token: int
    finish: Finish | None


class _Sequence:
    __slots__ = ("asked", "filled", "last", "produced", "slot")

    def __init__(self, asked: Asked, slot: int) -> None:
        self.asked, self.slot = asked, slot
        self.filled = 0  # prompt tokens passed
        self.produced = 0
        self.last = -1

    @property
    def left(self) -> int:
        """Prompt tokens still to pass."""
        return len(self.asked.tokens) - self.filled


class Scheduler:
    """Requests waiting and running. Use: `submit` and `cancel` at will, `next_step`, `complete`."""

    def __init__(self, setting: ServeSetting, max_waiting: int, eos: Collection[int]) -> None:
        self.setting, self.eos = setting, frozenset(eos)
        self.room = room(setting, max_waiting)
        self._queue: FairQueue[Asked] = FairQueue()
        self._waiting: dict[int, Asked] = {}
        self._running: dict[int, _Sequence] = {}  # in the order they started
        self._of_client: dict[str, int] = {}
        self._slots = list(range(setting.slots))  # free ones, a heap: the lowest goes first
        self.kv_tokens = 0  # reserved

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def idle(self) -> bool:
        return not self._running and not self._waiting

    def submit(self, asked: Asked) -> bool:
        """Accept `asked`; False where its client, or all together, have no more room.

        Raises ValueError where it could never run, or its id is here already.
        """
        if asked.id in self._waiting or asked.id in self._running:
            raise ValueError(f"request {asked.id} is here already")
        if not asked.tokens or asked.max_tokens < 1 or asked.kv_tokens > longest(self.setting):
            raise ValueError(f"request {asked.id} could never run")
        mine = self._of_client.get(asked.client, 0)
        if mine >= self.room[0] or self.waiting + self.running >= self.room[1]:
            return False
        self._of_client[asked.client] = mine + 1
        self._waiting[asked.id] = asked
        self._queue.push(asked.client, asked)
        return True

    def cancel(self, request: int) -> int | None:
        """Forget `request`; the slot to release where it had one. Unknown ones are ignored."""
        asked = self._waiting.pop(request, None)
        if asked is not None:
            self._queue.remove(asked.client, asked)
            self._leave(asked.client)
            return None
        sequence = self._running.get(request)
        return None if sequence is None else self._end(sequence)

    def _leave(self, client: str) -> None:
        self._of_client[client] -= 1
        if not self._of_client[client]:
            del self._of_client[client]

    def _end(self, sequence: _Sequence) -> int:
        asked = sequence.asked
        del self._running[asked.id]
        self.kv_tokens -= asked.kv_tokens
        heapq.heappush(self._slots, sequence.slot)
        self._leave(asked.client)
        return sequence.slot

    def _start(self) -> list[int]:
        """Start whoever is next while a slot and budget are free; their ids."""
        started = []
        while self._slots and (following := self._queue.next()):
            client, asked = following
            if self.kv_tokens + asked.kv_tokens > self.setting.kv_tokens:
                break
            self._queue.pop(client)
            del self._waiting[asked.id]
            self._running[asked.id] = _Sequence(asked, heapq.heappop(self._slots))
            self.kv_tokens += asked.kv_tokens
            self._queue.charge(client, inputs=len(asked.tokens))
            started.append(asked.id)
        return started

    def next_step(self) -> Step | None:
        """What to pass next; None where nobody is here. Follow it by `complete`."""
        started = self._start()
        rows, filling = [], []
        for request, sequence in self._running.items():
            if sequence.left:
                filling.append(sequence)
            else:
                rows.append(Row(request, sequence.slot, (sequence.last,), True))
        decoding, prefill = len(rows), 0
        for sequence, count in shares(filling, self.setting.chunk):
            end = sequence.filled + count
            tokens = sequence.asked.tokens[sequence.filled : end]
            last = end == len(sequence.asked.tokens)
            rows.append(Row(sequence.asked.id, sequence.slot, tokens, last))
            prefill += count
        return Step(rows, decoding, prefill, started) if rows else None

    def complete(
        self, step: Step, tokens: Sequence[int | None]
    ) -> tuple[list[Produced], list[int]]:
        """(tokens produced, slots to release) of `step`, which gave `tokens` for its rows.

        Rows of requests that were cancelled meanwhile are dropped.
        """
        produced, freed = [], []
        for row, token in zip(step.rows, tokens, strict=True):
            sequence = self._running.get(row.id)
            if sequence is None:
                continue
            if sequence.left:
                sequence.filled += len(row.tokens)
            if not row.wanted:
                continue
            if token is None:
                raise ValueError(f"the engine gave no token for slot {row.slot}, which wanted one")
            finish = self._take(sequence, token)
            produced.append(Produced(row.id, token, finish))
            if finish:
                freed.append(self._end(sequence))
        return produced, freed

    def _take(self, sequence: _Sequence, token: int) -> Finish | None:
        asked = sequence.asked
        sequence.last = token
        sequence.produced += 1
        self._queue.charge(asked.client, outputs=1)
        ends = token in self.eos and not asked.ignore_eos
        if ends and sequence.produced > asked.min_tokens:
            return "stop"
        return "length" if sequence.produced == asked.max_tokens else None


def shares(filling: Sequence[_Sequence], chunk: int) -> list[tuple[_Sequence, int]]:
    """How many tokens of which prompt go into one step, `chunk` in all at most.

    `filling` is in the order of starting. Half goes to the prompt with the fewest tokens left, so
    that a short one passes a long one; the rest to the oldest, so that a long one always gets on.
    """
    counts = dict.fromkeys(range(len(filling)), 0)
    if len(filling) > 1:
        shortest = min(counts, key=lambda n: filling[n].left)
        counts[shortest] = min(filling[shortest].left, chunk // 2)
    rest = chunk - sum(counts.values())
    for number, sequence in enumerate(filling):
        more = min(sequence.left - counts[number], rest)
        counts[number] += more
        rest -= more
    return [(filling[n], count) for n, count in counts.items() if count]
