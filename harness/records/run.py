"""A run as it is stored: what was asked, what happened, nothing that can be derived.

Instants are integer nanoseconds on CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from harness.records.ceilings import Calibration, Ceilings
from harness.records.load import (
    Capacity,
    ClientSeen,
    Count,
    HttpSeen,
    Instant,
    ServerSeen,
    ServeSetting,
    ServingLoad,
    Target,
)
from harness.records.machine import Conditions, Finding, Machine
from harness.records.model import Dimensions
from harness.records.money import Price
from harness.records.tune import Tune

SCHEMA = 1

LoadKind = Literal["single_stream", "offline", "closed", "open"]


class LoadPoint(Struct, kw_only=True, frozen=True):
    """One intended load. `batch` is 1 for a single stream; `requests` counts those of one trial.

    Closed and open loops go over HTTP: `serving` says the rest, the lengths are means, and
    `requests` is 0 where the trial ends by time.
    """

    kind: LoadKind
    batch: int
    input_tokens: int
    output_tokens: int
    requests: int
    serving: ServingLoad | None = None


class Variant(Struct, kw_only=True):
    """An engine as one case wants it: `instances` processes of `threads` compute threads each.

    Where the engine is an endpoint or another tool's, dtype and threads are None if nobody told.
    """

    engine: str
    dtype: str | None
    threads: int | None
    options: dict[str, Any] = field(default_factory=dict)
    instances: int = 1

    @property
    def shape(self) -> str | None:
        """Threads for people: `2`, `4×2` where there are several instances; None if unknown."""
        times = f"{self.instances}×" if self.instances > 1 else ""
        return None if self.threads is None else f"{times}{self.threads}"

    @property
    def label(self) -> str:
        """A short name for people: `torch float32 2T`, `torch int8 4×2T`; unknowns are left out."""
        threads = None if self.threads is None else f"{self.shape}T"
        return " ".join(filter(None, (self.engine, self.dtype, threads)))


class Case(Struct, kw_only=True):
    """One row of the table: an engine under one load, behind our server where that is `serve`."""

    id: int
    variant: Variant
    load: LoadPoint
    serve: ServeSetting | None = None


class ModelIdentity(Struct, kw_only=True):
    """Which weights: names, and SHA-256 of the config and of every weight file.

    What another tool's file does not tell is None, and `files` is empty.
    """

    name: str
    weights: Literal["synthetic", "checkpoint"] | None
    family: str | None
    parameters: int | None
    config_sha256: str | None
    files: dict[str, str]
    revision: str | None = None
    sizes: Dimensions | None = None


class Places(Struct, kw_only=True):
    """The CPUs of each instance where `instances` have `threads` threads each, in order.

    `driver` are the driver's meanwhile; empty where they are the plan's.
    """

    threads: int
    instances: int
    cpus: list[list[int]]
    driver: list[int] = field(default_factory=list)


class Plan(Struct, kw_only=True):
    """Everything asked for, resolved; the defaults are written out.

    `cpus` are those that engine threads use in any case, in order. `places` says which of them
    each instance of a case has; results without it have one instance on the first of `cpus`.
    """

    name: str
    model: str
    cases: list[Case]
    repeats: int
    seed: int | None  # None where another tool did not tell it
    cpus: list[int]
    driver_cpus: list[int]
    time_budget_s: float | None
    trial_timeout_s: float | None
    order: list[tuple[int, int]] = field(default_factory=list)  # (case id, repeat), as run
    prompt_set_sha256: str | None = None
    notes: list[str] = field(default_factory=list)
    placement: str = "compact"  # as wished: compact, spread, numa, a CPU list, a file's name
    ceilings: bool = False  # whether they are taken; results without the key have none
    places: list[Places] = field(default_factory=list)
    unchecked: bool = False  # whether a variant counts whose quality could not be checked

    def places_of(self, variant: Variant) -> Places | None:
        """Where `variant` runs; None in results that do not say it."""
        shape = (variant.threads, variant.instances)
        return next((one for one in self.places if (one.threads, one.instances) == shape), None)

    def instance_cpus(self, variant: Variant) -> list[list[int]]:
        """The CPUs of each instance of `variant`, in the order of its threads."""
        places = self.places_of(variant)
        return [self.cpus[: variant.threads]] if places is None else places.cpus

    def driver_of(self, variant: Variant) -> list[int]:
        """The CPUs of the driver while `variant` runs."""
        places = self.places_of(variant)
        return self.driver_cpus if places is None or not places.driver else places.driver

    def cpus_of(self, variant: Variant) -> list[int]:
        """The CPUs that all instances of `variant` use together."""
        return [cpu for cpus in self.instance_cpus(variant) for cpu in cpus]


class Stored(Struct, kw_only=True, frozen=True):
    """How an engine keeps the model: names of `model.footprint`, and what it multiplies in.

    `body` is one of its FORMATS or SCHEMES, `head` one of its FORMATS; None follows `body`.
    `compute` is the type of ceiling that bounds its products: f32, bf16 or i8.
    """

    body: str
    compute: str
    kv_element_bytes: float
    head: str | None = None


class AgreementPart(Struct, kw_only=True):
    """The agreement over one sequence, which was one of `batch` that were passed together."""

    name: str
    batch: int
    positions: int
    top1: float
    kl_mean: float
    error: float
    perplexity: float | None = None
    reference_perplexity: float | None = None


class Agreement(Struct, kw_only=True):
    """How near an engine's logits are to a reference's, over `positions` next tokens.

    Teacher-forced, on shipped text (in older results on the reference's greedy tokens): `top1` is
    the share of positions with the same argmax, `kl` is KL(reference ‖ engine) in nats, `delta` is
    |Δlogit| over all tokens, `spread` the standard deviation of the reference's logits, to read
    `delta` by. `error` is the standard deviation of Δlogit over that of the reference's logits, at
    each position, as root mean square; `int4_error` is that of the reference itself with its
    matrices plainly rounded to 4 bits: what is to be expected of 4 bits on these weights. `stretch`
    is the standard deviation of the engine's logits over that of the reference's, as mean.
    Perplexities are of the text's own tokens;
    `perplexity_reason` says why they are None, `low` and `high` are the ratio's 95 % interval.
    Positions with a logit that is `not_finite` are in no figure.
    """

    reference: str
    positions: int
    top1: float
    kl_mean: float
    kl_max: float
    delta_mean: float
    delta_max: float
    spread: float
    error: float | None = None
    int4_error: float | None = None
    stretch: float | None = None
    perplexity: float | None = None
    reference_perplexity: float | None = None
    perplexity_ratio: float | None = None
    perplexity_ratio_low: float | None = None
    perplexity_ratio_high: float | None = None
    perplexity_reason: str | None = None
    parts: list[AgreementPart] = field(default_factory=list)
    not_finite: int = 0
    seconds: float | None = None


class Check(Struct, kw_only=True):
    """Whether one variant computes the model: `ok` is None where it could not be checked."""

    variant: Variant
    ok: bool | None
    reason: str | None = None
    agreement: Agreement | None = None
    prepare_s: float | None = None  # conversion of the checkpoint; None where cached or none
    load_s: float | None = None
    stored: Stored | None = None


class KernelSeen(Struct, kw_only=True):
    """Calls of one library kernel in a traced pass. `reference` marks a slow stand-in."""

    name: str
    calls: int
    seconds: float | None = None
    types: str | None = None  # as the library writes them
    reference: bool = False


class KernelPath(Struct, kw_only=True):
    """Which library kernels really ran for one variant, in a pass of its own that is not timed.

    `facts` are what the library says of itself, such as the instruction sets it found. `reason`
    says why nothing was seen.
    """

    variant: Variant
    source: str | None = None  # oneDNN verbose, ONNX Runtime profile
    kernels: list[KernelSeen] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    reason: str | None = None


class RequestRecord(Struct, kw_only=True, omit_defaults=True, gc=False):  # it can be in no cycle
    """One request as instants. `token_ns` has one entry for each output token.

    `started_ns` is when the engine began on it, `slot` its row of the batch. Over HTTP, a chunk of
    several tokens gives its tokens evenly spread instants since the chunk before; `asked_output`
    and `asked_input` are what was planned, where the server's own count may differ; `sent_ns` is 0
    of a request that never left the client.
    """

    id: int
    slot: int
    due_ns: Instant
    sent_ns: Instant
    input_tokens: Count
    started_ns: Instant | None = None
    token_ns: list[Instant] = field(default_factory=list)
    finish: Literal["length", "stop", "error", "cancelled", "unfinished"] = "length"
    output_sha256: str | None = None
    error: str | None = None
    asked_input: int | None = None
    asked_output: int | None = None
    http: HttpSeen | None = None
    instance: int = 0

    @property
    def chunk_ns(self) -> list[int]:
        """The instants of the events that carried its tokens; empty where they are not known."""
        if self.http is None:
            return []
        return self.token_ns if self.http.chunk_ns is None else self.http.chunk_ns


class ThreadSeen(Struct, kw_only=True):
    """One thread of the engine process as the kernel showed it while the trial ran."""

    name: str
    affinity: str
    cpu_s: float  # CPU time in the sampled part of the trial
    ran_on: list[int]  # CPUs it was seen on
    migrations: int | None = None
    tid: int | None = None
    involuntary_switches: int | None = None  # in the sampled part; each shows a competitor


class MemoryPolicy(Struct, kw_only=True):
    """Where the engine process takes its memory: `nodes` asked for, `policy` as read back.

    Without a policy `reason` says why; no nodes are asked for where there is nothing to choose.
    """

    nodes: list[int] = field(default_factory=list)
    policy: str | None = None  # bind:0-1
    reason: str | None = None


class NodePages(Struct, kw_only=True):
    """What a process has on one memory node: memory of its own, and mapped files."""

    node: int
    own_bytes: int = 0
    file_bytes: int = 0


class MemorySeen(Struct, kw_only=True):
    """Where the engine's pages lay after the window; `reason` where that is not known."""

    pages: list[NodePages] = field(default_factory=list)
    reason: str | None = None
    page_bytes: int | None = None
    thp: str | None = None  # always, madvise, never
    huge_bytes: int | None = None  # in transparent huge pages


class PoolThread(Struct, kw_only=True):
    """One thread as its runtime numbers it: the CPUs the kernel lets it run on."""

    cpus: str
    tid: int | None = None
    place: int | None = None


class RuntimeThreads(Struct, kw_only=True):
    """What the runtime inside the engine process says of its compute threads.

    `places` are the CPU lists of OpenMP's places, `pool` its threads in their own numbers;
    `affinities` are ONNX Runtime's, one CPU list for each thread but the first. `reason` says why
    the pool could not be asked.
    """

    runtime: str
    compute: int | None = None
    interop: int | None = None
    affinities: list[str] | None = None
    library: str | None = None  # the OpenMP library that is loaded
    places: list[str] = field(default_factory=list)
    pool: list[PoolThread] = field(default_factory=list)
    reason: str | None = None


class PlacementProof(Struct, kw_only=True):
    """Where every thread was allowed to run and did run. `compute` indexes `threads`."""

    asked: list[int]
    driver: list[int]
    samples: int
    threads: list[ThreadSeen]
    compute: list[int]
    faults: list[str] = field(default_factory=list)
    seconds: float | None = None  # how long it was watched
    policy: MemoryPolicy | None = None
    memory: MemorySeen | None = None
    runtime: RuntimeThreads | None = None


class Usage(Struct, kw_only=True):
    """What the engine process used between the end of warm-up and the end of the trial."""

    user_s: float
    system_s: float
    minor_faults: int
    major_faults: int
    voluntary_switches: int
    involuntary_switches: int
    peak_rss_bytes: int  # of the whole process life


class InstanceSeen(Struct, kw_only=True):
    """One engine process of several that worked together."""

    load_s: float | None = None
    usage: Usage | None = None
    placement: PlacementProof | None = None


class Trial(Struct, kw_only=True):
    """One case, once, in fresh processes.

    Where the case has several instances, each is told in `instances`, in their order: `placement`
    is None then, `usage` the sum, `load_s` the longest and `window_ns` the time in which all of
    them worked.

    What another tool measured may be known by its figures only: `figures` are values of metrics by
    name, in the metric's unit, mapped by definition. `samples` are repetitions inside the one
    process that such a figure sums up: they are no repeats. `unknown` says why a metric (without
    its percentile) can't be told from the records, though they would give a number. `extra` is
    what has no counterpart here.
    """

    case: int
    repeat: int
    order: int
    started_at: str  # UTC, ISO 8601
    state: Literal["ok", "failed"]
    reason: str | None = None
    stderr_tail: list[str] = field(default_factory=list)
    exit_code: int | None = None
    load_s: float | None = None
    warmup: list[RequestRecord] = field(default_factory=list)
    warmup_stable: bool | None = None
    records: list[RequestRecord] = field(default_factory=list)
    window_ns: tuple[Instant, Instant] | None = None
    usage: Usage | None = None
    placement: PlacementProof | None = None
    before: Conditions | None = None
    after: Conditions | None = None
    during: list[Conditions] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    engine_facts: dict[str, Any] = field(default_factory=dict)
    invalid: list[str] = field(default_factory=list)
    stopped_early: str | None = None  # why a probe of a capacity search was ended
    client: ClientSeen | None = None
    server: ServerSeen | None = None
    figures: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    instances: list[InstanceSeen] = field(default_factory=list)

    @property
    def proofs(self) -> list[PlacementProof | None]:
        """The placement proof of every engine process."""
        return [one.placement for one in self.instances] or [self.placement]


class Origin(Struct, kw_only=True, frozen=True):
    """Which other tool measured a result, and which files were read to import it.

    `files` gives the SHA-256 of each by name. A published result was measured by others, at
    `source`; an imported one was brought by the user.
    """

    tool: str
    format: str
    basis: Literal["imported", "published"]
    imported_at: str  # UTC, ISO 8601
    version: str | None = None
    source: str | None = None
    files: dict[str, str] = field(default_factory=dict)


class Estimate(Struct, kw_only=True):
    """A number fit to print, with its 95 % interval over `n` repeats (None below two)."""

    value: float
    low: float | None
    high: float | None
    n: int
    unit: str
    method: str
    median: float | None = None
    sd: float | None = None


class Binding(Struct, kw_only=True):
    """What holds a case back: `share` is how near its longer phase came to its bound."""

    word: Literal["bandwidth", "compute", "placement", "software"]
    phase: Literal["prefill", "decode"]
    share: float
    reason: str


class Result(Struct, kw_only=True):
    """One plan on one machine: one file."""

    schema: int
    armbench: str
    created: str
    plan: Plan
    model: ModelIdentity
    machine: Machine
    software: dict[str, str]
    finished: bool = False
    checks: list[Check] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    price: Price | None = None
    price_reason: str | None = None
    warnings: list[str] = field(default_factory=list)
    summary: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    summary_note: str = (
        "derived when written; armbench recomputes it from the trials (see `armbench explain`)"
    )
    ceilings: list[Ceilings] = field(default_factory=list)  # one for each number of threads
    calibrations: list[Calibration] = field(default_factory=list)
    paths: list[KernelPath] = field(default_factory=list)
    binding: dict[str, Binding] = field(default_factory=dict)  # derived, by case id
    target: Target | None = None  # where an endpoint was loaded rather than an engine of ours
    capacities: list[Capacity] = field(default_factory=list)
    origin: Origin | None = None  # None where armbench measured it
    extra: dict[str, Any] = field(default_factory=dict)  # of another tool, without a counterpart
    tune: Tune | None = None  # where the cases are those of a search

    @property
    def basis(self) -> str:
        """What the figures rest on: `measured here`, `imported` or `published`."""
        return self.origin.basis if self.origin else "measured here"

    @property
    def tool(self) -> str:
        """What measured it, with its version where that is told: `llama-bench 4753`."""
        if self.origin is None:
            return "armbench"
        return " ".join(filter(None, (self.origin.tool, self.origin.version)))
