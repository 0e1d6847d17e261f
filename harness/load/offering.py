"""One load under way in several sender processes, heard to its end."""

from __future__ import annotations

import selectors
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from harness.load import messages
from harness.load.agenda import Job
from harness.load.clock import Lags
from harness.load.exchange import never_sent
from harness.load.messages import FEW, Closed
from harness.load.sender_process import SenderProcess
from harness.records.load import ClientSeen, Planned
from harness.records.run import RequestRecord

_HEED_S = 0.1  # how long Ctrl-C may go unheeded
_STOP_TIMEOUT_S = 60.0  # to cancel, read what was kept and tell it
_UNSTAMPED_SHARE = 0.01

Stop = Callable[[list[RequestRecord]], str | None]
MakeBodies = Callable[[Sequence[Planned]], list[bytes]]


class Offering:
    """A load from `start_ns` on. `records` and `faults` grow while it is conducted."""

    def __init__(
        self,
        processes: Sequence[SenderProcess],
        bodies: MakeBodies,
        stop: Stop | None,
        start_ns: int,
    ) -> None:
        self.processes = processes
        self.bodies = bodies
        self.stop = stop
        self.start_ns = start_ns
        self.records: list[RequestRecord] = []
        self.parts: dict[int, messages.Ended] = {}
        self.faults: list[str] = []
        self.interrupted = False
        self.stopped: str | None = None

    def conduct(self) -> None:
        """Start all and hear all to their end.

        Ctrl-C ends the load at once, with what there is; a second one is raised.
        """
        with self._heeding_ctrl_c():
            for process in self.processes:
                process.tell(messages.Go(self.start_ns))
            self._hear_all()

    @property
    def end_ns(self) -> int:
        """When the last process had nothing more on its way."""
        return max((part.end_ns for part in self.parts.values()), default=time.monotonic_ns())

    def client_seen(self) -> ClientSeen:
        """What all processes saw of themselves, as one."""
        return client_seen(list(self.parts.values()), [process.cpu for process in self.processes])

    @contextmanager
    def _heeding_ctrl_c(self) -> Iterator[None]:
        """Inside, Ctrl-C is noted rather than raised, which could be in the middle of a word."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(*_: object) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _hear_all(self) -> None:
        deadline = None
        with selectors.DefaultSelector() as selector:
            for process in self.processes:
                selector.register(process.channel, selectors.EVENT_READ, process)
            while selector.get_map():
                for key, _ in selector.select(_HEED_S):
                    if not self._hear(key.data):
                        selector.unregister(key.fileobj)
                if self.interrupted and deadline is None:
                    deadline = time.monotonic() + _STOP_TIMEOUT_S
                    for process in self.processes:
                        process.tell(messages.Stop("interrupted", at_once=True))
                if deadline is not None and time.monotonic() > deadline:
                    for key in list(selector.get_map().values()):
                        self._lost(key.data)
                    return

    def _hear(self, process: SenderProcess) -> bool:
        """Take one word; False where it was the last."""
        try:
            word = process.hear()
        except Closed:
            self._lost(process)
            return False
        if isinstance(word, messages.Records):
            self.records += self._with_slots(process, word.records)
            self._ask_to_stop()
        elif isinstance(word, messages.More):
            process.feed(self.bodies, FEW)
        elif isinstance(word, messages.Ended):
            self.parts[process.number] = word
            return False
        return True

    def _ask_to_stop(self) -> None:
        if self.stop is None or self.stopped is not None or self.parts:
            return
        self.stopped = self.stop(self.records)
        if self.stopped is not None:
            for process in self.processes:
                process.tell(messages.Stop(self.stopped, at_once=False))

    def _with_slots(
        self, process: SenderProcess, records: Sequence[RequestRecord]
    ) -> Iterator[RequestRecord]:
        """Records whose slots count through all processes."""
        first = sum(p.slots for p in self.processes if p.number < process.number)
        for record in records:
            record.slot += first
            yield record

    def _lost(self, process: SenderProcess) -> None:
        """A sender died: its requests of an open loop that were due become errors."""
        why = process.end()
        self.faults.append(why)
        now = time.monotonic_ns()
        known = {record.id for record in self.records}
        for one in process.dealt:
            if one.due_ns is None or one.id in known or self.start_ns + one.due_ns > now:
                continue
            job = Job(one, b"")
            job.due_ns = self.start_ns + one.due_ns
            record = never_sent(job, "error", why, now, process.number)
            record.error = f"not known, for {why}"
            self.records.append(record)


def client_seen(parts: Sequence[messages.Ended], cpus: Sequence[int]) -> ClientSeen:
    """What processes on `cpus` saw of themselves, as one; those that died have no part."""
    reads = sum(part.reads for part in parts)
    unstamped = sum(part.unstamped for part in parts)
    steps = sum(part.steps for part in parts)
    tokens = sum(part.token_events for part in parts)
    shares = [part.cpu_s * 1e9 / max(1, part.end_ns - part.start_ns) for part in parts]
    read_lags, loop_lags = Lags(), Lags()
    read_lags.merge(part.read_lags for part in parts)
    loop_lags.merge(part.loop_lags for part in parts)
    reasons = [] if reads else ["nothing was read"]
    if unstamped:
        reasons.append(f"{unstamped} of {reads} reads had no kernel stamp")
    if steps:
        reasons.append(f"the wall clock was set {steps} times")
    return ClientSeen(
        processes=len(cpus),
        cpus=list(cpus),
        stamps="kernel" if reads and unstamped <= _UNSTAMPED_SHARE * reads else "user",
        stamps_reason=", ".join(reasons) or None,
        reads=reads,
        events=sum(part.events for part in parts),
        wire_bytes=sum(part.wire_bytes for part in parts),
        seconds=max(((part.end_ns - part.start_ns) / 1e9 for part in parts), default=0.0),
        cpu_share=max(shares, default=None),
        read_lag_s=read_lags.summary(),
        loop_lag_s=loop_lags.summary(),
        merged_share=sum(part.merged for part in parts) / tokens if tokens else None,
    )
