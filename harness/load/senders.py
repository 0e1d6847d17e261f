"""The load client: processes that send what is planned to one endpoint, and what came of it."""

from __future__ import annotations

import itertools
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct, field

from harness.errors import ArmbenchError
from harness.load import messages
from harness.load.bodies import Said
from harness.load.offering import MakeBodies, Offering, Stop
from harness.load.sender_process import SenderProcess
from harness.load.turns import ids_place, text_place
from harness.records.load import ClientSeen, Planned, Target
from harness.records.run import RequestRecord

START_AFTER_NS = 50_000_000  # from the order to go to offset 0 of the schedule
WARM_CONNECTIONS = 8  # of an open loop, where nobody says how many


class BodyMaker(Protocol):
    """What makes request bodies: `bodies.Bodies`."""

    def body(self, planned: Planned, said: Sequence[Said] = ()) -> bytes:
        """The JSON body of `planned`; `said` has the earlier turns of its conversation."""


class Ran(Struct, kw_only=True):
    """What came of one load. `start_ns` is offset 0 of the schedule.

    `tag` begins the X-Request-Id of each request, "tag-id". `interrupted` says that Ctrl-C ended
    it, `stopped` what the caller's `stop` said. `faults` tell of processes that died: requests of
    a closed loop that were with them are not known.
    """

    start_ns: int
    end_ns: int
    records: list[RequestRecord]
    client: ClientSeen
    tag: str
    interrupted: bool = False
    stopped: str | None = None
    faults: list[str] = field(default_factory=list)


