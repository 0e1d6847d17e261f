"""Answers that have ended: most are put by, some are read in the window, a slice at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator

from harness.load.agenda import Agenda
from harness.load.exchange import Digested, Exchange, digesting, never_sent
from harness.load.route import Route
from harness.load.turns import NoAnswer, filled
from harness.records.load import Endpoint
from harness.records.run import RequestRecord

SLICE_NS = 200_000  # of work at a time
KEEP_BYTES = 1 << 30  # of raw answers; beyond, the oldest are read in the window
_Steps = Generator[None, None, None]
_Queue = deque[tuple[Exchange, _Steps]]


class Chores:
    """What comes of the exchanges of one load.

    `finished` are to be digested after the window; `digested` were read in it, because a next turn
    needs the answer, because `early` is set or because the raw answers took too much memory;
    `dropped` are the records of requests that never went out.
    """

    def __init__(self, route: Route, endpoint: Endpoint, sender: int) -> None:
        self.route = route
        self.endpoint: Endpoint = endpoint
        self.sender = sender
        self.salt = ""
        self.early = False
        self.stopping = False
        self.agenda = Agenda([], start_ns=0)
        self.finished: deque[Exchange] = deque()
        self.digested: list[Digested] = []
        self.dropped: list[RequestRecord] = []
        self.urgent: _Queue = deque()
        self.idle: _Queue = deque()
        self._answers: dict[int, list[tuple[str, list[int]]]] = {}  # by conversation
        self._kept_bytes = 0

    def begin(self, agenda: Agenda) -> None:
        """A new load."""
        self.agenda = agenda
        self.stopping = False
        self._answers.clear()
        self._kept_bytes = 0

    def ended(self, exchange: Exchange) -> None:
        """Take an exchange that is over, and tell the agenda."""
        job = exchange.job
        if exchange.ending is not None:
            exchange.ending.close()
        job.request = b""
        goes_on = job.following is not None and not self.stopping
        self.agenda.ended(job, exchange.done_ns or 0, goes_on=goes_on)
        if goes_on:
            self.urgent.append((exchange, self._turn(exchange)))
        elif self.early and not self.stopping:
            self.idle.append((exchange, self._digest(exchange)))
        else:
            self._keep(exchange)

    def stop(self, why: str) -> None:
        """Nothing more goes out, `why` is told of those that waited."""
        now = time.monotonic_ns()
        self.stopping = True
        for job in self.agenda.stop():
            self.dropped.append(never_sent(job, "unfinished", why, now, self.sender))
        self.put_back()

    def put_back(self) -> None:
        """Leave what has not been read to its end for after the window."""
        for queue in (self.urgent, self.idle):
            self.finished.extend(exchange for exchange, _ in queue)
            queue.clear()

    def work(self, queue: _Queue, until_ns: int) -> None:
        """Do a little of `queue`: one slice at least, then until an instant."""
        until_ns = min(until_ns, time.monotonic_ns() + SLICE_NS)
        while queue:
            try:
                next(queue[0][1])
            except StopIteration:
                queue.popleft()
            if time.monotonic_ns() >= until_ns:
                return

    def _keep(self, exchange: Exchange) -> None:
        self.finished.append(exchange)
        self._kept_bytes += sum(map(len, exchange.pieces))
        while self._kept_bytes > KEEP_BYTES and self.finished:
            oldest = self.finished.popleft()
            self._kept_bytes -= sum(map(len, oldest.pieces))
            self.urgent.append((oldest, self._digest(oldest)))

    def _digest(self, exchange: Exchange) -> Generator[None, None, None]:
        yield from self._digested(exchange)

    def _digested(self, exchange: Exchange) -> Generator[None, None, Digested]:
        digested = yield from digesting(exchange, self.endpoint, self.sender, self.route.redacted)
        self.digested.append(digested)
        return digested

    def _turn(self, exchange: Exchange) -> Generator[None, None, None]:
        """Read an answer and make the next turn of its conversation."""
        digested = yield from self._digested(exchange)
        job, done_ns = exchange.job, exchange.done_ns or 0
        turn = job.following
        assert turn is not None
        answers = self._answers.setdefault(job.planned.conversation or 0, [])
        answers.append((digested.text, digested.ids))
        why = digested.record.error
        if why is None:
            try:
                body = filled(turn.request, self.salt, answers, self.endpoint)
            except NoAnswer as error:
                why = str(error)
            else:
                turn.request = self.route.request(body, f"{self.salt}-{turn.planned.id}")
                self.agenda.later(job, done_ns + turn.planned.think_ns)
                return
        self._break_off(exchange, f"turn {job.planned.turn} failed: {why}")

    def _break_off(self, exchange: Exchange, why: str) -> None:
        """The rest of a conversation is cancelled, as far as it would have been due."""
        job, done_ns = exchange.job, exchange.done_ns or 0
        self.agenda.drop(job, done_ns)
        turn, due_ns = job.following, done_ns
        while turn is not None:
            due_ns += turn.planned.think_ns
            turn.due_ns, turn.slot = due_ns, job.slot
            if due_ns < self.agenda.stop_ns:
                self.dropped.append(never_sent(turn, "cancelled", why, done_ns, self.sender))
            turn = turn.following
