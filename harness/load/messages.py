"""What the conductor of a load and its sender processes say to each other.

A frame is eight bytes of length, big-endian, then MessagePack.
"""

from __future__ import annotations

import socket
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, field

from harness.records.load import Endpoint, Planned
from harness.records.run import RequestRecord

M = TypeVar("M")
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

    `last` says that no more follow.
    """

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


def send(channel: socket.socket, message: Order | Word) -> None:
    """Write one frame. Raises Closed where nobody reads any more."""
    body = msgspec.msgpack.encode(message)
    try:
        channel.sendall(len(body).to_bytes(8, "big") + body)
    except OSError as error:
        raise Closed from error


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


def receive(channel: socket.socket, decoder: msgspec.msgpack.Decoder[M]) -> M:
    """The next message. Raises Closed at the end."""
    return decoder.decode(_read(channel, int.from_bytes(_read(channel, 8), "big")))


ORDERS: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Order)
WORDS: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Word)
