"""The loop of the load client: sends when due, reads what comes, parses nothing before the end.

One thread over epoll. A due time is met by a timer that wakes a little early and polling for the
rest; what arrives meanwhile is read, with the kernel's stamps (see `connection`), so that nothing
this loop does late lengthens a latency.
"""

from __future__ import annotations

import gc
import select
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import NamedTuple

import httptools

from harness.errors import ArmbenchError
from harness.load.agenda import NEVER, Agenda, Job
from harness.load.clock import Lags, Timer
from harness.load.connection import Connection, Reading, TlsConnection
from harness.load.exchange import Digested, Exchange, digesting, never_sent
from harness.load.route import CONNECT_TIMEOUT_S, Route
from harness.load.turns import NoAnswer, filled
from harness.records.load import Endpoint
from harness.records.run import RequestRecord

# A sleeping process wakes some 0.1 ms late on a virtual machine; 0.3 µs late once it polls.
SPIN_NS = 200_000
SPIN_SHARE = 0.1  # of the time to the next due request at most
BEAT_NS = 50_000_000  # how often time limits are looked at
CHORE_NS = 200_000  # parsing in the window, where a next turn needs it, at a time
KEEP_BYTES = 1 << 30  # of raw answers; beyond, the oldest are parsed in the window
_MOST_READY = 65536
_IN = select.EPOLLIN
_OUT = select.EPOLLOUT


Steps = Generator[None, None, None]


class Hold(NamedTuple):
    """For tests of the client: hold the loop up for `seconds` every `every_s`, computing."""

    seconds: float
    every_s: float


