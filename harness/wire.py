"""What the driver and an engine process say to each other, and how it is framed.

A frame is four bytes of length, big-endian, then MessagePack. Both ends are ours and start from
the same installation, so there is no version in it.
"""

from __future__ import annotations

import socket
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from harness.agreement.texts import Samples
from harness.engines import EngineSpec
from harness.records.load import ServeSetting
from harness.records.run import Agreement, KernelPath, MemoryPolicy, RuntimeThreads, Usage
from harness.serving.scheduler import Asked

_MAX_FRAME = 2**30


class Load(Struct, tag=True):
    """Load an engine. Answer: Loaded."""

    spec: EngineSpec


class Allocate(Struct, tag=True):
    """Make room. Answer: Done."""

    batch: int
    context: int


class Generate(Struct, tag=True):
    """Pass `tokens` (batch, n), then produce `output_tokens` for each row. Answer: Generated.

    One that `may_be_cut` ends after the first token behind which another request has come.
    """

    tokens: list[list[int]]
    output_tokens: int
    may_be_cut: bool = False


class Stop(Struct, tag=True):
    """Nothing to do, but to end what may be cut: no answer."""


class Mark(Struct, tag=True):
    """Start counting the usage of this process anew. Answer: Done."""


class Report(Struct, tag=True):
    """Tell the usage since Mark, and what engine and process say of themselves."""


class Prepare(Struct, tag=True):
    """Convert the checkpoint of `spec` into `folder`. Answer: Done."""

    spec: EngineSpec
    folder: str


class MakeReference(Struct, tag=True):
    """Logits of transformers float32 at every position of `samples` into `file`. Answer: Done."""

    checkpoint: str
    samples: Samples
    file: str


class Compare(Struct, tag=True):
    """Hold the loaded engine against the reference in `file`. Answer: Compared.

    With `chunk` as it serves: in slots, so many prompt tokens a step at most.
    """

    file: str
    chunk: int | None = None


class Trace(Struct, tag=True):
    """Run `tokens` and `output_tokens` as Generate does, and tell which kernels ran.

    Answer: Traced. The engine must have been loaded with `EngineSpec.trace`.
    """

    tokens: list[list[int]]
    output_tokens: int


class Serve(Struct, tag=True):
    """Open slots. Answer: Done.

    From then on Submit, Cancel, Mark and Report are heard between steps, and each step is told by
    a Stepped frame. A step that fails is told by Broken, and the process ends.
    """

    setting: ServeSetting
    max_waiting: int
    eos: list[int]


class Submit(Asked, tag=True, frozen=True):
    """One request to serve: no answer of its own."""


class Cancel(Struct, tag=True):
    """Forget request `id`, whether it waits, runs or has ended: no answer."""

    id: int


Request = (
    Load
    | Allocate
    | Generate
    | Stop
    | Mark
    | Report
    | Prepare
    | MakeReference
    | Compare
    | Trace
    | Serve
    | Submit
    | Cancel
)


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


class Stepped(Struct, tag=True):
    """One step, from when it began until its tokens were there.

    `decoding` sequences got one more token each, `prefill_tokens` of prompts were passed. Counted
    after it are those `waiting` and `running`, and the KV tokens reserved. `started` are the
    requests that got a slot for it; of the prompt of `filled_ids[n]` it passed `filled[n]` tokens.
    Request `ids[n]` got `tokens[n]`, its last one where `ends[n]` says why.
    """

    start_ns: int
    end_ns: int
    decoding: int
    prefill_tokens: int
    waiting: int
    running: int
    kv_tokens: int
    started: list[int]
    ids: list[int]
    tokens: list[int]
    ends: list[Literal["stop", "length"] | None]
    filled_ids: list[int] = field(default_factory=list)
    filled: list[int] = field(default_factory=list)


class Broken(Struct, tag=True):
    """A step failed: what the engine holds is not known, so that nothing is served any more."""

    why: Failed


Reply = Done | Loaded | Generated | Reported | Compared | Traced | Failed | Stepped | Broken


class Closed(Exception):
    """The other end is gone."""


def frame(message: Request | Reply) -> bytes:
    """`message` as it goes over the channel."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(4, "big") + body


def send(channel: socket.socket, message: Request | Reply) -> None:
    """Write one frame. Raises Closed where nobody reads any more."""
    try:
        channel.sendall(frame(message))
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


class Frames:
    """Cuts what came over a channel into frames; a part of one is kept until the rest comes."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Bodies of the frames that `data` completes. Raises Closed for one that is too long."""
        self._data += data
        bodies, at = [], 0
        while len(self._data) >= at + 4:
            end = at + 4 + int.from_bytes(self._data[at : at + 4], "big")
            if end - at - 4 > _MAX_FRAME:
                raise Closed
            if len(self._data) < end:
                break
            bodies.append(bytes(self._data[at + 4 : end]))
            at = end
        del self._data[:at]
        return bodies


def requests(channel: socket.socket, frames: Frames, *, wait: bool) -> list[Request]:
    """Requests that are there; with `wait` it is slept until something comes.

    Raises Closed at the end.
    """
    try:
        data = channel.recv(1 << 20, 0 if wait else socket.MSG_DONTWAIT)
    except BlockingIOError:
        return []
    except OSError as error:
        raise Closed from error
    if not data:
        raise Closed
    return [_REQUESTS.decode(body) for body in frames.feed(data)]


def reply(body: bytes) -> Reply:
    """The reply in the body of a frame."""
    return _REPLIES.decode(body)


_REQUESTS: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_REPLIES: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
