"""The engine's side of serving: between steps it listens, then steps; idle it sleeps.

Runs in the engine process. An engine that raises is not stepped again: what its slots hold is not
known any more.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from harness import wire
from harness.engines import Feed
from harness.serving.scheduler import Produced, Scheduler, Step

if TYPE_CHECKING:
    from harness.engines import ServingEngine

Answer = Callable[[wire.Request], wire.Reply]


class Loop:
    """Steps `engine` for the requests that come over `channel`.

    `answer` replies to the requests that are not about serving.
    """

    def __init__(
        self, engine: ServingEngine, channel: socket.socket, asked: wire.Serve, answer: Answer
    ) -> None:
        self.engine, self.channel, self.answer = engine, channel, answer
        self.scheduler = Scheduler(asked.setting, asked.max_waiting, asked.eos)
        self.frames = wire.Frames()

    def run(self) -> NoReturn:
        """Serve for ever. Raises wire.Closed at hang-up, and what the engine raises."""
        while True:
            for request in wire.requests(self.channel, self.frames, wait=self.scheduler.idle):
                self.take(request)
            step = self.scheduler.next_step()
            if step is not None:
                self.step(step)

    def take(self, request: wire.Request) -> None:
        """Do what `request` asks, between two steps."""
        if isinstance(request, wire.Submit):
            if not self.scheduler.submit(request):
                raise ValueError(f"request {request.id} came though the queue is full")
        elif isinstance(request, wire.Cancel):
            slot = self.scheduler.cancel(request.id)
            if slot is not None:
                self.engine.release(slot)
        else:
            wire.send(self.channel, self.answer(request))

    def step(self, step: Step) -> None:
        """Pass `step` through the engine and tell what came out, at once."""
        feeds = [Feed(row.slot, row.tokens, row.wanted) for row in step.rows]
        start = time.monotonic_ns()
        tokens = self.engine.step(feeds)
        end = time.monotonic_ns()
        produced, freed = self.scheduler.complete(step, tokens)
        wire.send(self.channel, self.stepped(step, start, end, produced))
        for slot in freed:
            self.engine.release(slot)

    def stepped(self, step: Step, start: int, end: int, made: Sequence[Produced]) -> wire.Stepped:
        return wire.Stepped(
            start_ns=start,
            end_ns=end,
            decoding=step.decoding,
            prefill_tokens=step.prefill_tokens,
            waiting=self.scheduler.waiting,
            running=self.scheduler.running,
            kv_tokens=self.scheduler.kv_tokens,
            started=step.started,
            ids=[p.id for p in made],
            tokens=[p.token for p in made],
            ends=[p.finish for p in made],
            filled_ids=[row.id for row in step.rows[step.decoding :]],
            filled=[len(row.tokens) for row in step.rows[step.decoding :]],
        )
