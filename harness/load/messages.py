"""What the conductor of a load and its sender processes say to each other.

A frame is eight bytes of length, big-endian, then MessagePack.
"""

from __future__ import annotations

import select
import socket
from typing import Any

import msgspec
from msgspec import Struct, field

from harness.records.load import Endpoint, Planned
from harness.records.run import RequestRecord

BATCH = 500  # requests or records in a frame at most
FEW = 1000  # requests of a closed loop that a sender has left when it asks for more
BATCH_BYTES = 1 << 20  # of bodies in a frame, about: a loop under load takes it in 1 ms


class Setup(Struct, tag=True):
    """Who to talk to, and how. The first message, once."""

    url: str
    endpoint: Endpoint
    sender: int
    timeout_s: float
    key: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    verify: bool | str = True
    proxy: str | None = None
    kernel_stamps: bool = True
    hold: tuple[float, float] | None = None


class Batch(Struct, tag=True):
    """Some of this sender's requests and their bodies; a conversation's turns in one batch.

    `last` says that no more follow. `salt` is that of the load's Prepare.
    """

    salt: str
    planned: list[Planned]
    bodies: list[bytes]
    last: bool = False


class Prepare(Struct, tag=True):
    """All batches are there: open connections. Answer: Ready or Refused."""

    salt: str
    connections: int
    concurrency: int | None
    stop_after_ns: int | None
    drain_ns: int
    tell_ns: int | None  # how often records are told in the window; None: never


class Go(Struct, tag=True):
    """Offset 0 of the schedule. Answer: Records, some perhaps early, More perhaps, then Ended."""

    start_ns: int


class Stop(Struct, tag=True):
    """End early: at once, or by sending no more and draining."""

    why: str
    at_once: bool


class Ready(Struct, tag=True):
    """Everything is prepared."""


class Refused(Struct, tag=True):
    """It can't be done: an error for the user."""

    message: str
    hint: str | None


class More(Struct, tag=True):
    """Few requests of a closed loop are left: send another batch, if there are any."""


class Records(Struct, tag=True):
    """Some records, before the end only where they were asked for."""

    records: list[RequestRecord]


Columns = tuple[list[int], list[int], int]


class Ended(Struct, tag=True):
    """The load is over; what this process saw of itself."""

    start_ns: int
    end_ns: int
    reads: int
    unstamped: int
    events: int
    token_events: int
    merged: int
    wire_bytes: int
    cpu_s: float
    read_lags: Columns
    loop_lags: Columns
    steps: int


Order = Setup | Batch | Prepare | Go | Stop
Word = Ready | Refused | More | Records | Ended


class Closed(Exception):
    """The other end is gone."""


def frame(message: Order | Word) -> bytes:
    """`message` as it goes over the channel."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(8, "big") + body


def send(channel: socket.socket, message: Order | Word) -> None:
    """Write one frame. Raises Closed where nobody reads any more."""
    try:
        channel.sendall(frame(message))
    except OSError as error:
        raise Closed from error


class Desk:
    """The sender's end of the channel: nothing here waits but what is told to.

    Methods raise Closed where the conductor is gone.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._out = bytearray()
        self._in = bytearray()

    def fileno(self) -> int:
        return self._channel.fileno()

    def put(self, word: Word) -> None:
        """Say it later."""
        self._out += frame(word)

    def post(self, *, wait: bool = False) -> None:
        """Say what the conductor takes now, or everything; it may be busy telling us something."""
        while self._out:
            try:
                del self._out[: self._channel.send(self._out, socket.MSG_DONTWAIT)]
            except BlockingIOError:
                if not wait:
                    return
                ready, _, _ = select.select([self._channel], [self._channel], [])
                if ready:
                    self._fetch(socket.MSG_DONTWAIT)
            except OSError as error:
                raise Closed from error

    def take(self, *, wait: bool = False) -> Order | None:
        """The next order; None where none is there as a whole."""
        while True:
            end = 8 + int.from_bytes(self._in[:8], "big")
            if 8 <= len(self._in) >= end:
                order: Order = _ORDERS.decode(self._in[8:end])
                del self._in[:end]
                return order
            if not self._fetch(0 if wait else socket.MSG_DONTWAIT):
                return None

    def _fetch(self, flags: int) -> bool:
        try:
            data = self._channel.recv(1 << 20, flags)
        except BlockingIOError:
            return False
        except OSError as error:
            raise Closed from error
        if not data:
            raise Closed
        self._in += data
        return True


def _read(channel: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        try:
            part = channel.recv(min(count - len(parts), 1 << 20))
        except OSError as error:
            raise Closed from error
        if not part:
            raise Closed
        parts += part
    return bytes(parts)


def receive(channel: socket.socket) -> Word:
    """The next word of a sender. Raises Closed at the end."""
    word: Word = _WORDS.decode(_read(channel, int.from_bytes(_read(channel, 8), "big")))
    return word


_ORDERS: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Order)
_WORDS: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Word)
