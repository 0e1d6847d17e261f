"""One trial of offered load against an endpoint: warm-up, lead, window, drain."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from msgspec import Struct, field, structs

from harness.errors import ArmbenchError
from harness.load import endpoint as endpoints
from harness.load import schedule, stored
from harness.load.bodies import Bodies, Calibration
from harness.load.driver import agree
from harness.load.endpoint import Endpoint, usage_input
from harness.load.senders import Senders
from harness.metrics.requests import NEVER_NS, Requests
from harness.records.load import Lengths, Planned, ServerSeen, ServingLoad, Target
from harness.records.run import LoadPoint, RequestRecord, Trial
from harness.units import NS_PER_S

# Requests before the window fill the server as it will be full inside it: for as long as two
# unloaded requests take, at least a second, at most a quarter of the window.
_LEAD_LATENCIES = 2.0
_LEAD_LEAST_S = 1.0
_LEAD_MOST = 0.25
_WARMUP_MOST = 6
_WARMUP_LIMIT_S = 120.0
_PROBE_IDS = 24
_LEAST_PROBES = 2  # a line needs two points
# Ids that every vocabulary has; Qwen's special tokens lie far above.
PLAIN_IDS = 4_000

Stop = Callable[[list[RequestRecord]], str | None]


class OfferOptions(Struct, kw_only=True):
    """How the client works. Times in seconds."""

    cpus: list[int]
    senders: int = 1
    timeout_s: float = 600.0
    drain_s: float = 60.0
    key: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    verify: bool | Path = True
    proxy: str | None = None
    schedule: Path | None = None
    ceiling_events_per_s: float | None = None
    engine_cpus: list[int] = field(default_factory=list)
    vocabulary: int = PLAIN_IDS


class View(Protocol):
    """The server's own account of a window."""

    def begin(self) -> None:
        """Right before the window."""

    def end(self) -> ServerSeen:
        """After the drain."""


class Lead(Struct, frozen=True):
    """A schedule or a stream of one, and how it is cut.

    Where the load ends by time, requests count that are due from `start_ns` to `end_ns`, offsets of
    the window. Else those count from id `first` on, up to `behind` where more follow; of a `closed`
    loop that ends so, the window is as long as it took for as many to end.
    """

    planned: Sequence[Planned] | Iterator[Planned]
    first: int
    start_ns: int | None = None
    end_ns: int | None = None
    behind: int | None = None
    closed: bool = False

    def has(self, record: RequestRecord) -> bool:
        """Whether `record` counts, of a load that ends by count."""
        return self.first <= record.id and (self.behind is None or record.id < self.behind)