class Client:
    """Sends one process's share of the load.

    What comes of it: `finished`, to be digested; `digested`, where that was done in the window;
    `dropped`, the records of requests that never went out.
    """

    def __init__(
        self,
        route: Route,
        endpoint: Endpoint,
        *,
        sender: int = 0,
        timeout_s: float = 600.0,
        kernel_stamps: bool = True,
        hold: Hold | None = None,
    ) -> None:
        self.route = route
        self.endpoint: Endpoint = endpoint
        self.sender = sender
        self.timeout_s = timeout_s
        self.hold = hold
        self.reading = Reading(kernel_stamps=kernel_stamps)
        self.loop_lags = Lags()
        self.on_beat: Callable[[int], None] = lambda now_ns: None
        self.on_control: Callable[[], None] = lambda: None
        self.salt = ""
        self.finished: deque[Exchange] = deque()
        self.digested: list[Digested] = []
        self.dropped: list[RequestRecord] = []
        self.agenda = Agenda([], start_ns=0)
        self._epoll = select.epoll()
        self._timer = Timer()
        self._epoll.register(self._timer.fileno(), _IN | select.EPOLLET)
        self._connections: dict[int, Connection] = {}
        self._idle: list[Connection] = []
        self._opening = 0
        self._opened = 0
        self._answers: dict[int, list[tuple[str, list[int]]]] = {}  # by conversation
        self._limits: deque[tuple[int, Exchange]] = deque()
        self._turns: deque[tuple[Exchange, Steps]] = deque()  # for which a next turn waits
        self._digests: deque[tuple[Exchange, Steps]] = deque()  # while nothing else is to do
        self.digest_early = False
        self._kept_bytes = 0
        self._beat_ns = 0
        self._polled_ns = 0
        self._aimed_ns = 0
        self._spin_from = 0
        self._drain_ns = 0
        self._drain_end = NEVER
        self._stopping = False
        self._fault: str | None = None
        self._held_ns = 0
        self._control: int | None = None

    def listen(self, fd: int) -> None:
        """Call `on_control` when `fd` is readable."""
        self._control = fd
        self._epoll.register(fd, _IN)

    def close(self) -> None:
        """Close every connection."""
        for connection in list(self._connections.values()):
            self._close(connection)
        self._timer.close()
        self._epoll.close()

    def warm(self, count: int) -> None:
        """Have `count` idle connections, TLS done. Raises ArmbenchError where none can be had."""
        if self.route.address is None:
            self.route.find()
        deadline = time.monotonic_ns() + int(CONNECT_TIMEOUT_S * 1e9)
        self._fault = None
        while time.monotonic_ns() < deadline:
            for connection in [c for c in self._idle if not self._quiet(c)]:
                self._close(connection)
            missing = count - len(self._idle) - self._opening
            if self._fault is not None or (missing <= 0 and not self._opening):
                break
            for _ in range(missing):
                self._open(None)
            self._read(self._epoll.poll(0.1, _MOST_READY))
        if count and not self._idle:
            why = self._fault or f"not ready within {CONNECT_TIMEOUT_S:.0f} s"
            raise ArmbenchError(
                f"no connection to {self.route.target.origin}: {self.route.redacted(why)}",
                hint="is this the right port and scheme, and the certificate trusted?",
            )

    def begin(self, *, digest_early: bool) -> None:
        """Count anew, and freeze garbage collection until `run` is over.

        With `digest_early`, answers are read in idle moments of the window.
        """
        gc.collect()
        gc.freeze()
        gc.disable()
        self.reading.begin()
        self.loop_lags = Lags()
        self.dropped = []
        self._answers.clear()
        self._limits.clear()
        self._kept_bytes = 0
        self.digest_early = digest_early

    def run(self, agenda: Agenda, *, drain_ns: int) -> None:
        """Offer the load of `agenda`; what is unfinished `drain_ns` after its end is cancelled."""
        self.agenda = agenda
        self._stopping = False
        self._beat_ns = time.monotonic_ns() + BEAT_NS
        self._drain_end = NEVER
        self._drain_ns = drain_ns
        if self.hold is not None:
            self._held_ns = time.monotonic_ns()
        try:
            while not agenda.finished:
                self._send_due()
                ready = self._wait()
                if ready:
                    self._read(ready)
                elif self._digests:
                    self._work(self._digests)
                if time.monotonic_ns() >= self._beat_ns:
                    self._beat()
                if self._turns:
                    self._work(self._turns)
                if self.hold is not None:
                    self._hold_up(self.hold)
        finally:
            gc.enable()
            gc.unfreeze()
        self._put_back()

    def stop(self, why: str) -> None:
        """End now: what is on its way or waits is unfinished, the rest is never due."""
        now = time.monotonic_ns()
        self._stopping = True
        for job in self.agenda.stop():
            self.dropped.append(never_sent(job, "unfinished", why, now, self.sender))
        self._put_back()
        for connection in list(self._connections.values()):
            if connection.exchange is not None:
                connection.exchange.finish = "unfinished"
                self._fail(connection, why)

    def _put_back(self) -> None:
        """Leave what was not read to its end for after the window."""
        for chores in (self._turns, self._digests):
            self.finished.extend(exchange for exchange, _ in chores)
            chores.clear()

    def end_sending(self) -> None:
        """Nothing more falls due; what is on its way may end within the drain."""
        self.agenda.stop_ns = min(self.agenda.stop_ns, time.monotonic_ns())

    # What is due goes out.

    def _send_due(self) -> None:
        agenda = self.agenda
        now = time.monotonic_ns()
        due = agenda.next_ns
        while due <= now:
            job = agenda.take(now)
            if job is None:
                break
            if not job.held_ns and not job.closed:
                self.loop_lags.add(now - job.due_ns)
            self._issue(job, now)
            now = time.monotonic_ns()
            due = agenda.next_ns

    def _issue(self, job: Job, now: int) -> None:
        exchange = Exchange(job)
        if job.held_ns:
            exchange.notes.append(f"held back {job.held_ns / 1e6:.3f} ms by the concurrency cap")
        self._limits.append((now + int(self.timeout_s * 1e9), exchange))
        self._dispatch(exchange)
        if not self._idle and not self._opening and not job.closed:
            self._open(None)  # a spare, so that the next request need not wait for its own

    def _dispatch(self, exchange: Exchange) -> None:
        if not self._idle:
            exchange.waited = True
            self._open(exchange)
            return
        connection = self._idle.pop()
        try:
            connection.send(exchange)
        except OSError as error:
            self._broken(connection, error)
            return
        if connection.unsent is not None:
            self._epoll.modify(connection.fd, _IN | _OUT)

    def _open(self, exchange: Exchange | None) -> None:
        """Begin a new connection, for `exchange` where there is one."""
        try:
            kind = TlsConnection if self.route.context is not None else Connection
            connection = kind(self.route, self._opened, self.reading)
        except OSError as error:  # no more file descriptors
            self._fault = str(error)
            if exchange is not None:
                self._lost(exchange, f"no connection: {error}")
            return
        self._opened += 1
        connection.exchange = exchange
        self._connections[connection.fd] = connection
        self._opening += 1
        try:
            connection.open()
            self._epoll.register(connection.fd, _IN | _OUT)
        except OSError as error:
            self._broken(connection, error)

    # What is there is read.

    def _wait(self) -> list[tuple[int, int]]:
        now = time.monotonic_ns()
        due = self.agenda.next_ns
        timeout = -1.0
        if self._turns or self._digests or due <= now:
            timeout = 0.0
        elif due < self._beat_ns:
            if due != self._aimed_ns:
                self._aimed_ns = due
                self._spin_from = due - min(SPIN_NS, int((due - now) * SPIN_SHARE))
            if now >= self._spin_from:
                timeout = 0.0
            else:
                self._timer.arm(self._spin_from)
        else:
            self._timer.arm(max(self._beat_ns, now + 1000))
        self.reading.since_ns = self._polled_ns
        self._polled_ns = now
        return self._epoll.poll(timeout, _MOST_READY)

    def _read(self, ready: list[tuple[int, int]]) -> None:
        connections = self._connections
        for fd, mask in ready:
            connection = connections.get(fd)
            if connection is None:
                if fd == self._control:
                    self.on_control()
                continue
            try:
                if connection.ready and mask & ~_OUT and connection.exchange is not None:
                    self._receive(connection, connection.exchange)
                else:
                    self._attend(connection)
                if mask & _OUT and connection.unsent is not None:
                    self._flush(connection)
            except BlockingIOError:
                continue
            except (OSError, httptools.HttpParserError) as error:
                self._broken(connection, error)

    def _receive(self, connection: Connection, exchange: Exchange) -> None:
        alive = connection.receive()
        assert exchange.ending is not None
        if exchange.ending.complete:
            self._complete(connection, reusable=alive and exchange.ending.reusable)
            if exchange.job.closed:
                self._send_due()
        elif not alive:
            self._hung_up(connection)

    def _attend(self, connection: Connection) -> None:
        """A connection that is not there yet, or idle, has something to say."""
        if not connection.ready:
            self._progress(connection)
        elif connection.exchange is None and not connection.quiet():
            self._close(connection)

    def _flush(self, connection: Connection) -> None:
        connection.flush()
        if connection.unsent is None:
            self._epoll.modify(connection.fd, _IN)

    def _progress(self, connection: Connection) -> None:
        connection.progress()
        self._epoll.modify(connection.fd, _IN)
        if not connection.ready:
            return
        self._opening -= 1
        exchange = connection.exchange
        if exchange is None:
            self._idle.append(connection)
            return
        exchange.connect_s = connection.connect_s
        exchange.tls_s = connection.tls_s
        connection.send(exchange)
        if connection.unsent is not None:
            self._epoll.modify(connection.fd, _IN | _OUT)

    def _complete(self, connection: Connection, *, reusable: bool) -> None:
        exchange = connection.exchange
        assert exchange is not None
        connection.exchange = None
        exchange.done_ns = exchange.stamps[-1]
        if reusable and connection.unsent is None:
            self._idle.append(connection)
        else:
            self._close(connection)
        self._ended(exchange)

    def _hung_up(self, connection: Connection) -> None:
        exchange = connection.exchange
        assert exchange is not None
        if not exchange.pieces:
            self._broken(connection, ConnectionResetError("the server hung up without an answer"))
            return
        exchange.closed = True
        exchange.done_ns = time.monotonic_ns()
        self._close(connection)
        self._ended(exchange)

    def _broken(self, connection: Connection, error: Exception) -> None:
        exchange = connection.exchange
        was_ready = connection.ready
        if exchange is not None and exchange.ending is not None and exchange.ending.complete:
            self._complete(connection, reusable=False)  # what came after it is not ours
            return
        text = _words(error)
        self._fault = text
        if exchange is None:
            self._close(connection)
            return
        stale = was_ready and not exchange.waited and not exchange.pieces
        if stale and not exchange.retried and isinstance(error, OSError):
            # The server closed an idle connection while the request was on its way to it.
            exchange.retried = exchange.waited = True
            exchange.notes.append(f"sent again, for the idle connection was closed: {text}")
            self._close(connection)
            self._open(exchange)
            return
        self._fail(connection, text if was_ready else f"no connection: {text}")

    def _fail(self, connection: Connection, why: str) -> None:
        exchange = connection.exchange
        assert exchange is not None
        self._close(connection)
        self._lost(exchange, why)

    def _lost(self, exchange: Exchange, why: str) -> None:
        exchange.error = why
        exchange.done_ns = time.monotonic_ns()
        self._ended(exchange)

    def _close(self, connection: Connection) -> None:
        if self._connections.pop(connection.fd, None) is None:
            return
        if not connection.ready:
            self._opening -= 1
        if connection in self._idle:
            self._idle.remove(connection)
        connection.close()  # takes it out of the epoll set as well

    def _quiet(self, connection: Connection) -> bool:
        try:
            return connection.quiet()
        except OSError:
            return False

    # What has ended is put by; only what a next turn needs is read at once.

    def _ended(self, exchange: Exchange) -> None:
        job = exchange.job
        if exchange.ending is not None:
            exchange.ending.close()
        exchange.request = b""
        goes_on = job.following is not None and not self._stopping
        self.agenda.ended(job, exchange.done_ns or 0, goes_on=goes_on)
        if goes_on:
            self._turns.append((exchange, self._turn(exchange)))
            return
        if self.digest_early and not self._stopping:
            self._digests.append((exchange, self._digest(exchange)))
            return
        self.finished.append(exchange)
        self._kept_bytes += sum(map(len, exchange.pieces))
        while self._kept_bytes > KEEP_BYTES and self.finished:
            oldest = self.finished.popleft()
            self._kept_bytes -= sum(map(len, oldest.pieces))
            self._turns.append((oldest, self._digest(oldest)))

    def _digest(self, exchange: Exchange) -> Steps:
        digested = yield from self._digesting(exchange)
        self.digested.append(digested)

    def _digesting(self, exchange: Exchange) -> Generator[None, None, Digested]:
        return digesting(exchange, self.endpoint, self.sender, self.route.redacted)

    def _turn(self, exchange: Exchange) -> Steps:
        """Read an answer and make the next turn of its conversation."""
        digested = yield from self._digesting(exchange)
        self.digested.append(digested)
        job, done_ns = exchange.job, exchange.done_ns or 0
        turn = job.following
        assert turn is not None
        answers = self._answers.setdefault(job.planned.conversation or 0, [])
        answers.append((digested.text, digested.ids))
        why = digested.record.error
        if why is None:
            try:
                body = filled(turn.request, self.salt, answers, self.endpoint)
                turn.request = self.route.request(body, f"{self.salt}-{turn.planned.id}")
            except NoAnswer as error:
                why = str(error)
        if why is None:
            self.agenda.later(job, done_ns + turn.planned.think_ns)
            return
        self.agenda.drop(job, done_ns)
        while turn is not None:
            turn.due_ns, turn.slot = done_ns + turn.planned.think_ns, job.slot
            text = f"turn {job.planned.turn} failed: {why}"
            self.dropped.append(never_sent(turn, "cancelled", text, done_ns, self.sender))
            turn = turn.following

    def _work(self, chores: deque[tuple[Exchange, Steps]]) -> None:
        """Parse a little, until something is due soon."""
        until = min(time.monotonic_ns() + CHORE_NS, self.agenda.next_ns - SPIN_NS)
        while chores:
            try:
                next(chores[0][1])
            except StopIteration:
                chores.popleft()
            if time.monotonic_ns() >= until:
                return

    def _beat(self) -> None:
        """Time limits, the end of the drain, and whoever wants to know how it goes."""
        now = time.monotonic_ns()
        self.loop_lags.add(now - self._beat_ns)
        self._beat_ns = now + BEAT_NS
        limits = self._limits
        while limits and (limits[0][1].done_ns is not None or limits[0][0] <= now):
            exchange = limits.popleft()[1]
            if exchange.done_ns is None:
                self._abandon(exchange, f"timed out after {self.timeout_s:g} s")
        agenda = self.agenda
        if now >= agenda.stop_ns:
            agenda.more = False
        if self._drain_end == NEVER and (now >= agenda.stop_ns or agenda.exhausted):
            self._drain_end = min(agenda.stop_ns, now) + self._drain_ns
        if now >= self._drain_end:
            self.stop(f"unfinished at the end of the drain of {self._drain_ns / 1e9:g} s")
        self.on_beat(now)

    def _abandon(self, exchange: Exchange, why: str) -> None:
        for connection in self._connections.values():
            if connection.exchange is exchange:
                self._fail(connection, why)
                return

    def _hold_up(self, hold: Hold) -> None:
        now = time.monotonic_ns()
        if now >= self._held_ns + int(hold.every_s * 1e9):
            end = now + int(hold.seconds * 1e9)
            while time.monotonic_ns() < end:
                pass
            self._held_ns = now


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
