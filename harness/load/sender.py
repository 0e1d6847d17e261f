"""One process of the load client, pinned to its CPU; it dies with its parent.

Started as `python -m harness.load.sender FD CPU` by `senders`, never imported by the conductor.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator

from harness.errors import ArmbenchError
from harness.load import messages
from harness.load.agenda import Agenda, Job
from harness.load.client import Client, Hold
from harness.load.exchange import Digested, digest
from harness.load.messages import BATCH, FEW, Closed, Desk
from harness.load.route import Route
from harness.parent import die_with_parent
from harness.records.load import Planned


class Sender:
    """Answers one order after the other."""

    def __init__(self, desk: Desk, setup: messages.Setup) -> None:
        """Raises ArmbenchError for a route that can't be."""
        self.desk = desk
        self.route = Route(
            setup.url,
            setup.endpoint,
            key=setup.key,
            headers=setup.headers,
            verify=setup.verify,
            proxy=setup.proxy,
        )
        self.setup = setup
        self.client = self._client()
        self.batches: list[messages.Batch] = []
        self.more = False  # whether requests are yet to come
        self.asked = False
        self.prepared: messages.Prepare | None = None
        self.jobs: list[Job] = []
        self.seen = [0, 0, 0]  # events, events with tokens, those of one stamp
        self._told_ns = 0

    def _client(self) -> Client:
        client = Client(
            self.route,
            self.setup.endpoint,
            sender=self.setup.sender,
            timeout_s=self.setup.timeout_s,
            kernel_stamps=self.setup.kernel_stamps,
            hold=Hold(*self.setup.hold) if self.setup.hold else None,
        )
        client.listen(self.desk.fileno())
        client.on_control = self._control
        client.on_beat = self._beat
        return client

    def prepare(self, order: messages.Prepare) -> messages.Word:
        self.prepared = order
        self.client.chores.salt = order.salt
        batches, self.batches = self.batches, []
        ours = [batch for batch in batches if batch.salt == order.salt]
        self.jobs = [job for batch in ours for job in self._jobs(batch)]
        try:
            self.client.warm(order.connections)
            self.client.begin(digest_early=order.tell_ns is not None)
        except ArmbenchError as error:
            return messages.Refused(error.message, error.hint)
        return messages.Ready()

    def _jobs(self, batch: messages.Batch) -> list[Job]:
        assert self.prepared is not None
        self.more, self.asked = not batch.last, False
        return chained(batch.planned, batch.bodies, self.route, self.prepared.salt)

    def go(self, order: messages.Go) -> None:
        """Offer the load, then tell what came of it."""
        assert self.prepared is not None
        plan, client = self.prepared, self.client
        self.seen, self._told_ns = [0, 0, 0], order.start_ns
        agenda = Agenda(
            self.jobs,
            start_ns=order.start_ns,
            stop_ns=None if plan.stop_after_ns is None else order.start_ns + plan.stop_after_ns,
            concurrency=plan.concurrency,
        )
        agenda.more = self.more
        self.jobs = []
        began = max(order.start_ns, time.monotonic_ns())
        cpu = time.process_time_ns()
        client.run(agenda, drain_ns=plan.drain_ns)
        cpu = time.process_time_ns() - cpu
        ended = time.monotonic_ns()
        self._tell(self._digested(), wait=True)
        self._end(began, ended, cpu)

    def _end(self, began: int, ended: int, cpu_ns: int) -> None:
        client, reading = self.client, self.client.reading
        events, token_events, merged = self.seen
        self.desk.put(
            messages.Ended(
                start_ns=began,
                end_ns=ended,
                reads=reading.reads,
                unstamped=reading.unstamped,
                events=events,
                token_events=token_events,
                merged=merged,
                wire_bytes=reading.wire_bytes,
                cpu_s=cpu_ns / 1e9,
                read_lags=reading.lags.columns(),
                loop_lags=client.loop_lags.columns(),
                steps=reading.wall.steps,
            )
        )
        self.desk.post(wait=True)

    def _tell(self, digested: Iterable[Digested], *, wait: bool) -> None:
        """Send records, and those of requests that never went out."""
        batch, self.client.chores.dropped = self.client.chores.dropped, []
        for one in digested:
            self.seen[0] += one.events
            self.seen[1] += one.token_events
            self.seen[2] += one.merged
            batch.append(one.record)
            if len(batch) >= BATCH:
                self.desk.put(messages.Records(batch))
                self.desk.post(wait=wait)
                batch = []
        if batch:
            self.desk.put(messages.Records(batch))
            self.desk.post(wait=wait)

    def _digested(self) -> Iterator[Digested]:
        chores = self.client.chores
        yield from chores.digested
        chores.digested.clear()
        while chores.finished:
            exchange = chores.finished.popleft()
            yield digest(exchange, self.setup.endpoint, self.setup.sender, self.route.redacted)

    def _control(self) -> None:
        """The conductor says something while the load runs, or while connections open."""
        while (order := self.desk.take()) is not None:
            if isinstance(order, messages.Batch):
                if self.prepared is not None and order.salt == self.prepared.salt:
                    self.client.agenda.add(self._jobs(order))
                    self.client.agenda.more = self.more
            elif isinstance(order, messages.Stop) and order.at_once:
                self.client.stop(order.why)
            elif isinstance(order, messages.Stop):
                self.client.end_sending()

    def _beat(self, now_ns: int) -> None:
        """Tell what has ended, and ask for more, where that is wanted."""
        plan, client = self.prepared, self.client
        assert plan is not None
        if plan.tell_ns is not None and now_ns >= self._told_ns + plan.tell_ns:
            self._told_ns = now_ns
            told, client.chores.digested = client.chores.digested, []
            self._tell(told, wait=False)
        if self.more and not self.asked and client.agenda.slotted < FEW:
            self.asked = True
            self.desk.put(messages.More())
        self.desk.post()
        self._control()  # orders that came in one read with the last one before