class Offer:
    """Offers load points to one endpoint. A context manager: it owns client processes."""

    def __init__(
        self, target: Target, endpoint: Endpoint, options: OfferOptions, view: View
    ) -> None:
        self.target, self.endpoint, self.options, self.view = target, endpoint, options, view
        self.calibration: Calibration | None = None
        self.latency_s = 0.0  # of an unloaded request, from the last warm-up
        self.senders = Senders(
            target,
            key=options.key,
            headers=options.headers,
            cpus=options.cpus,
            processes=options.senders,
            timeout_s=options.timeout_s,
            verify=options.verify,
            proxy=options.proxy,
        )

    def __enter__(self) -> Offer:
        self.senders.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.senders.__exit__(*error)

    def discover(self, prompts: str) -> None:
        """Settle how prompts are sent (`prompts`: ids, text or auto), and what words cost there.

        Raises ArmbenchError where the endpoint refuses a plain request.
        """
        if prompts != "text" and self.target.endpoint == "completions" and self._takes_ids():
            self.target.prompts = "ids"
            return
        if prompts == "ids":
            raise ArmbenchError(
                f"{self.target.url} does not take prompts as token ids on {self.target.endpoint}",
                hint="use --prompts text",
            )
        self.target.prompts = "text"
        self.calibration = self._calibrate()

    def _path(self) -> str:
        return endpoints.path_of(self.endpoint.address, self.target.endpoint)

    def _takes_ids(self) -> bool:
        """Whether a prompt of token ids counts as many input tokens as it has ids."""
        bodies = Bodies(
            structs.replace(self.target, prompts="ids"), vocabulary=self.options.vocabulary
        )
        probe = Planned(id=0, due_ns=None, input_tokens=_PROBE_IDS, output_tokens=1, seed=1)
        try:
            answer = self.endpoint.json("POST", self._path(), _unstreamed(bodies.body(probe)))
        except ArmbenchError as error:
            if "does not answer" in error.message:
                raise
            return False
        return usage_input(answer) == _PROBE_IDS

    def _calibrate(self) -> Calibration:
        """What words cost, from the server's own counts; one token a word where it gives none.

        A server with a short context may refuse the longer probes.
        """
        known: list[tuple[int, int]] = []
        for words, body in Bodies(self.target).calibration_bodies():
            try:
                answer = self.endpoint.json("POST", self._path(), _unstreamed(body))
            except ArmbenchError:
                if not known:
                    raise
                break
            counted = usage_input(answer)
            if counted is None:
                return Calibration()
            known.append((words, counted))
        if len(known) < _LEAST_PROBES:
            return Calibration()
        return Calibration.fit([n for n, _ in known], [c for _, c in known])

    def bodies(self) -> Bodies:
        """Makes the bodies of this target's requests."""
        vocabulary = self.options.vocabulary if self.target.prompts == "ids" else None
        return Bodies(
            self.target, calibration=self.calibration, vocabulary=vocabulary, running_usage=True
        )

    def warm_up(self, load: LoadPoint, *, seed: int) -> tuple[list[RequestRecord], bool]:
        """Requests of `load`'s lengths one after the other, until two neighbours agree.

        (records, became stable). Raises ArmbenchError where the first one fails.
        """
        alone = structs.replace(load, kind="closed", requests=_WARMUP_MOST)
        assert alone.serving is not None
        serving = structs.replace(alone.serving, duration_s=None, concurrency=1, arrivals=None)
        alone = structs.replace(alone, serving=_untraced(serving, load))
        records: list[RequestRecord] = []
        seen: list[tuple[float, float]] = []
        for planned in schedule.make(alone, seed=seed, repeat=-1):
            if planned.turn:
                continue
            ran = self.senders.run(
                [planned], self.bodies(), concurrency=1, drain_s=self.options.timeout_s
            )
            if ran.interrupted:
                raise KeyboardInterrupt
            record = ran.records[0]
            records.append(record)
            if record.error is not None or not record.token_ns:
                raise ArmbenchError(
                    f"{self.target.url} failed an unloaded request: {record.error or 'no token'}",
                    hint="try the same with curl; see --endpoint, --model, --body",
                )
            ttft = (record.token_ns[0] - record.sent_ns) / NS_PER_S
            self.latency_s = (record.token_ns[-1] - record.sent_ns) / NS_PER_S
            seen.append((ttft, (self.latency_s - ttft) / max(1, len(record.token_ns) - 1)))
            if len(seen) > 1 and all(map(agree, seen[-1], seen[-2])):
                return records, True
            if (records[-1].token_ns[-1] - records[0].due_ns) / NS_PER_S > _WARMUP_LIMIT_S:
                break
        return records, False

    def lead(self, load: LoadPoint, *, seed: int, repeat: int) -> Lead:
        """The schedule of one trial with what comes before its window."""
        serving = load.serving
        assert serving is not None
        if self.options.schedule is not None:
            return Lead(stored.read(self.options.schedule), 0, closed=load.kind == "closed")
        if serving.arrivals is not None and serving.arrivals.process in ("trace", "ramp"):
            return Lead(schedule.make(load, seed=seed, repeat=repeat), 0)
        seconds = max(_LEAD_LEAST_S, _LEAD_LATENCIES * self.latency_s)
        if serving.duration_s is not None:
            seconds = min(seconds, _LEAD_MOST * serving.duration_s)
            longer = structs.replace(serving, duration_s=serving.duration_s + seconds)
            longer_load = structs.replace(load, serving=longer)
            return _by_time(longer_load, seconds, seed=seed, repeat=repeat)
        if serving.arrivals is None:
            return _by_count(load, seed=seed, repeat=repeat)
        more = math.ceil(min(seconds * (serving.arrivals.rate or 0), _LEAD_MOST * load.requests))
        whole = structs.replace(load, requests=load.requests + more)
        return Lead(schedule.make(whole, seed=seed, repeat=repeat), more)

    def measure(
        self, trial: Trial, load: LoadPoint, *, seed: int, stop: Stop | None = None
    ) -> str | None:
        """The records, window, client and server of one trial, into `trial`.

        `stop` sees the finished requests that count now and then; a text from it ends the sending
        early, and is returned.
        """
        lead = self.lead(load, seed=seed, repeat=trial.repeat)
        serving = load.serving
        assert serving is not None

        def counted(records: list[RequestRecord]) -> str | None:
            return stop([r for r in records if lead.has(r)]) if stop else None

        self.view.begin()
        ran = self.senders.run(
            lead.planned,
            self.bodies(),
            concurrency=serving.concurrency,
            stop_after_s=lead.end_ns / NS_PER_S if lead.end_ns is not None else None,
            drain_s=self.options.drain_s,
            stop=counted if stop else None,
        )
        trial.server = self.view.end()
        trial.client = ran.client
        trial.client.ceiling_events_per_s = self.options.ceiling_events_per_s
        if set(self.options.cpus) & set(self.options.engine_cpus) and ran.client.cpu_share:
            trial.client.stolen_cpu_s = ran.client.cpu_share * ran.client.seconds
        cut(trial, ran.records, ran.start_ns, lead)
        if ran.interrupted:
            raise KeyboardInterrupt
        if ran.faults:
            raise ArmbenchError("; ".join(ran.faults), hint="repeat it")
        return ran.stopped


