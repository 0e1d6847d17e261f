"""The server's end of one engine process: requests go out, tokens come in, all in one event loop.

When the engine process dies, or a step fails or takes too long, every request here gets an error,
and no new one is taken.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Protocol

from harness import wire
from harness.engine_process import EngineProcess
from harness.records.load import ServedRequest, ServeSetting
from harness.serving.journal import Journal
from harness.serving.meters import Meters
from harness.serving.outstanding import Outstanding
from harness.serving.refusal import ApiError
from harness.serving.scheduler import Finish, longest, room
from harness.units import NS_PER_S, format_duration

DEAD_RETRY_S = 30.0  # a supervisor may have started another server by then
_RECENT = 16
_WATCH_S = 1.0


class Sink(Protocol):
    """Where the tokens of one request go."""

    def token(self, token: int, finish: Finish | None) -> Finish | None:
        """Take one token, the last one with `finish`; what is returned ends the request too."""

    def fail(self, error: ApiError) -> None:
        """There is no next token."""


class Entry:
    """One request that the engine has: what became of it so far, and its sink."""

    __slots__ = ("client", "id", "link", "served", "sink")

    def __init__(
        self, link: EngineLink, request: int, client: str, served: ServedRequest, sink: Sink
    ) -> None:
        self.link, self.id, self.client = link, request, client
        self.served, self.sink = served, sink


class EngineLink(asyncio.Protocol):
    """Requests on one engine process, the server's `number`th. Lives in one event loop."""

    def __init__(
        self,
        process: EngineProcess,
        setting: ServeSetting,
        max_waiting: int,
        step_timeout_s: float,
        *,
        journal: Journal,
        meters: Meters,
        number: int = 0,
    ) -> None:
        self.number, self.outstanding = number, Outstanding()
        self.process, self.setting = process, setting
        self.room, self.longest = room(setting, max_waiting), longest(setting)
        self.step_timeout_s = step_timeout_s
        self.journal, self.meters = journal, meters
        self.entries: dict[int, Entry] = {}
        self.why_dead: str | None = None
        self.why_closed: ApiError | None = None  # no new requests
        self._transport: asyncio.Transport | None = None
        self._frames = wire.Frames()
        self._of_client: dict[str, int] = {}
        self._numbers = 0
        self._asked: deque[asyncio.Future[wire.Reply]] = deque()
        self._ends: deque[int] = deque(maxlen=_RECENT)
        self._heard_ns = time.monotonic_ns()
        self._empty = asyncio.Event()
        self._empty.set()
        self._dying: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Take over the process's channel, on which slots have been opened."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=self.process.channel)
        loop.call_later(_WATCH_S, self._watch)

    # From the channel

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._heard_ns = time.monotonic_ns()
        for body in self._frames.feed(data):
            reply = wire.reply(body)
            if isinstance(reply, wire.Stepped):
                self._stepped(reply)
            elif isinstance(reply, wire.Broken):
                self._die(f"a step failed: {reply.why.kind}: {reply.why.message}")
            elif self._asked:
                future = self._asked.popleft()
                if not future.done():
                    future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.why_dead is None:
            self._dying = asyncio.get_running_loop().create_task(self._say_how_it_died())

    async def _say_how_it_died(self) -> None:
        failed = await asyncio.to_thread(self.process.died, "serving")
        self._die(f"the engine process was lost: {failed.reason}")

    def _watch(self) -> None:
        """Kill an engine whose step takes too long."""
        if self.why_dead is not None:
            return
        silent = (time.monotonic_ns() - self._heard_ns) / NS_PER_S
        if self.entries and silent > self.step_timeout_s:
            limit = format_duration(self.step_timeout_s)
            self._die(f"no step ended within {limit}: the engine process was killed")
            self.process.kill()
            return
        asyncio.get_running_loop().call_later(_WATCH_S, self._watch)

    def _die(self, why: str) -> None:
        if self.why_dead is not None:
            return
        self.why_dead = why
        self.fail_all(ApiError(500, f"the engine failed: {why}", code="engine_failed"))
        for future in self._asked:
            if not future.done():
                future.set_exception(self._dead())
        self._asked.clear()

    def _dead(self) -> ApiError:
        return ApiError(
            503,
            f"the engine is dead: {self.why_dead}",
            code="engine_dead",
            retry_after_s=DEAD_RETRY_S,
        )

    # What a step brought

    def _stepped(self, step: wire.Stepped) -> None:
        entries = self.entries
        for request in step.started:
            if entry := entries.get(request):
                entry.served.admitted_ns = step.start_ns
        for request, tokens in zip(step.filled_ids, step.filled, strict=True):
            self.outstanding.filled(request, tokens)
        for request, token, finish in zip(step.ids, step.tokens, step.ends, strict=True):
            if entry := entries.get(request):  # else it was cancelled meanwhile
                self._token(entry, token, finish, step.end_ns)
        self.journal.step(step, self.number)
        self.meters.step(step, self.number)

    def _token(self, entry: Entry, token: int, finish: Finish | None, end_ns: int) -> None:
        served = entry.served
        served.output_tokens += 1
        self.outstanding.produced(entry.id)
        if served.first_ns is None:
            served.first_ns = end_ns
        served.end_ns = end_ns
        own = entry.sink.token(token, finish)
        if finish is None and own is not None:
            self._send(wire.Cancel(entry.id))
        if (why := finish or own) and entry.id in self.entries:
            self._end(entry, why)

    def _end(self, entry: Entry, finish: str) -> None:
        del self.entries[entry.id]
        self.outstanding.end(entry.id)
        left = self._of_client[entry.client] - 1
        if left:
            self._of_client[entry.client] = left
        else:
            del self._of_client[entry.client]
        entry.served.finish = finish
        self._ends.append(time.monotonic_ns())
        self.journal.request(entry.served)
        self.meters.request(entry.served)
        if not self.entries:
            self._empty.set()

    # To the channel

    def _send(self, request: wire.Request) -> None:
        if self._transport is not None and self.why_dead is None:
            self._transport.write(wire.frame(request))

    def takes(self, client: str) -> bool:
        """Whether a request of `client` can be taken now."""
        return self.why_dead is None and self.why_closed is None and self._has_room(client)

    def _has_room(self, client: str) -> bool:
        mine = self._of_client.get(client, 0)
        return mine < self.room[0] and len(self.entries) < self.room[1]

    def check_open(self, client: str) -> None:
        """Raise ApiError where no request of `client` can be taken now."""
        if self.why_dead is not None:
            raise self._dead()
        if self.why_closed is not None:
            raise self.why_closed
        if not self._has_room(client):
            self.meters.refused()
            raise ApiError(
                429,
                f"the queue is full: {len(self.entries)} requests are running or waiting",
                code="queue_full",
                retry_after_s=self._until_room(),
            )

    def _until_room(self) -> float:
        """Seconds until one more request is likely to have ended, by the latest ones; 1 unknown."""
        if len(self._ends) < 2:
            return 1.0
        return min(60.0, (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1) / NS_PER_S)

    def submit(
        self,
        sink: Sink,
        tokens: list[int],
        *,
        client: str,
        key: str,
        queued_ns: int,
        max_tokens: int,
        min_tokens: int = 0,
        ignore_eos: bool = False,
    ) -> Entry:
        """Hand one request to the engine. Raises ApiError where there is no room for it."""
        self.check_open(client)
        self._numbers += 1
        if not self.entries:
            self._heard_ns = time.monotonic_ns()  # it was idle until now
        served = ServedRequest(
            key=key, queued_ns=queued_ns, input_tokens=len(tokens), instance=self.number
        )
        entry = Entry(self, self._numbers, client, served, sink)
        self.outstanding.begin(entry.id, len(tokens), max_tokens)
        self._of_client[client] = self._of_client.get(client, 0) + 1
        self.entries[entry.id] = entry
        self._empty.clear()
        self._send(wire.Submit(entry.id, client, tokens, max_tokens, min_tokens, ignore_eos))
        return entry

    def cancel(self, entry: Entry) -> None:
        """Forget `entry`, whose client is gone; its slot is free at the next step."""
        if entry.id in self.entries:
            self._send(wire.Cancel(entry.id))
            entry.served.end_ns = time.monotonic_ns()
            self._end(entry, "cancelled")

    def fail_all(self, error: ApiError) -> None:
        """End every request with `error`."""
        for entry in list(self.entries.values()):
            self._send(wire.Cancel(entry.id))
            entry.served.end_ns = time.monotonic_ns()
            self._end(entry, "error")
            entry.sink.fail(error)

    async def ask(self, request: wire.Mark | wire.Report) -> wire.Reply:
        """The reply to `request`, between two steps. Raises ApiError where the engine is dead."""
        if self.why_dead is not None or self._transport is None:
            raise self._dead()
        future: asyncio.Future[wire.Reply] = asyncio.get_running_loop().create_future()
        self._asked.append(future)
        self._send(request)
        return await future

    async def emptied(self, timeout_s: float) -> bool:
        """Wait until no request is here; False where that takes longer than `timeout_s`."""
        try:
            await asyncio.wait_for(self._empty.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Hang up; the engine process ends by itself."""
        if self.why_dead is None:
            self.why_dead = "the server has stopped"
        if self._transport is not None:
            self._transport.close()
