"""The load client's own ceiling: how many token events per second one process takes on a CPU."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from types import TracebackType

from msgspec import Struct, field

from harness.errors import ArmbenchError
from harness.load.bodies import Said
from harness.load.senders import Senders
from harness.parent import child_command
from harness.records.load import ClientSeen, Planned, Target

# A client keeps up as long as all of these hold.
CPU_SHARE = 0.9
READ_LAG_S = 0.001  # p99 from the kernel's stamp to the read, where it has work for half the time
BUSY_SHARE = 0.5  # below, it waits for the CPU rather than for itself
MEDIAN_LAG_S = 0.010  # and never more than this at the median
MERGED_SHARE = 0.02
RATE_KEPT = 0.95

STREAMS = 64
STAGE_S = 0.25
_FIRST_RATE = 8000.0
_FACTOR = 1.5
_LEAST_RATE = 500.0
_MOST_RATE = 1e6
_REFINEMENTS = 2
_TRIES = 2  # a pause of the whole machine fails a stage once


class Stage(Struct, frozen=True, kw_only=True):
    """One rate that was tried. `fault` says why the client did not keep up, or the server."""

    events_per_s: float
    events: int
    client: ClientSeen
    fault: str | None
    server_limited: bool = False


class ClientCeiling(Struct, frozen=True, kw_only=True):
    """The highest rate that one client process kept up with, and what stopped it beyond."""

    events_per_s: float
    reason: str
    cpu: int
    server_cpu: int
    stages: list[Stage] = field(default_factory=list)


def check_client(
    cpus: Sequence[int],
    *,
    say: Callable[[str], None] | None = None,
    stage_s: float = STAGE_S,
    most_events_per_s: float = _MOST_RATE,
) -> ClientCeiling:
    """The ceiling of one process on the first of `cpus`, against a null server beside it.

    Rates rise by half until the client does not keep up, then the last step is halved twice: some
    4 s in all. `say` hears each rate. The server gets a CPU that is not the client's if this
    process may use one; else the ceiling is that of both together. `reason` says so, and where
    others seem to use the client's CPU.
    """
    cpu = cpus[0]
    others = sorted(os.sched_getaffinity(0) - {cpu}, key=lambda c: (c in cpus, c))
    server_cpu = others[0] if others else cpu
    stages: list[Stage] = []
    with _Server(server_cpu) as server:
        target = Target(url=server.url, endpoint="completions", model="null")
        with Senders(target, cpus=[cpu]) as senders:

            def keeps_up(rate: float) -> bool:
                for _ in range(_TRIES):
                    if say is not None:
                        say(f"{rate:.0f} events/s")
                    stages.append(_stage(senders, server, rate, stage_s))
                    if stages[-1].fault is None or stages[-1].server_limited:
                        break
                return stages[-1].fault is None

            held = _climb(keeps_up, most_events_per_s)
    return ClientCeiling(
        events_per_s=held,
        reason=_reason(stages, held) + _beside(stages, held, cpu, server_cpu),
        cpu=cpu,
        server_cpu=server_cpu,
        stages=stages,
    )


def _climb(keeps_up: Callable[[float], bool], most: float) -> float:
    """The highest rate that was kept up with; the least one tried where none was."""
    low, high = 0.0, min(_FIRST_RATE, most)
    while keeps_up(high):
        low = high
        if high >= most:
            return low
        high = min(high * _FACTOR, most)
    while not low:
        if high <= _LEAST_RATE:
            return high
        high /= 2
        if keeps_up(high):
            low, high = high, 2 * high
    for _ in range(_REFINEMENTS):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps_up(middle) else (low, middle)
    return low


class _Paced:
    """Requests for streams that begin one after the other, and bodies that say how to stream."""

    def __init__(self, rate: float, seconds: float) -> None:
        self.gap_ns = round(STREAMS / rate * 1e9)
        self.events = max(2, round(rate * seconds / STREAMS))

    def planned(self) -> list[Planned]:
        return [
            Planned(
                id=n,
                due_ns=self.gap_ns * n // STREAMS,
                input_tokens=1,
                output_tokens=self.events,
                seed=n,
            )
            for n in range(STREAMS)
        ]

    def body(self, planned: Planned, said: Sequence[Said] = ()) -> bytes:
        return json.dumps({"events": self.events, "gap_ns": self.gap_ns}).encode()


def _stage(senders: Senders, server: _Server, rate: float, seconds: float) -> Stage:
    paced = _Paced(rate, seconds)
    server.kept()
    ran = senders.run(paced.planned(), paced, connections=STREAMS, drain_s=30)
    sent, late_s = server.kept()
    fault = _fault(ran.client, sent, rate)
    late = late_s > max(0.1 * seconds, 0.02)
    if late and (fault is None or "of the events" in fault):
        fault = f"the null server sends no faster (it was {late_s * 1e3:.0f} ms late)"
    failed = [record.error for record in ran.records if record.error is not None]
    if failed:
        raise ArmbenchError(f"the client's self-check failed: {failed[0]}")
    return Stage(
        events_per_s=rate,
        events=sent,
        client=ran.client,
        fault=fault,
        server_limited=late,
    )


def _fault(client: ClientSeen, sent: int, rate: float) -> str | None:
    """Why the client did not keep up; None where it did."""
    middle, lag, _ = client.read_lag_s or (0.0, 0.0, 0.0)
    share, merged = client.cpu_share or 0.0, client.merged_share or 0.0
    kept = sent / max(client.seconds, 1e-9) / rate  # a stage is as long as its longest stream
    if share > CPU_SHARE:
        return f"its CPU share was {share:.2f}, of {CPU_SHARE} at most"
    if lag > READ_LAG_S and share > BUSY_SHARE:
        return f"p99 of its read lag was {lag * 1e3:.2f} ms, of {READ_LAG_S * 1e3:.0f} at most"
    if middle > MEDIAN_LAG_S:
        return f"its read lag was {middle * 1e3:.1f} ms, of {MEDIAN_LAG_S * 1e3:.0f} at most"
    if merged > MERGED_SHARE:
        return f"{merged:.1%} of the events had one stamp with another, of {MERGED_SHARE:.0%}"
    if kept < RATE_KEPT:
        return f"{kept:.0%} of the events came in time"
    return None


def _reason(stages: Sequence[Stage], held: float) -> str:
    beyond = [s for s in stages if s.fault is not None and s.events_per_s >= held]
    events = max((s.events for s in stages if s.events_per_s == held), default=0)
    if not beyond:
        return f"it kept up at every rate tried, n = {events} events at the highest"
    first = min(beyond, key=lambda stage: stage.events_per_s)
    even = "even " if first.events_per_s <= held else ""
    return f"{even}at {first.events_per_s:.0f}/s {first.fault}; n = {events} events at the ceiling"


def _beside(stages: Sequence[Stage], held: float, cpu: int, server_cpu: int) -> str:
    """What else is to be known of a ceiling."""
    lags = [
        s.client.read_lag_s[1] for s in stages if s.events_per_s <= held and s.client.read_lag_s
    ]
    words = ", on one CPU with the null server" if server_cpu == cpu else ""
    if lags and min(lags) > READ_LAG_S:
        words += f", and something else runs on CPU {cpu}: reads were {min(lags) * 1e3:.1f} ms late"
    return words


class _Server:
    """The null server's process."""

    def __init__(self, cpu: int) -> None:
        self.channel, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                child_command("harness.load.null_server", str(theirs.fileno()), str(cpu)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.channel.settimeout(30)
        self._file = self.channel.makefile("rb")
        port = self._file.readline()
        if not port:
            self.close()
            raise ArmbenchError("the null server of the client's self-check did not start")
        self.url = f"http://127.0.0.1:{int(port)}"

    def kept(self) -> tuple[int, float]:
        """(events sent, most that one was late in seconds) since the last time."""
        self.channel.send(b"?")
        said = json.loads(self._file.readline())
        return said["sent"], said["late_ns"] / 1e9

    def __enter__(self) -> _Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the server ends by that."""
        self._file.close()
        self.channel.close()
        self.process.wait()
