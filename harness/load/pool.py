"""The connections of one client: opened, kept idle, handed out, closed."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from harness.errors import ArmbenchError
from harness.load.connection import Connection, Reading
from harness.load.exchange import Exchange
from harness.load.route import CONNECT_TIMEOUT_S, Route
from harness.load.tls import TlsConnection

READ = select.EPOLLIN
WRITE = select.EPOLLOUT


class Pool:
    """All connections to one route, watched by `epoll`. `fault` is the last thing that went wrong.

    With `keep_spare`, one is always idle or on its way, so that a request finds one when due.
    """

    def __init__(self, route: Route, reading: Reading, epoll: select.epoll) -> None:
        self.route = route
        self.reading = reading
        self.connections: dict[int, Connection] = {}  # by file descriptor
        self.keep_spare = False
        self.fault: str | None = None
        self._epoll = epoll
        # The last one is used next: the one that served last, then unused ones in the order they
        # were opened, for a server with a thread for each may have none for the newest.
        self._idle: list[Connection] = []
        self._opening = 0
        self._opened = 0

    def warm(self, count: int, wait: Callable[[float], None]) -> None:
        """Have `count` idle connections, TLS done; `wait` lets events happen for some seconds.

        Raises ArmbenchError where none can be had.
        """
        if self.route.address is None:
            self.route.find()
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        self.fault = None
        while time.monotonic() < deadline:
            for connection in [c for c in self._idle if not _quiet(c)]:
                self.close(connection)
            missing = count - len(self._idle) - self._opening
            if self.fault is not None or (missing <= 0 and not self._opening):
                break
            for _ in range(missing):
                self.open(None)
            wait(0.1)
        if count and not self._idle:
            why = self.fault or f"not ready within {CONNECT_TIMEOUT_S:.0f} s"
            raise ArmbenchError(
                f"no connection to {self.route.target.origin}: {self.route.redacted(why)}",
                hint="is this the right port and scheme, and the certificate trusted?",
            )

    def take(self) -> Connection | None:
        """An idle connection; None where there is none."""
        return self._idle.pop() if self._idle else None

    def open(self, exchange: Exchange | None) -> bool:
        """Begin a connection, for `exchange` where there is one; False and `fault` if it can't."""
        kind = TlsConnection if self.route.context is not None else Connection
        try:
            connection = kind(self.route, self._opened, self.reading)
        except OSError as error:  # no more file descriptors
            self.fault = str(error)
            return False
        self._opened += 1
        self._opening += 1
        connection.exchange = exchange
        self.connections[connection.fd] = connection
        try:
            connection.open()
            self._epoll.register(connection.fd, READ | WRITE)
        except OSError as error:
            self.fault = error.strerror or str(error)
            self.close(connection)
            return False
        return True

    def open_spare(self) -> None:
        """See to it that a spare is there, or comes."""
        if self.keep_spare and not self._idle and not self._opening:
            self.open(None)

    def progress(self, connection: Connection) -> bool:
        """Help a connection on; whether it is ready now. Raises OSError where it fails."""
        connection.progress()
        if connection.connect_s is not None:
            self._epoll.modify(connection.fd, READ)
        if connection.ready:
            self._opening -= 1
            if connection.exchange is None:
                self._idle.insert(0, connection)
        return connection.ready

    def watch_writing(self, connection: Connection) -> None:
        """Wake when it takes more, as long as there is something unsent."""
        more = connection.unsent is not None
        self._epoll.modify(connection.fd, READ | WRITE if more else READ)

    def give_back(self, connection: Connection, *, reusable: bool) -> None:
        """An exchange is over."""
        connection.exchange = None
        if reusable and connection.unsent is None:
            self._idle.append(connection)
        else:
            self.close(connection)

    def close(self, connection: Connection) -> None:
        """Close it, whatever state it is in."""
        if self.connections.pop(connection.fd, None) is None:
            return
        if not connection.ready:
            self._opening -= 1
        if connection in self._idle:
            self._idle.remove(connection)
        connection.close()  # which takes it out of the epoll set

    def close_all(self) -> None:
        for connection in list(self.connections.values()):
            self.close(connection)


def _quiet(connection: Connection) -> bool:
    try:
        return connection.quiet()
    except OSError:
        return False
