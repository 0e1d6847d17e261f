"""One trial of a batched load on several instances: they begin at one instant and end together.

Each instance has requests of its own. One that has done its share goes on with more until the last
one has done its own, so that all of them are busy as long as anyone is; what is under way then is
cut off. Figures are taken over the time in which all of them worked: see `overlap`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from harness import wire
from harness.crew import Crew
from harness.engine_process import EngineProcess
from harness.load import driver
from harness.load.prompts import prompts
from harness.records.run import LoadPoint, RequestRecord
from harness.units import NS_PER_S

# Threads are there, and asleep, this long before the common start.
_HEAD_START_NS = 50_000_000


class _Shift:
    """Which instances still have a share to do, and which only keep busy until all have."""

    def __init__(self, processes: Sequence[EngineProcess]) -> None:
        self.processes = processes
        self.lock = threading.Lock()
        self.left = len(processes)
        self.waiting: set[int] = set()

    def done(self) -> None:
        """One more has done its share; the last one ends what keeps the others busy."""
        with self.lock:
            self.left -= 1
            if self.left == 0:
                for number in self.waiting:
                    self.processes[number].tell(wire.Stop())

    def tell(self, number: int, request: wire.Generate) -> bool:
        """Send `request` to an instance that has done its share; False where all have."""
        with self.lock:  # so that the end is never told before what it shall end
            if self.left == 0:
                return False
            self.processes[number].tell(request)
            self.waiting.add(number)
            return True


def run_together(
    crew: Crew,
    load: LoadPoint,
    *,
    seed: int,
    repeat: int,
    vocabulary: int,
    timeout_s: float | None,
) -> list[RequestRecord]:
    """The requests of one trial, those of all instances; a single one is driven plainly.

    Raises EngineFailed where one of them fails.
    """
    if len(crew.processes) == 1:
        return driver.run_load(
            crew.processes[0],
            load,
            seed=seed,
            repeat=repeat,
            vocabulary=vocabulary,
            timeout_s=timeout_s,
        )
    count = len(crew.processes)

    def of(instance: int, surplus: int = 0) -> list[list[list[int]]]:
        return prompts(
            load,
            seed=seed,
            repeat=repeat,
            vocabulary=vocabulary,
            instance=instance,
            surplus=surplus,
        )

    shares = [(of(n), of(n, 1)) for n in range(count)]  # made before the clock runs
    shift = _Shift(crew.processes)
    start = time.monotonic_ns() + _HEAD_START_NS

    def work(number: int, process: EngineProcess) -> list[RequestRecord]:
        share, more = shares[number]
        rows = load.requests * load.batch
        records: list[RequestRecord] = []
        _sleep_until(start)
        for batch in share:
            due = start if not records else None
            records += driver.send(
                process,
                batch,
                load.output_tokens,
                first_id=number * rows + len(records),
                timeout_s=timeout_s,
                due_ns=due,
                instance=number,
            )
        shift.done()
        surplus = 0
        while True:
            if surplus and surplus % load.requests == 0:
                more = of(number, 1 + surplus // load.requests)
            batch = more[surplus % load.requests]
            due = time.monotonic_ns()
            request = wire.Generate(batch, load.output_tokens, may_be_cut=True)
            sent = time.monotonic_ns()
            if not shift.tell(number, request):
                return records
            made = process.hear("generate", wire.Generated, timeout_s)
            first = count * rows + (surplus * count + number) * load.batch
            found = driver.records(
                made, batch, due_ns=due, sent_ns=sent, first_id=first, instance=number
            )
            records += [_beyond(record, load) for record in found]
            surplus += 1

    return [record for records in crew.each(work) for record in records]


def _beyond(record: RequestRecord, load: LoadPoint) -> RequestRecord:
    """A request beyond the share: cut off where it lacks tokens, and compared with no other."""
    record.output_sha256 = None
    if len(record.token_ns) < load.output_tokens:
        record.finish = "cancelled"
    return record


def _sleep_until(instant_ns: int) -> None:
    time.sleep(max(0, instant_ns - time.monotonic_ns()) / NS_PER_S)