def _untraced(serving: ServingLoad, load: LoadPoint) -> ServingLoad:
    """`serving` with lengths of its own where they would come with a trace's arrivals."""
    into, out = serving.input, serving.output
    if into is not None and into.kind == "trace":
        into = Lengths(kind="fixed", mean=load.input_tokens)
    if out is not None and out.kind == "trace":
        out = Lengths(kind="fixed", mean=load.output_tokens)
    return structs.replace(serving, input=into, output=out)


def cut(trial: Trial, records: Sequence[RequestRecord], start_ns: int, lead: Lead) -> None:
    """Records into what counts and what only filled the server; the window beside them."""
    if lead.start_ns is not None and lead.end_ns is not None:
        window = (start_ns + lead.start_ns, start_ns + lead.end_ns)
        counted = [r for r in records if window[0] <= r.due_ns < window[1]]
    else:
        counted = [r for r in records if lead.has(r)]
        closed = bool(counted) and lead.closed
        window = (
            _between_ends(records, lead.first, len(counted))
            if closed
            else _between_dues(counted, start_ns)
        )
    chosen = {r.id for r in counted}
    trial.records = list(counted)
    trial.warmup += [r for r in records if r.id not in chosen]
    trial.window_ns = window


def _between_dues(counted: Sequence[RequestRecord], start_ns: int) -> tuple[int, int]:
    """The window of an open load: a mean gap longer than from its first to its last due time."""
    dues = sorted(r.due_ns for r in counted)
    if not dues:
        return start_ns, start_ns
    return dues[0], dues[-1] + (dues[-1] - dues[0]) // max(1, len(dues) - 1)


def _between_ends(records: Sequence[RequestRecord], first: int, count: int) -> tuple[int, int]:
    """The window of a closed loop, in which `count` requests end after `first` before it.

    Its edges are ends, and the first is not inside: where slots go in lockstep, an edge anywhere
    else would take in one round more or less.
    """
    requests = Requests(records)
    ends = np.sort(np.maximum(requests.over_ns, requests.due_ns))
    ends = ends[ends < NEVER_NS]
    if len(ends) <= first:
        return 0, 0
    start = int(ends[first - 1] if first else requests.due_ns.min())
    return start + 1, int(ends[: first + count][-1]) + 1


def _by_count(load: LoadPoint, *, seed: int, repeat: int) -> Lead:
    """The schedule of a closed loop that ends by count: before and behind it one for each slot.

    So every slot is busy until as many have ended as count.
    """
    serving = load.serving
    assert serving is not None
    slots = serving.concurrency or 1
    lead = min(slots, load.requests)
    behind = lead + load.requests
    whole = structs.replace(load, requests=behind + slots * serving.sharing.turns)
    planned = schedule.make(whole, seed=seed, repeat=repeat)
    return Lead(planned, lead, behind=behind, closed=True)


def _by_time(load: LoadPoint, lead_s: float, *, seed: int, repeat: int) -> Lead:
    """The schedule of a load that ends by time.

    A closed loop draws requests until the end: how many it takes is not known before.
    """
    serving = load.serving
    assert serving is not None
    assert serving.duration_s is not None
    start, end = round(lead_s * NS_PER_S), round(serving.duration_s * NS_PER_S)
    if load.kind == "open" or load.requests:
        return Lead(schedule.make(load, seed=seed, repeat=repeat), 0, start, end)
    return Lead(schedule.stream(load, seed=seed, repeat=repeat), 0, start, end)


def _unstreamed(body: bytes) -> bytes:
    import msgspec

    members: dict[str, object] = msgspec.json.decode(body)
    members["stream"] = False
    members.pop("stream_options", None)
    return msgspec.json.encode(members)