def chained(planned: list[Planned], bodies: list[bytes], route: Route, salt: str) -> list[Job]:
    """Jobs that begin something; later turns hang on the turn before, their bodies as templates.

    A turn without the one before it is sent by itself.
    """
    jobs: list[Job] = []
    last: dict[int, Job] = {}
    for one, body in zip(planned, bodies, strict=True):
        before = last.get(one.conversation) if one.conversation is not None else None
        follows = one.turn > 0 and before is not None
        job = Job(one, body if follows else route.request(body, f"{salt}-{one.id}"))
        if one.conversation is not None:
            last[one.conversation] = job
        if follows and before is not None:
            before.following = job
        else:
            jobs.append(job)
    return jobs


def _allow_many_sockets() -> None:
    """As many file descriptors as this process may have: one for each request on its way."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):
        pass  # then the usual number has to do


def main(arguments: list[str]) -> int:
    """Serve until the conductor hangs up."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the conductor's to handle
    _allow_many_sockets()
    with socket.socket(fileno=int(arguments[0])) as channel:
        try:
            return _serve(messages.Desk(channel), int(arguments[1]))
        except Closed:
            return 0


def _serve(desk: Desk, cpu: int) -> int:
    """Answer orders. Raises Closed when the conductor hangs up."""
    try:
        os.sched_setaffinity(0, {cpu})
        setup = desk.take(wait=True)
        assert isinstance(setup, messages.Setup)
        sender = Sender(desk, setup)
    except (ArmbenchError, OSError) as error:
        hint = error.hint if isinstance(error, ArmbenchError) else None
        desk.put(messages.Refused(str(error), hint))
        desk.post(wait=True)
        return 1
    desk.put(messages.Ready())
    while True:
        desk.post(wait=True)
        order = desk.take(wait=True)
        if isinstance(order, messages.Batch):
            sender.batches.append(order)
        elif isinstance(order, messages.Prepare):
            desk.put(sender.prepare(order))
        elif isinstance(order, messages.Go):
            sender.go(order)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
