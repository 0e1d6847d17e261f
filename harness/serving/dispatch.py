"""One server in front of several engines: each request goes to the one with the least before it.

An engine that dies takes its own requests with it; the others go on, and health says so. Where all
are dead the server lives on only to say why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from harness import wire
from harness.engine_process import EngineProcess
from harness.records.load import ServeSetting
from harness.serving.journal import Journal
from harness.serving.link import EngineLink, Entry
from harness.serving.meters import Meters
from harness.serving.outstanding import least
from harness.serving.refusal import ApiError
from harness.serving.warmup import warm_up


class InstanceState(Struct, kw_only=True):
    """One engine as /health tells it; `outstanding_tokens` are those it still has to pass."""

    pid: int
    cpus: list[int]
    requests: int
    outstanding_tokens: int
    dead: str | None = None


class Dispatcher:
    """The requests of one server on its engine processes. Lives in one event loop."""

    def __init__(
        self,
        processes: Sequence[EngineProcess],
        setting: ServeSetting,
        max_waiting: int,
        step_timeout_s: float,
    ) -> None:
        self.setting = setting
        self.journal, self.meters = Journal(), Meters(setting, len(processes))
        self.links = [
            EngineLink(
                process,
                setting,
                max_waiting,
                step_timeout_s,
                journal=self.journal,
                meters=self.meters,
                number=number,
            )
            for number, process in enumerate(processes)
        ]
        self.longest = self.links[0].longest

    async def start(self, vocabulary: int) -> None:
        """Take over the processes' channels, and warm all of them up at once.

        Nothing of it stays in journal and meters. Raises ApiError where an engine fails.
        """
        for link in self.links:
            await link.connect()
        await asyncio.gather(*(warm_up(link, vocabulary) for link in self.links))
        self.journal.mark()
        self.meters = Meters(self.setting, len(self.links))
        for link in self.links:
            link.meters = self.meters

    @property
    def dead(self) -> list[str]:
        """Why engines died, those that did."""
        named = len(self.links) > 1
        return [
            f"instance {link.number}: {link.why_dead}" if named else link.why_dead
            for link in self.links
            if link.why_dead is not None
        ]

    @property
    def all_dead(self) -> bool:
        return len(self.dead) == len(self.links)

    @property
    def requests(self) -> int:
        """Requests that are here, running or waiting."""
        return sum(len(link.entries) for link in self.links)

    @property
    def why_closed(self) -> ApiError | None:
        """Why no new requests are taken, while what is here goes on."""
        return self.links[0].why_closed

    def shut(self, why: ApiError) -> None:
        """Take no new requests from now on."""
        for link in self.links:
            link.why_closed = why

    def states(self, cpus: Sequence[Sequence[int]]) -> list[InstanceState]:
        """Every engine, which runs on `cpus`."""
        return [
            InstanceState(
                pid=link.process.pid,
                cpus=list(own),
                requests=len(link.entries),
                outstanding_tokens=link.outstanding.total,
                dead=link.why_dead,
            )
            for link, own in zip(self.links, cpus, strict=True)
        ]

    def choose(self, client: str) -> EngineLink:
        """Who takes the next request of `client`. Raises ApiError where nobody does."""
        number = least([k.outstanding.total if k.takes(client) else None for k in self.links])
        if number is None:
            alive = [link for link in self.links if link.why_dead is None]
            (alive or self.links)[0].check_open(client)  # says why
            raise AssertionError("an engine that takes nothing has a reason")
        return self.links[number]

    def cancel(self, entry: Entry) -> None:
        """Forget `entry`, whose client is gone; its slot is free at the next step."""
        entry.link.cancel(entry)

    def fail_all(self, error: ApiError) -> None:
        """End every request with `error`."""
        for link in self.links:
            link.fail_all(error)

    async def ask(self, request: wire.Mark | wire.Report) -> list[wire.Reply | None]:
        """Each engine's reply to `request`, None of a dead one. ApiError where all are dead."""
        found = await asyncio.gather(
            *(link.ask(request) for link in self.links), return_exceptions=True
        )
        for one in found:
            if isinstance(one, BaseException) and (self.all_dead or not isinstance(one, ApiError)):
                raise one
        return [None if isinstance(one, BaseException) else one for one in found]

    def metrics(self) -> bytes:
        """Prometheus' text; levels are those after the last steps, unless all is gone since."""
        for link in self.links:
            if not link.entries:
                self.meters.levels(link.number, 0, 0, 0)
            self.meters.load(link.number, link.outstanding.total, alive=link.why_dead is None)
        return self.meters.text()

    async def emptied(self, timeout_s: float) -> bool:
        """Wait until no request is here; False where that takes longer than `timeout_s`."""
        return all(await asyncio.gather(*(link.emptied(timeout_s) for link in self.links)))

    def close(self) -> None:
        """Hang up; the engine processes end by themselves."""
        for link in self.links:
            link.close()
