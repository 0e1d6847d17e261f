"""What the driver and an engine process say to each other, and how it is framed.

A frame is four bytes of length, big-endian, then MessagePack. Both ends are ours and start from
the same installation, so there is no version in it.
"""

from __future__ import annotations

import socket
from typing import Any

import msgspec
from msgspec import Struct, field

from harness.engines import EngineSpec
from harness.records.run import Agreement, KernelPath, MemoryPolicy, RuntimeThreads, Usage

_MAX_FRAME = 2**30


class Load(Struct, tag=True):
    """Load an engine. Answer: Loaded."""

    spec: EngineSpec


class Allocate(Struct, tag=True):
    """Make room. Answer: Done."""

    batch: int
    context: int


class Generate(Struct, tag=True):
    """Pass `tokens` (batch, n), then produce `output_tokens` for each row. Answer: Generated."""

    tokens: list[list[int]]
    output_tokens: int


class Mark(Struct, tag=True):
    """Start counting the usage of this process anew. Answer: Done."""


class Report(Struct, tag=True):
    """Tell the usage since Mark, and what engine and process say of themselves."""


class Prepare(Struct, tag=True):
    """Convert the checkpoint of `spec` into `folder`. Answer: Done."""

    spec: EngineSpec
    folder: str


class MakeReference(Struct, tag=True):
    """Greedy tokens and logits of transformers float32 into `file` (.npz). Answer: Done."""

    checkpoint: str
    prompt: list[int]
    positions: int
    file: str


class Compare(Struct, tag=True):
    """Hold the loaded engine against the reference in `file`. Answer: Compared."""

    file: str


class Trace(Struct, tag=True):
    """Run `tokens` and `output_tokens` as Generate does, and tell which kernels ran.

    Answer: Traced. The engine must have been loaded with `EngineSpec.trace`.
    """

    tokens: list[list[int]]
    output_tokens: int


Request = Load | Allocate | Generate | Mark | Report | Prepare | MakeReference | Compare | Trace


class Done(Struct, tag=True):
    """It is done."""


class Loaded(Struct, tag=True):
    """The engine is loaded; `seconds` it took."""

    seconds: float


class Generated(Struct, tag=True):
    """Instants of one batch: when work began and when each token was there; ids by row."""

    started_ns: int
    token_ns: list[int]
    tokens: list[list[int]]


class Reported(Struct, tag=True):
    """Usage since the mark, the engine's facts and threads, and where its memory is bound."""

    usage: Usage
    facts: dict[str, Any]
    runtime: RuntimeThreads
    policy: MemoryPolicy


class Compared(Struct, tag=True):
    """How near the engine is to the reference."""

    agreement: Agreement


class Traced(Struct, tag=True):
    """Which kernels ran."""

    path: KernelPath


class Failed(Struct, tag=True):
    """The request failed inside the engine process, which goes on."""

    kind: str
    message: str
    hint: str | None = None
    traceback: list[str] = field(default_factory=list)


Reply = Done | Loaded | Generated | Reported | Compared | Traced | Failed


class Closed(Exception):
    """The other end is gone."""


def send(channel: socket.socket, message: Request | Reply) -> None:
    """Write one frame. Raises Closed where nobody reads any more."""
    body = msgspec.msgpack.encode(message)
    try:
        channel.sendall(len(body).to_bytes(4, "big") + body)
    except OSError as error:
        raise Closed from error


def _read(channel: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = channel.recv(min(count - len(parts), 1 << 20))
        if not part:
            raise Closed
        parts += part
    return bytes(parts)


def _receive(channel: socket.socket) -> bytes:
    try:
        length = int.from_bytes(_read(channel, 4), "big")
        if length > _MAX_FRAME:
            raise Closed
        return _read(channel, length)
    except TimeoutError:
        raise
    except OSError as error:
        raise Closed from error


def receive_request(channel: socket.socket) -> Request:
    """The next request. Raises Closed at the end."""
    request: Request = msgspec.msgpack.decode(_receive(channel), type=Request)
    return request


def receive_reply(channel: socket.socket) -> Reply:
    """The next reply. Raises Closed, or TimeoutError after the channel's time limit."""
    reply: Reply = msgspec.msgpack.decode(_receive(channel), type=Reply)
    return reply
