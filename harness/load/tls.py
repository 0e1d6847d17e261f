"""A connection with TLS, its records stamped before they are decrypted."""

from __future__ import annotations

import ssl
import time

from harness.load.connection import ANCILLARY_BYTES, DISCARD, PEEK, READ_BYTES, Connection, Reading
from harness.load.route import Route


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
        data, extra, _, _ = self._recvmsg(READ_BYTES, ANCILLARY_BYTES, PEEK)
        size = len(data)
        if not size:
            return False
        at = self.reading.stamp(extra)
        ends = self._records.ends(data)
        if not ends or ends == [size]:
            self._recv_into(self.reading.scratch, size, DISCARD)
            taken = [(data, at)]
        else:
            taken = self._apart(data, at, ends)
        if self.local:
            self._late_acknowledgements()
        self._count(size)
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
