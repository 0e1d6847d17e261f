"""Offered load as it is asked for, and what client and server saw of it.

Instants are integer nanoseconds on CLOCK_MONOTONIC; offsets count from the start of a trial's load.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

# Nanoseconds whose differences fit into 64 bits, as NumPy counts.
Instant = Annotated[int, Meta(ge=-(2**62), lt=2**62)]
# Tokens of one request: a million of them add up to 64 bits at most.
Count = Annotated[int, Meta(ge=0, lt=2**40)]
Endpoint = Literal["completions", "chat", "responses"]


class Arrivals(Struct, kw_only=True, frozen=True):
    """When requests of an open loop are due. `rate` is in requests per second.

    `burstiness` is the shape of the gamma distribution of gaps: 1 is Poisson, below 1 burstier.
    A ramp goes evenly from `rate` to `rate_end`. A trace has its own instants; `time_scale` 2
    plays it at half its speed.
    """

    process: Literal["constant", "poisson", "gamma", "ramp", "trace"]
    rate: float | None = None
    burstiness: float = 1.0
    rate_end: float | None = None
    trace: str | None = None
    time_scale: float = 1.0


class Lengths(Struct, kw_only=True, frozen=True):
    """Tokens of each request. `mean` is the value where fixed, the median where lognormal.

    `sd` is in tokens, for lognormal of the logarithm. Values are held within `low` and `high`.
    `file` names a JSONL of prompts; a trace's lengths come with its arrivals.
    """

    kind: Literal["fixed", "uniform", "normal", "lognormal", "trace", "prompts"]
    mean: float = 0.0
    sd: float = 0.0
    low: int = 1
    high: int | None = None
    file: str | None = None


class Sharing(Struct, kw_only=True, frozen=True):
    """Which part of a prompt others share. By default every prompt begins differently.

    `prefix_share` of the input tokens is common to all requests of one of `groups`. A
    conversation has `turns` requests, each after `think_s` and with all that was said before.
    """

    prefix_share: float = 0.0
    groups: int = 1
    turns: int = 1
    think_s: float = 0.0


class SloBound(Struct, kw_only=True, frozen=True):
    """`metric` (ttft, ttfot, tpot, itl, latency) of at least `share` of requests in `seconds`."""

    metric: str
    share: float
    seconds: float


class Slo(Struct, kw_only=True, frozen=True):
    """A promise: a request keeps it within every bound; `target` is the share that must."""

    name: str
    bounds: tuple[SloBound, ...]
    target: float


class ServingLoad(Struct, kw_only=True, frozen=True):
    """What a serving load has beyond kind, mean lengths and request count.

    Closed loops have a `concurrency`, open ones `arrivals`; both together cap an open loop, which
    may then offer less than intended. A trial ends by count, or where `duration_s` is set by time.
    """

    concurrency: int | None = None
    arrivals: Arrivals | None = None
    duration_s: float | None = None
    input: Lengths | None = None
    output: Lengths | None = None
    sharing: Sharing = Sharing()
    slo: Slo | None = None


class ServeSetting(Struct, kw_only=True, frozen=True):
    """How our own server runs an engine: `slots` sequences at once, each of up to `context` tokens.

    `chunk` prompt tokens at most go into one step; `kv_tokens` bounds what all sequences hold
    together.
    """

    slots: int
    context: int
    chunk: int
    kv_tokens: int


class Target(Struct, kw_only=True):
    """The endpoint under load, and all that is sent beside prompts; never a key.

    `headers` are the names only of headers that were added. `client_host` says that the client
    ran on another machine than the server.
    """

    url: str
    endpoint: Endpoint
    model: str
    body: str = "{}"  # extra members of each request's body, JSON
    headers: list[str] = field(default_factory=list)
    prompts: Literal["ids", "text"] = "text"
    sampling: dict[str, float | int | bool] = field(default_factory=dict)
    server: str | None = None  # as it names itself
    client_host: str | None = None
    local: bool = True  # whether it listens on this machine
    recipe: str | None = None  # configs/servers/<recipe>.toml, where armbench started it


class Planned(Struct, kw_only=True):
    """One request of a schedule. `due_ns` is an offset; None: when a slot of a closed loop is free.

    `prefix` names the shared beginning, `prefix_tokens` its length. Requests of one
    `conversation` follow one another as `turn` 0, 1, …; later turns are due when the one before
    ended, after the think time, and their `input_tokens` count all that was said before. `prompt`
    or `messages` are given; otherwise the prompt is made from `seed`, and where `blocks` are given
    from these: equal ids stand for equal text of `traces.BLOCK_TOKENS` tokens.
    """

    id: int
    due_ns: int | None
    input_tokens: int | None  # None where a given prompt's length is not known
    output_tokens: int
    seed: int
    prefix: int | None = None
    prefix_tokens: int = 0
    conversation: int | None = None
    turn: int = 0
    think_ns: int = 0
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    blocks: list[int] = field(default_factory=list)


class HttpSeen(Struct, kw_only=True, omit_defaults=True, gc=False):  # it can be in no cycle
    """One request as it went over the wire.

    `chunk_ns` has the instant of each event that carried tokens, `chunk_tokens` how many; where
    each carried one, `chunk_ns` is None, for those are the instants of the tokens.
    `tokens_by` says how those were counted: the server's running usage, token ids in the events,
    the usage at the end spread over the events, or one token for each event. `reasoning_chunks`
    counts the leading chunks before visible text. `usage_*` are the server's own counts.
    `headers_ns` is when the first byte of the answer came, `done_ns` when the answer was complete.
    """

    status: int | None = None
    sender: int = 0
    connection: int = 0  # of its sender; a new one was opened where `connect_s` is set
    connect_s: float | None = None
    tls_s: float | None = None
    headers_ns: Instant | None = None
    done_ns: Instant | None = None
    chunk_ns: list[Instant] | None = field(default_factory=list)
    chunk_tokens: list[int] = field(default_factory=list)
    tokens_by: Literal["running usage", "ids", "usage", "chunks"] | None = None
    reasoning_chunks: Count = 0
    usage_input: int | None = None
    usage_output: int | None = None
    usage_cached: int | None = None
    usage_reasoning: int | None = None
    finish_reason: str | None = None  # the server's word
    retry_after_s: float | None = None
    notes: list[str] = field(default_factory=list)  # such as a missing [DONE]


class ClientSeen(Struct, kw_only=True):
    """What the client saw of itself, over all its processes, in the window.

    `stamps` says whose clock gave arrival times: the kernel's at the socket, or this program's
    after the read. `read_lag_s` is from the kernel's stamp to the read, `loop_lag_s` by how much
    the loop woke late; both as p50, p99, max. `cpu_share` is of the busiest process.
    """

    processes: int
    cpus: list[int]
    stamps: Literal["kernel", "user"]
    stamps_reason: str | None = None
    reads: int = 0
    events: int = 0
    wire_bytes: int = 0
    seconds: float = 0.0
    cpu_share: float | None = None
    read_lag_s: tuple[float, float, float] | None = None
    loop_lag_s: tuple[float, float, float] | None = None
    merged_share: float | None = None  # events that shared a read with an earlier one
    ceiling_events_per_s: float | None = None  # of all processes, against a null server
    stolen_cpu_s: float | None = None  # CPU time it took on the engine's CPUs


class StepsSeen(Struct, kw_only=True):
    """The server's steps as columns of equal length, in the order in which they ended."""

    start_ns: list[Instant] = field(default_factory=list)
    end_ns: list[Instant] = field(default_factory=list)
    decoding: list[int] = field(default_factory=list)  # sequences that got one token each
    prefill_tokens: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    instance: list[int] = field(default_factory=list)  # of several engines; older logs lack it