class Senders:
    """Client processes for one endpoint, alive with their connections until the `with` ends.

    There are `processes`, each alone on one of `cpus` as far as these go round. `verify` is
    whether TLS certificates are checked, or a file of authorities; `proxy` is an http URL, and
    without one there is none, whatever the environment says. A request that takes longer than
    `timeout_s` from when it was to go out is given up. `key` and the values of `headers` go to the
    server and nowhere else.

    `kernel_stamps` and `hold` are for tests: without kernel stamps arrival times are taken after
    the read; `hold` = (seconds, every_s) keeps each loop computing for so long, so often.
    Raises ArmbenchError where the processes can't be started as asked.
    """

    def __init__(
        self,
        target: Target,
        *,
        cpus: Sequence[int],
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        processes: int = 1,
        timeout_s: float = 600.0,
        verify: bool | str | Path = True,
        proxy: str | None = None,
        kernel_stamps: bool = True,
        hold: tuple[float, float] | None = None,
    ) -> None:
        if not cpus or processes < 1:
            raise ArmbenchError("the load client has no CPU", hint="give it one at least")
        self.target = target
        self._processes: list[SenderProcess] = []
        try:
            for number in range(processes):
                setup = messages.Setup(
                    url=target.url,
                    endpoint=target.endpoint,
                    sender=number,
                    timeout_s=timeout_s,
                    key=key,
                    headers=dict(headers or {}),
                    verify=str(verify) if isinstance(verify, Path) else verify,
                    proxy=proxy,
                    kernel_stamps=kernel_stamps,
                    hold=hold,
                )
                self._processes.append(SenderProcess(cpus[number % len(cpus)], setup))
            for process in self._processes:
                process.hear_ready()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Senders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids, in the order of `HttpSeen.sender`."""
        return [process.process.pid for process in self._processes]

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.close()
        self._processes = []

    def run(
        self,
        planned: Sequence[Planned] | Iterator[Planned],
        bodies: BodyMaker,
        *,
        concurrency: int | None = None,
        stop_after_s: float | None = None,
        drain_s: float = 30.0,
        connections: int | None = None,
        stop: Stop | None = None,
        stop_every_s: float = 0.5,
    ) -> Ran:
        """Offer `planned` once: what came of every request that fell due, in the order of ids.

        Requests with a due time make an open loop, capped where `concurrency` is given: a request
        held back then has a note that says so, and its due time stands. Requests without make a
        closed loop of `concurrency` slots. Nothing falls due from `stop_after_s` on. What is on
        its way `drain_s` after that, or after all was sent, is cancelled and recorded as
        unfinished. `connections` are open before the start: `concurrency`, or 8 for an open loop,
        which keeps one idle all the time.

        A closed loop may be an iterator, without end where `stop_after_s` is given. It is drawn
        from as requests are needed, and has the turns of a conversation one after the other.

        Bodies are made before the start, those of a long closed loop in the course of it. A later
        turn of a conversation gets its body with marks in the places of answers; the sender puts
        the real answers there, its think time after the turn before ended.

        `stop` hears every `stop_every_s` what has ended so far, which costs the senders the
        reading of answers in idle moments; a text from it ends the sending. After Ctrl-C the
        result has what there is. Raises ArmbenchError where no connection can be had.
        """
        tag = f"ab{secrets.token_hex(4)}"
        active = self._deal(planned, concurrency)
        if not active:
            raise ArmbenchError("a load without requests", hint="ask for one request at least")
        wished = connections if connections is not None else concurrency or WARM_CONNECTIONS
        make = self._maker(bodies, tag)
        for place, process in enumerate(active):
            process.salt = tag
            assert process.unit is not None
            closed = process.unit[0].due_ns is None
            process.feed(make, 2 * messages.FEW if closed else sys.maxsize)
            process.tell(
                messages.Prepare(
                    salt=tag,
                    connections=_part(wished, place, len(active)),
                    concurrency=process.slots if concurrency is not None else None,
                    stop_after_ns=None if stop_after_s is None else int(stop_after_s * 1e9),
                    drain_ns=int(drain_s * 1e9),
                    tell_ns=None if stop is None else int(stop_every_s * 1e9),
                )
            )
        for process in active:
            process.hear_ready()
        offering = Offering(active, make, stop, time.monotonic_ns() + START_AFTER_NS)
        offering.conduct()
        return Ran(
            start_ns=offering.start_ns,
            end_ns=offering.end_ns,
            records=sorted(offering.records, key=lambda record: record.id),
            client=offering.client_seen(),
            tag=tag,
            interrupted=offering.interrupted,
            stopped=offering.stopped,
            faults=offering.faults,
        )

    def _deal(
        self, planned: Sequence[Planned] | Iterator[Planned], concurrency: int | None
    ) -> list[SenderProcess]:
        """Deal out one schedule, turns of a conversation together: the processes that got some."""
        if concurrency is not None and concurrency < 1:
            raise ArmbenchError(f"a concurrency of {concurrency}", hint="give 1 or more")
        drawn = not isinstance(planned, Sequence)
        closed = drawn or any(p.due_ns is None and p.turn == 0 for p in planned)
        if closed and concurrency is None:
            raise ArmbenchError("a closed loop without a concurrency", hint="give --concurrency")
        count = min(len(self._processes), concurrency or len(self._processes))
        if isinstance(planned, Sequence):
            whole = units(planned)
            shares = [iter(whole[place::count]) for place in range(count)]
        else:
            shares = [units_of_stream(planned)] * count  # whoever needs requests draws the next
        for place, process in enumerate(self._processes):
            process.slots = _part(concurrency or 0, place, count) if place < count else 0
            process.deal(shares[place] if place < count else iter(()))
        return [process for process in self._processes if process.unit is not None]

    def _maker(self, bodies: BodyMaker, tag: str) -> MakeBodies:
        ids = self.target.prompts == "ids"

        def make(unit: Sequence[Planned]) -> list[bytes]:
            made = []
            said: list[Said] = []
            for one in unit:
                made.append(bodies.body(one, said[: one.turn]) if one.turn else bodies.body(one))
                place = ids_place(len(said)) if ids else text_place(tag, len(said))
                said.append(Said(one, place))
            return made

        return make


def units(planned: Sequence[Planned]) -> list[list[Planned]]:
    """What has to stay together, in order: single requests, and all turns of a conversation."""
    found: list[list[Planned]] = []
    conversations: dict[int, list[Planned]] = {}
    for one in planned:
        if one.conversation is None:
            found.append([one])
            continue
        unit = conversations.get(one.conversation)
        if unit is None:
            unit = conversations[one.conversation] = []
            found.append(unit)
        unit.append(one)
    return found


def units_of_stream(planned: Iterator[Planned]) -> Iterator[list[Planned]]:
    """As `units`, drawn one by one; the turns of a conversation follow each other."""
    for _, unit in itertools.groupby(
        planned, key=lambda one: (one.conversation, one.id if one.conversation is None else 0)
    ):
        yield list(unit)


def _part(total: int, place: int, count: int) -> int:
    """The share of `total` of the one at `place` of `count`."""
    return total // count + (place < total % count)
