"""Requests before the first client: every shape of step has run, and its memory was touched."""

from __future__ import annotations

import asyncio
import random
import time

from harness.serving.link import EngineLink
from harness.serving.refusal import ApiError
from harness.serving.scheduler import Finish

_OUTPUT = 8
_SAME = 0.1  # rounds whose times differ by less agree
_MOST_ROUNDS = 5
_ENOUGH_S = 10.0


class _Ended:
    """A sink that waits for the end of its request."""

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def token(self, token: int, finish: Finish | None) -> Finish | None:
        if finish is not None and not self.future.done():
            self.future.set_result(None)
        return finish

    def fail(self, error: ApiError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


async def warm_up(link: EngineLink, vocabulary: int) -> None:
    """One prompt of a whole chunk, then rounds of a request for each slot, which share a chunk.

    There are rounds until two neighbours take as long, or it has been enough. Raises ApiError where
    the engine fails.
    """
    numbers = random.Random(0)
    total = await _round(link, 1, vocabulary, numbers)
    before = 0.0
    for _ in range(_MOST_ROUNDS):
        seconds = await _round(link, link.setting.slots, vocabulary, numbers)
        total += seconds
        if abs(seconds - before) < _SAME * seconds or total > _ENOUGH_S:
            break
        before = seconds


async def _round(link: EngineLink, count: int, vocabulary: int, numbers: random.Random) -> float:
    """Seconds that `count` requests at once took, whose prompts make one chunk together."""
    output = min(_OUTPUT, link.longest - 1)
    length = max(1, min(link.setting.chunk // count, link.longest - output))
    start = time.monotonic()
    sinks = []
    for _ in range(count):
        tokens = [numbers.randrange(vocabulary) for _ in range(length)]
        sink = _Ended()
        sinks.append(sink.future)
        link.submit(
            sink,
            tokens,
            client="",
            key="",
            queued_ns=time.monotonic_ns(),
            max_tokens=output,
            ignore_eos=True,
        )
    await asyncio.gather(*sinks)
    return time.monotonic() - start
