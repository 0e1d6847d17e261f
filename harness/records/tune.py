"""A search for the best way to serve a model here: what was asked, tried, left out, and found."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from harness.records.load import Slo

Objective = Literal["throughput", "latency", "cost"]
TunedLoad = Literal["single_stream", "offline", "closed"]
Basis = Literal["trials", "probes"]
Why = Literal[
    "missing",  # packages
    "option",  # what this machine can't give
    "placement",  # threads and instances that do not fit this machine
    "memory",
    "conversion",
    "quality",  # outside the bounds of configs/quality.toml
    "bound",  # ceilings and footprint say that it can't win
    "slo",
    "slower",
    "failed",
    "disturbed",  # too many trials that must not be believed
    "budget",  # nobody knows: the time was spent on others
]


class Candidate(Struct, kw_only=True, frozen=True):
    """One point of the space; its index in `Tune.candidates` is the id of its case.

    `batch` sequences at once for each of `instances` processes of `threads` threads. `chunk` is our
    server's, None where no server is in it.
    """

    engine: str
    dtype: str
    threads: int
    instances: int = 1
    batch: int = 1
    chunk: int | None = None
    options: dict[str, Any] = field(default_factory=dict)  # those that are not the defaults

    @property
    def family(self) -> str:
        """Engine and dtype: `torch int8`."""
        return f"{self.engine} {self.dtype}"

    @property
    def label(self) -> str:
        """A short name for people: `torch int8 2×4T ×16 spinning=False`."""
        times = f"{self.instances}×" if self.instances > 1 else ""
        parts = [self.family, f"{times}{self.threads}T", f"×{self.batch}"]
        parts += [] if self.chunk is None else [f"chunk {self.chunk}"]
        return " ".join(parts + [f"{k}={v}" for k, v in sorted(self.options.items())])


class Asked(Struct, kw_only=True):
    """What the search was told. `lengths` are input and output tokens of each request.

    `budget_s` is the time for probes and trials; None is no limit. An exhaustive search measures
    every candidate `repeats` times and leaves none out for its speed.
    """

    model: str
    objective: Objective
    load: TunedLoad
    lengths: tuple[int, int]
    seed: int
    placement: str = "compact"
    budget_s: float | None = None
    slo: Slo | None = None
    requests: int | None = None
    exhaustive: bool = False
    repeats: int = 3


class Probe(Struct, kw_only=True):
    """A short timing of one candidate: seconds for its batch's prompts, and for a decode step.

    Both are brought to the asked lengths: prompts were `input_tokens` long. `rung` counts the
    probes of one candidate from 0; each is in a process of its own.
    """

    candidate: int
    rung: int
    prefill_s: float
    step_s: float
    load_s: float
    input_tokens: int


class Left(Struct, kw_only=True):
    """Candidates that are no longer looked at, with the reason in plain words."""

    candidates: list[int]
    why: Why
    reason: str


class Standing(Struct, kw_only=True):
    """What is known of one candidate: its score (more is better), with the 95 % interval.

    The figures are means over trials, or what probes let expect: then `basis` says so. `slo` says
    what was judged, and `kept` how it ended.
    """

    candidate: int
    basis: Basis
    score: float
    low: float
    high: float
    n: int
    output_tok_per_s: float | None = None
    tpot_s: float | None = None
    ttft_s: float | None = None
    kept: bool | None = None
    slo: str | None = None


class Step(Struct, kw_only=True):
    """What one step in one knob away from the winner does to the score.

    `ratio` is the score there ÷ the winner's, with its 95 % interval; None where it is not known.
    """

    knob: str
    here: str
    there: str
    candidate: int
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    basis: Basis | None = None
    reason: str | None = None


class Answer(Struct, kw_only=True):
    """What was found. `tied` are those that the trials can't tell from the winner.

    `open` are those of them that may be better by more than the margin that counts as a tie.
    `unmeasured` looked better in probes, but were disturbed whenever they were tried. `unchecked`
    is why the winner was not held against a reference; None where it was, or computes nothing.
    `front` are the ids on the Pareto front of time per output token against throughput.
    """

    winner: int | None
    tied: list[int] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    unmeasured: list[int] = field(default_factory=list)
    unchecked: str | None = None
    standings: list[Standing] = field(default_factory=list)  # the best first
    front: list[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    serve: str | None = None  # the command
    serve_reason: str | None = None  # why there is none
    plan: str | None = None  # TOML, as `armbench run` takes it


class Tune(Struct, kw_only=True):
    """One search. Its trials are those of the result that holds it; `lengths` are theirs.

    `limits` are the best scores that ceilings and footprint allow, by candidate. `setup_s` is what
    conversions, quality checks and ceilings took: it is no part of the budget. `fitted` says that
    the lengths were held against the budget, `stopped` why the search ended; None while it goes on.
    """

    asked: Asked
    candidates: list[Candidate]
    lengths: tuple[int, int]
    limits: list[float | None] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    fitted: bool = False
    mark: int = 0  # candidates that were barred when it was last looked whom that brings back
    setup_s: float = 0.0
    spent_s: float = 0.0
    stopped: str | None = None
    answer: Answer | None = None
