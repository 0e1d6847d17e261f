"""One connection of the load client: what arrives is stamped by the kernel, per event.

What the kernel does, as seen on Linux 6.18 and by its source (net/ipv4/tcp.c, tcp_input.c):

- SO_TIMESTAMPNS stamps each packet where it enters the host. recvmsg gives one stamp for a read,
  that of the newest packet in it. So a read first looks (MSG_PEEK) and, where several events have
  gathered, takes them one by one, each with the stamp of the packet that completed it. A program
  that comes late loses nothing.
- Small packets that wait in a socket may be merged by the kernel, and only the newest stamp is
  left. Over loopback a packet that is not yet acknowledged is not merged; so towards this machine
  acknowledgements go out when data is read (TCP_QUICKACK), the kernel's own only after 40 ms, some
  500 bytes, or when the server's kernel probes some 10 ms after a second packet. From a network
  card merging can't be prevented: there an event may get the stamp of a later one of its own
  stream that came before it was read. Either way the error is below the read lag, which is
  recorded, and events of one stamp are counted (`ClientSeen.merged_share`).
- Stamps are of CLOCK_REALTIME; `clock.WallOffset` turns them into CLOCK_MONOTONIC.

With TLS the same holds for its records: they are stamped, then decrypted.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import time

from harness.load.clock import Lags, WallOffset
from harness.load.exchange import Exchange
from harness.load.framing import Ending
from harness.load.route import Route

READ_BYTES = 1 << 16
MOST_ANSWER_BYTES = 256 * 2**20  # of one answer as it comes over the wire
ANCILLARY_BYTES = 64
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; its control message has the same number
_STAMP = struct.Struct("@ll").unpack_from
PEEK = socket.MSG_PEEK
DISCARD = socket.MSG_TRUNC  # of TCP: take without copying, tcp(7)
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

    def look_for_step(self) -> None:
        """See whether the wall clock was set."""
        if self.wall.stepped():
            self.stepped_ns = time.monotonic_ns()

    def _holds(self, at: int, now: int) -> bool:
        """Whether an unlikely stamp is to be believed: not around a step of the wall clock."""
        self.look_for_step()
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
        self.connect_s: float | None = None
        self.tls_s: float | None = None
        self.unsent: memoryview | None = None
        family, self.address = route.address
        self.socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.fd = self.socket.fileno()
        self.local = False
        self._tunnelling = False
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
        if self.connect_s is None and not self._connected():
            return
        if self._tunnelling and not self._tunnelled():
            return
        self.ready = self._secured()

    def _connected(self) -> bool:
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        try:
            there = self.socket.getpeername()[0]
        except OSError:
            return False  # woken for another socket that had this number
        self.connect_s = (time.monotonic_ns() - self._begun_ns) / 1e9
        here = self.socket.getsockname()[0]
        self.local = here == there or there.startswith("127.")
        if self.route.tunnel is not None:
            self._tunnelling = True
            self.socket.send(self.route.tunnel)
        return True

    def _tunnelled(self) -> bool:
        """Whether the proxy has opened the way; it says nothing more before we do."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return False
        status = re.match(rb"HTTP/1\.[01] (\d{3})", data)
        if status is None or not status[1].startswith(b"2"):
            raise OSError(f"the proxy refused: {data[:100].splitlines()[:1]!r}")
        self._tunnelling = False
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
        self._left = MOST_ANSWER_BYTES
        self._pieces = exchange.pieces.append
        self._stamps = exchange.stamps.append
        self._feed = exchange.ending.feed
        if self.local:
            self._late_acknowledgements()
        data = self._packed(exchange.job.request)
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
        data, extra, _, _ = self._recvmsg(READ_BYTES, ANCILLARY_BYTES, PEEK)
        size = len(data)
        if not size:
            return False
        at = self.reading.stamp(extra)
        # An event that ends before the last line of the read shares it with another.
        if data.find(b"\n\n", 0, size - 3) < 0 and data.find(b"\n\r\n", 0, size - 3) < 0:
            self._recv_into(self.reading.scratch, size, DISCARD)
            self._pieces(data)
            self._stamps(at)
        else:
            for piece, each in self._apart(data, at, [m.end() for m in _EVENT_END.finditer(data)]):
                self._pieces(piece)
                self._stamps(each)
        if self.local:
            self._late_acknowledgements()
        self._count(size)
        self._feed(data)
        return True

    def _count(self, size: int) -> None:
        """Take note of `size` bytes read. Raises OSError where an answer has too many."""
        self.reading.wire_bytes += size
        self._left -= size
        if self._left < 0:
            raise OSError(f"the answer is longer than {MOST_ANSWER_BYTES >> 20} MiB")

    def _apart(self, data: bytes, newest: int, ends: list[int]) -> list[tuple[bytes, int]]:
        """Take what was looked at up to each of `ends` by itself: (piece, when it came)."""
        taken: list[tuple[bytes, int]] = []
        at, size = 0, len(data)
        for end in ends:
            _, extra, _, _ = self._recvmsg(end - at, ANCILLARY_BYTES, DISCARD)
            stamp = self.reading.stamp(extra)
            taken.append((data[at:end], stamp))
            at = end
            if stamp >= newest:
                break
        if at < size:
            self._recv_into(self.reading.scratch, size - at, DISCARD)
            taken.append((data[at:], newest))
        return taken

    def _late_acknowledgements(self) -> None:
        """Acknowledge what was read now, and from here on only when reading."""
        try:
            self._setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            self._setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        except OSError:
            self.local = False  # not this kernel

    def quiet(self) -> bool:
        """Whether an idle connection that is readable is still good: False after a hang-up."""
        try:
            self.socket.recv(READ_BYTES, PEEK)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self.ready = False
        self.exchange = None
        self.socket.close()
