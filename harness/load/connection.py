"""One connection of the load client: what arrives is stamped by the kernel, per event.

What the kernel does, as seen on Linux 6.18 and by its source (net/ipv4/tcp.c, tcp_input.c):

- SO_TIMESTAMPNS stamps each packet where it enters the host. recvmsg gives one stamp for a read,
  that of the newest packet in it. So a read first looks (MSG_PEEK) and, where several events have
  gathered, takes them one by one, each with the stamp of the packet that completed it. A program
  that comes late loses nothing.
- Small packets that wait in a socket may be merged by the kernel, and only the newest stamp is
  left. Over loopback a packet that is not yet acknowledged is not merged; so towards this machine
  acknowledgements go out when data is read (TCP_QUICKACK), the kernel's own at the latest after
  40 ms or some 500 bytes. From a network card merging can't be prevented: there an event may get
  the stamp of a later one of its own stream that came before it was read. Either way the error is
  below the read lag, which is recorded, and events of one stamp are counted
  (`ClientSeen.merged_share`).
- Stamps are of CLOCK_REALTIME; `clock.WallOffset` turns them into CLOCK_MONOTONIC.

With TLS the same holds for its records: they are stamped, then decrypted.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
import struct
import time

from harness.load.clock import Lags, WallOffset
from harness.load.exchange import Exchange
from harness.load.framing import Ending
from harness.load.route import Route

READ_BYTES = 1 << 16
_ANCILLARY_BYTES = 64
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; its control message has the same number
_STAMP = struct.Struct("@ll").unpack_from
_PEEK = socket.MSG_PEEK
_DISCARD = socket.MSG_TRUNC  # of TCP: take without copying, tcp(7)
_EVENT_END = re.compile(rb"\n\r?\n(?:\r\n)?")
_STEP_DOUBT_NS = 1_000_000_000
_Extra = list[tuple[int, int, bytes]]


class Reading:
    """What all connections of a sender share while they read.

    `since_ns` is when it was last seen which sockets had data: nothing unread is older.
    """

    def __init__(self, *, kernel_stamps: bool = True) -> None:
        self.wall = WallOffset()
        self.kernel_stamps = kernel_stamps
        self.since_ns = time.monotonic_ns()
        self.stepped_ns: int | None = None
        self.scratch = bytearray(READ_BYTES)
        self.begin()

    def begin(self) -> None:
        """Count anew."""
        self.lags = Lags()
        self.reads = 0
        self.unstamped = 0
        self.wire_bytes = 0
        self.wall.steps = 0

    def stamp(self, extra: _Extra) -> int:
        """When the newest packet of a read came: nanoseconds of CLOCK_MONOTONIC."""
        now = time.monotonic_ns()
        self.reads += 1
        if extra:
            seconds, nanos = _STAMP(extra[0][2])
            at: int = seconds * 1_000_000_000 + nanos - self.wall.offset_ns
            if self.since_ns <= at <= now or self._holds(at, now):
                self.lags.add(now - at)
                return at
        self.unstamped += 1
        return now

    def _holds(self, at: int, now: int) -> bool:
        """Whether an unlikely stamp is to be believed: not around a step of the wall clock."""
        if self.wall.stepped():
            self.stepped_ns = now
        if at > now:
            return False
        return self.stepped_ns is None or now - self.stepped_ns > _STEP_DOUBT_NS


class Connection:
    """A connection without TLS. `ready` once requests can be sent; `exchange` is the one on it.

    Methods raise OSError (ssl.SSLError is one) where the connection fails.
    """

    def __init__(self, route: Route, number: int, reading: Reading) -> None:
        assert route.address is not None
        self.route = route
        self.number = number
        self.reading = reading
        self.exchange: Exchange | None = None
        self.ready = False
        self.served = 0
        self.connect_s: float | None = None
        self.tls_s: float | None = None
        self.unsent: memoryview | None = None
        family, self.address = route.address
        self.socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.fd = self.socket.fileno()
        self.local = False
        self._tunnel: Ending | None = None
        self._recvmsg = self.socket.recvmsg
        self._recv_into = self.socket.recv_into
        self._setsockopt = self.socket.setsockopt

    def open(self) -> None:
        """Begin to connect; go on with `progress` when the socket has something to say."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.reading.kernel_stamps:
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            except OSError:
                self.reading.kernel_stamps = False  # the reads then count as unstamped
        self._begun_ns = time.monotonic_ns()
        code = self.socket.connect_ex(self.address)
        if code not in {0, errno.EINPROGRESS}:
            raise OSError(code, os.strerror(code))

    def progress(self) -> None:
        """One step towards `ready`."""
        if self.connect_s is None:
            self._connected()
        if self._tunnel is not None and not self._tunnelled():
            return
        self.ready = self._secured()

    def _connected(self) -> None:
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        self.connect_s = (time.monotonic_ns() - self._begun_ns) / 1e9
        here, there = self.socket.getsockname()[0], self.socket.getpeername()[0]
        self.local = here == there or there.startswith("127.")
        if self.route.tunnel is not None:
            self._tunnel = Ending()
            self.socket.send(self.route.tunnel)

    def _tunnelled(self) -> bool:
        """Whether the proxy has opened the way; it says nothing more before we do."""
        assert self._tunnel is not None
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return False
        status = re.match(rb"HTTP/1\.[01] (\d{3})", data)
        if status is None or not status[1].startswith(b"2"):
            raise OSError(f"the proxy refused: {data[:100].splitlines()[:1]!r}")
        self._tunnel = None
        return True

    def _secured(self) -> bool:
        return True

    def send(self, exchange: Exchange) -> None:
        """Send the request of `exchange`; the rest with `flush` where not all is taken at once.

        Its `sent_ns` is the instant right before the first byte goes to the kernel.
        """
        self.exchange = exchange
        exchange.connection = self.number
        exchange.ending = Ending()
        self._pieces = exchange.pieces.append
        self._stamps = exchange.stamps.append
        self._feed = exchange.ending.feed
        self.served += 1
        self._late_acknowledgements()
        data = self._packed(exchange.request)
        exchange.sent_ns = time.monotonic_ns()
        self.unsent = memoryview(data)
        self.flush()

    def flush(self) -> None:
        """Hand the kernel what it takes of what is `unsent`."""
        while self.unsent:
            try:
                taken = self.socket.send(self.unsent)
            except BlockingIOError:
                return
            self.unsent = self.unsent[taken:]
        self.unsent = None

    def _packed(self, data: bytes) -> bytes:
        return data

    def receive(self) -> bool:
        """Read what is there into the exchange; False where the server hung up."""
        data, extra, _, _ = self._recvmsg(READ_BYTES, _ANCILLARY_BYTES, _PEEK)
        size = len(data)
        if not size:
            return False
        at = self.reading.stamp(extra)
        # An event that ends before the last line of the read shares it with another.
        if data.find(b"\n\n", 0, size - 3) < 0 and data.find(b"\n\r\n", 0, size - 3) < 0:
            self._recv_into(self.reading.scratch, size, _DISCARD)
            self._pieces(data)
            self._stamps(at)
        else:
            for piece, each in self._apart(data, at, [m.end() for m in _EVENT_END.finditer(data)]):
                self._pieces(piece)
                self._stamps(each)
        if self.local:
            self._late_acknowledgements()
        self.reading.wire_bytes += size
        self._feed(data)
        return True

    def _apart(self, data: bytes, newest: int, ends: list[int]) -> list[tuple[bytes, int]]:
        """Take what was looked at up to each of `ends` by itself: (piece, when it came)."""
        taken: list[tuple[bytes, int]] = []
        at, size = 0, len(data)
        for end in ends:
            _, extra, _, _ = self._recvmsg(end - at, _ANCILLARY_BYTES, _DISCARD)
            stamp = self.reading.stamp(extra)
            taken.append((data[at:end], stamp))
            at = end
            if stamp >= newest:
                break
        if at < size:
            self._recv_into(self.reading.scratch, size - at, _DISCARD)
            taken.append((data[at:], newest))
        return taken

    def _late_acknowledgements(self) -> None:
        """Acknowledge what was read now, and from here on only when reading."""
        if self.local:
            self._setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            self._setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)

    def quiet(self) -> bool:
        """Whether an idle connection that is readable is still good: False after a hang-up."""
        try:
            self.socket.recv(READ_BYTES, _PEEK)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self.ready = False
        self.exchange = None
        self.socket.close()


