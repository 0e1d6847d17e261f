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
from collections.abc import Callable
from typing import NamedTuple

import httptools

from harness.load.agenda import NEVER, Agenda, Job
from harness.load.chores import Chores
from harness.load.clock import Lags, Timer
from harness.load.connection import Connection, Reading
from harness.load.exchange import Exchange
from harness.load.pool import READ, WRITE, Pool
from harness.load.route import Route
from harness.records.load import Endpoint

# A sleeping process wakes some 0.1 ms late on a virtual machine; 0.3 µs late once it polls.
SPIN_NS = 200_000
SPIN_SHARE = 0.1  # of the time to the next due request at most
BEAT_NS = 50_000_000  # how often time limits are looked at
_MOST_READY = 65536


class Hold(NamedTuple):
    """For tests of the client: hold the loop up for `seconds` every `every_s`, computing."""

    seconds: float
    every_s: float


class Client:
    """Sends one process's share of the load; what comes of it is in `chores`."""

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
        self.timeout_s = timeout_s
        self.hold = hold
        self.reading = Reading(kernel_stamps=kernel_stamps)
        self.loop_lags = Lags()
        self.on_beat: Callable[[int], None] = lambda now_ns: None
        self.on_control: Callable[[], None] = lambda: None
        self.agenda = Agenda([], start_ns=0)
        self.chores = Chores(route, endpoint, sender)
        self._epoll = select.epoll()
        self._timer = Timer()
        self._epoll.register(self._timer.fileno(), READ | select.EPOLLET)
        self.pool = Pool(route, self.reading, self._epoll)
        self._control: int | None = None
        self._limits: deque[tuple[int, Exchange]] = deque()
        self._beat_ns = 0
        self._polled_ns = 0
        self._aimed_ns = 0
        self._spin_from = 0
        self._drain_ns = 0
        self._drain_end = NEVER
        self._held_ns = 0

    def listen(self, fd: int) -> None:
        """Call `on_control` when `fd` is readable."""
        self._control = fd
        self._epoll.register(fd, READ)

    def close(self) -> None:
        """Close every connection."""
        self.pool.close_all()
        self._timer.close()
        self._epoll.close()

    def warm(self, count: int) -> None:
        """Have `count` idle connections, TLS done. Raises ArmbenchError where none can be had."""
        self.pool.warm(count, lambda seconds: self._read(self._epoll.poll(seconds, _MOST_READY)))

    def begin(self, *, digest_early: bool) -> None:
        """Count anew, and freeze garbage collection until `run` is over.

        With `digest_early`, answers are read in idle moments of the window.
        """
        gc.collect()
        gc.freeze()
        gc.disable()
        self.reading.begin()
        self.loop_lags = Lags()
        self.chores.early = digest_early
        self._limits.clear()

    def run(self, agenda: Agenda, *, drain_ns: int) -> None:
        """Offer the load of `agenda`; what is unfinished `drain_ns` after its end is cancelled."""
        self.agenda = agenda
        self.chores.begin(agenda)
        self.pool.keep_spare = agenda.timed
        self._drain_end, self._drain_ns = NEVER, drain_ns
        self._held_ns = time.monotonic_ns()
        self._beat_ns = self._held_ns + BEAT_NS
        chores = self.chores
        try:
            while not agenda.finished:
                self._send_due()
                ready = self._wait()
                if ready:
                    self._read(ready)
                elif chores.idle:
                    chores.work(chores.idle, agenda.next_ns - SPIN_NS)
                if time.monotonic_ns() >= self._beat_ns:
                    self._beat()
                if chores.urgent:
                    chores.work(chores.urgent, agenda.next_ns - SPIN_NS)
                if self.hold is not None:
                    self._hold_up(self.hold)
        finally:
            gc.enable()
            gc.unfreeze()
        chores.put_back()

    def stop(self, why: str) -> None:
        """End now: what is on its way or waits is unfinished, the rest is never due."""
        self.chores.stop(why)
        for connection in list(self.pool.connections.values()):
            if connection.exchange is not None:
                connection.exchange.finish = "unfinished"
                self._fail(connection, why)

    def end_sending(self) -> None:
        """Nothing more falls due; what is on its way may end within the drain."""
        self.agenda.stop_ns = min(self.agenda.stop_ns, time.monotonic_ns())

    def _send_due(self) -> None:
        agenda = self.agenda
        now = time.monotonic_ns()
        while agenda.next_ns <= now:
            job = agenda.take(now)
            if job is None:
                break
            if not job.held_ns and not job.closed:
                self.loop_lags.add(now - job.due_ns)
            self._issue(job, now)
            now = time.monotonic_ns()

    def _issue(self, job: Job, now: int) -> None:
        exchange = Exchange(job)
        if job.held_ns:
            exchange.notes.append(f"held back {job.held_ns / 1e6:.3f} ms by the concurrency cap")
        self._limits.append((now + int(self.timeout_s * 1e9), exchange))
        connection = self.pool.take()
        if connection is None:
            exchange.waited = True
            self._open_for(exchange)
        else:
            self._send(connection, exchange)
        self.pool.open_spare()

    def _open_for(self, exchange: Exchange) -> None:
        if not self.pool.open(exchange):
            self._lost(exchange, f"no connection: {self.pool.fault}")

    def _send(self, connection: Connection, exchange: Exchange) -> None:
        try:
            connection.send(exchange)
        except OSError as error:
            self._broken(connection, error)
            return
        if connection.unsent is not None:
            self.pool.watch_writing(connection)

    def _wait(self) -> list[tuple[int, int]]:
        """Events, at once where something else is to be done or a request is nearly due."""
        now = time.monotonic_ns()
        due = self.agenda.next_ns
        timeout = -1.0
        if self.chores.urgent or self.chores.idle or due <= now:
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
        connections = self.pool.connections
        for fd, mask in ready:
            connection = connections.get(fd)
            if connection is None:
                if fd == self._control:
                    self.on_control()
                continue
            try:
                if connection.ready and mask & ~WRITE and connection.exchange is not None:
                    self._receive(connection, connection.exchange)
                else:
                    self._attend(connection)
                if mask & WRITE and connection.unsent is not None:
                    connection.flush()
                    self.pool.watch_writing(connection)
            except BlockingIOError:
                continue
            except (OSError, httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
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
            if self.pool.progress(connection) and connection.exchange is not None:
                connection.exchange.connect_s = connection.connect_s
                connection.exchange.tls_s = connection.tls_s
                self._send(connection, connection.exchange)
        elif connection.exchange is None and not connection.quiet():
            self.pool.close(connection)
            if not self.agenda.exhausted:
                self.pool.open_spare()

    def _complete(self, connection: Connection, *, reusable: bool) -> None:
        exchange = connection.exchange
        assert exchange is not None
        exchange.done_ns = exchange.stamps[-1]
        self.pool.give_back(connection, reusable=reusable)
        self.chores.ended(exchange)

    def _hung_up(self, connection: Connection) -> None:
        exchange = connection.exchange
        assert exchange is not None
        if not exchange.pieces:
            self._broken(connection, ConnectionResetError("the server hung up without an answer"))
            return
        exchange.closed = True
        exchange.done_ns = time.monotonic_ns()
        self.pool.close(connection)
        self.chores.ended(exchange)

    def _broken(self, connection: Connection, error: Exception) -> None:
        exchange = connection.exchange
        was_ready = connection.ready
        if exchange is not None and exchange.ending is not None and exchange.ending.complete:
            self._complete(connection, reusable=False)  # what came after it is not ours
            return
        text = _words(error)
        self.pool.fault = text
        if exchange is None:
            self.pool.close(connection)
            return
        stale = was_ready and not exchange.waited and not exchange.pieces
        if stale and not exchange.retried and isinstance(error, OSError):
            # The server closed an idle connection while the request was on its way to it.
            exchange.retried = exchange.waited = True
            exchange.notes.append(f"sent again, for the idle connection was closed: {text}")
            self.pool.close(connection)
            self._open_for(exchange)
            return
        self._fail(connection, text if was_ready else f"no connection: {text}")

    def _fail(self, connection: Connection, why: str) -> None:
        exchange = connection.exchange
        assert exchange is not None
        self.pool.close(connection)
        self._lost(exchange, why)

    def _lost(self, exchange: Exchange, why: str) -> None:
        exchange.error = why
        exchange.done_ns = time.monotonic_ns()
        self.chores.ended(exchange)

    def _beat(self) -> None:
        """Time limits, the end of the drain, and whoever wants to know how it goes."""
        now = time.monotonic_ns()
        self.loop_lags.add(now - self._beat_ns)
        self.reading.look_for_step()
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
        for connection in self.pool.connections.values():
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