class ServedRequest(Struct, kw_only=True, gc=False):  # it can be in no cycle
    """One request as our own server saw it; `key` is the client's X-Request-Id."""

    key: str
    queued_ns: Instant
    admitted_ns: Instant | None = None
    first_ns: Instant | None = None
    end_ns: Instant | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    finish: str | None = None
    instance: int = 0  # the engine that had it


class ServerSeen(Struct, kw_only=True):
    """The server's side of a trial; a foreign server has only what it publishes.

    `metrics` are the changes of its Prometheus counters over the window, and last gauge values.
    """

    steps: StepsSeen | None = None
    requests: list[ServedRequest] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str | None = None  # why nothing is known


class Probe(Struct, kw_only=True):
    """One rate that a capacity search tried: its case, and the attainment that came out.

    `low` and `high` are Wilson's 95 % bounds of the attainment; `verdict` holds, fails or stays
    open where the samples were too few to tell. A rate that was probed again counts all of its
    samples so far.
    """

    case: int
    rate: float
    sent: int
    attained: int
    low: float
    high: float
    verdict: Literal["holds", "fails", "open"]
    stopped_early: str | None = None


class Capacity(Struct, kw_only=True):
    """The highest offered rate that keeps `slo`: between `low` (held) and `high` (failed).

    `rate` is the answer, None where no rate held; `reason` says why a bound is missing.
    """

    slo: Slo
    rate: float | None
    low: float | None
    high: float | None
    probes: list[Probe] = field(default_factory=list)
    reason: str | None = None