class TlsConnection(Connection):
    """A connection with TLS over the same reads."""

    def __init__(self, route: Route, number: int, reading: Reading) -> None:
        super().__init__(route, number, reading)
        assert route.context is not None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = route.context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=route.target.host
        )
        self._records = Records()
        self._tls_ns: int | None = None
        self._ended = False

    def _secured(self) -> bool:
        if self._tls_ns is None:
            self._tls_ns = time.monotonic_ns()
        else:
            self._fill()
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._write_out()
            return False
        self._write_out()
        self.tls_s = (time.monotonic_ns() - self._tls_ns) / 1e9
        return True

    def _fill(self) -> None:
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionResetError("the server hung up")
        self._records.ends(data)
        self._incoming.write(data)

    def _write_out(self) -> None:
        """Send what TLS itself has to say: small, and the socket was empty."""
        data = self._outgoing.read()
        while data:
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                time.sleep(0.0001)  # a full socket before the first request: as good as never

    def _packed(self, data: bytes) -> bytes:
        self._tls.write(data)
        return self._outgoing.read()

    def receive(self) -> bool:
        data, extra, _, _ = self._recvmsg(READ_BYTES, _ANCILLARY_BYTES, _PEEK)
        size = len(data)
        if not size:
            return False
        at = self.reading.stamp(extra)
        ends = self._records.ends(data)
        if not ends or ends == [size]:
            self._recv_into(self.reading.scratch, size, _DISCARD)
            taken = [(data, at)]
        else:
            taken = self._apart(data, at, ends)
        if self.local:
            self._late_acknowledgements()
        self.reading.wire_bytes += size
        for piece, stamp in taken:
            self._incoming.write(piece)
            for plain in iter(self._plain, b""):
                self._pieces(plain)
                self._stamps(stamp)
                self._feed(plain)
        return not self._ended

    def _plain(self) -> bytes:
        """Plain bytes that are there, empty where more must come first; notes the session's end."""
        try:
            plain = self._tls.read(READ_BYTES)
        except ssl.SSLWantReadError:
            plain = b""
        except ssl.SSLZeroReturnError:
            plain = b""
            self._ended = True
        if self._outgoing.pending:
            self._write_out()
        return plain

    def quiet(self) -> bool:
        self._fill()  # session tickets, which come after the handshake
        return not self._plain() and not self._ended


class Records:
    """Finds where TLS records end in what comes over a connection."""

    def __init__(self) -> None:
        self._head = b""  # of a record whose length is not known yet
        self._need = 0  # bytes that the record begun is short of

    def ends(self, data: bytes) -> list[int]:
        """Offsets in `data`, each right after a record's last byte."""
        found: list[int] = []
        at, size = 0, len(data)
        while at < size:
            if self._need:
                step = min(self._need, size - at)
                self._need -= step
            else:
                step = min(5 - len(self._head), size - at)
                self._head += data[at : at + step]
                if len(self._head) == 5:
                    self._need = int.from_bytes(self._head[3:], "big")
                    self._head = b""
                else:
                    return found
            at += step
            if not self._need:
                found.append(at)
        return found
