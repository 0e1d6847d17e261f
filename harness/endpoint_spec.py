"""What `armbench load` is asked: the endpoint, the loads, and what their schedules come to."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from harness.errors import ArmbenchError, unknown_name
from harness.load import endpoint as endpoints
from harness.load import keys, schedule, stored
from harness.load.endpoint import Endpoint
from harness.load.keys import LoadKeys
from harness.load.lengths import parse_lengths
from harness.load.slo import parse_slo
from harness.load.summary import Summary, summary
from harness.metrics import metric
from harness.records.load import Arrivals, Lengths, Planned, ServingLoad, Target
from harness.records.machine import Machine
from harness.records.run import LoadPoint, Variant
from harness.units import parse_cpu_list, parse_duration

_FIRST_ROWS = 200  # of a closed loop that ends by time, for its summary
_DEFAULT_CONCURRENCY = (1, 8)


class EndpointSpec(LoadKeys, kw_only=True, forbid_unknown_fields=True):
    """What `armbench load` is asked; texts as flags give them."""

    target: str | None = None
    load: Literal["closed", "open"] | None = None
    endpoint: Literal["completions", "chat", "responses"] = "completions"
    model: str | None = None
    prompts: Literal["auto", "ids", "text"] = "auto"
    body: str = "{}"
    key_variable: str = "OPENAI_API_KEY"
    ca_file: str | None = None
    proxy: str | None = None
    timeout: str = "10m"
    drain: str = "60s"
    senders: int | None = None
    client_cpus: str | None = None
    client_host: str | None = None
    metrics: str | None = None
    repeats: int = 1
    until: str | None = None
    seed: int = 1
    schedule: str | None = None
    budget: str = "30m"
    name: str = "load"
    instance: str | None = None
    price: str | None = None
    server: str | None = None
    binary: str | None = None
    threads: int | None = None
    placement: str = "compact"
    slots: int | None = None
    context: int = 4096
    headers: dict[str, str] = field(default_factory=dict)
    verify: bool = True
    ignore_eos: bool = True

    @property
    def searches(self) -> bool:
        """Whether the capacity is asked for: a promise, and no load to measure it at."""
        return self.slo is not None and not (
            self.rate or self.concurrency or self.trace or self.schedule
        )


def make_spec(
    values: Mapping[str, Any], *, headers: Mapping[str, str], verify: bool, ignore_eos: bool
) -> EndpointSpec:
    """A checked spec. Raises ArmbenchError for a value of the wrong kind."""
    more = {"headers": dict(headers), "verify": verify, "ignore_eos": ignore_eos}
    try:
        spec = msgspec.convert({**values, **more}, EndpointSpec)
    except msgspec.ValidationError as error:
        raise ArmbenchError(f"a flag has a value that does not fit: {error}") from error
    if not (spec.rate or spec.concurrency or spec.trace or spec.slo or spec.schedule):
        spec.concurrency = list(_DEFAULT_CONCURRENCY)
    keys.check(spec)
    for text in (*spec.input_tokens, *spec.output_tokens):
        parse_lengths(str(text))
    if spec.slo is not None:
        parse_slo(spec.slo)
    if spec.until is not None:
        parse_until(spec.until)
    return spec


def loads(spec: EndpointSpec) -> list[LoadPoint]:
    """The load points that `spec` asks for; of a capacity search none, for it finds its own."""
    if spec.searches:
        return []
    if spec.schedule is not None:
        return [_replayed(spec)]
    kinds = [spec.load] if spec.load else []
    if not kinds:
        kinds += ["closed"] if spec.concurrency else []
        kinds += ["open"] if spec.rate or spec.trace else []
    return [point for kind in kinds for point in keys.points(spec, kind)]


def _replayed(spec: EndpointSpec) -> LoadPoint:
    """A load point that says what a stored schedule amounts to."""
    path = Path(spec.schedule or "")
    seen = summary(stored.read(path))
    closed = seen.rate is None
    arrivals = None if closed else Arrivals(process="trace", trace=str(path))
    mean = seen.input.mean if seen.input else 0.0
    at_once = spec.concurrency[0] if spec.concurrency else spec.max_concurrency
    return LoadPoint(
        kind="closed" if closed else "open",
        batch=1,
        input_tokens=round(mean),
        output_tokens=round(seen.output.mean),
        requests=seen.requests,
        serving=ServingLoad(
            concurrency=at_once or (1 if closed else None),
            arrivals=arrivals,
            input=Lengths(kind="trace", mean=mean),
            output=Lengths(kind="trace", mean=seen.output.mean),
            slo=parse_slo(spec.slo) if spec.slo else None,
        ),
    )


class Scheduled(Struct):
    """A load point and what its schedule amounts to; `first` alone where it ends by time only."""

    load: LoadPoint
    schedule: Summary


def plans(spec: EndpointSpec) -> list[tuple[LoadPoint, list[Planned]]]:
    """The schedule of the first trial of each load point, without what leads to its window."""
    found = []
    for load in loads(spec):
        if spec.schedule is not None:
            found.append((load, stored.read(Path(spec.schedule))))
            continue
        drawn = schedule.stream(load, seed=spec.seed, repeat=0)
        endless = load.kind == "closed" and not load.requests
        found.append((load, list(itertools.islice(drawn, _FIRST_ROWS if endless else None))))
    return found


def schedules(spec: EndpointSpec) -> list[Scheduled]:
    """What would be offered, for a dry run."""
    return [Scheduled(load, summary(planned)) for load, planned in plans(spec)]


def save_schedule(spec: EndpointSpec, path: Path) -> None:
    """Store the schedule of the one load point that `spec` has.

    Raises ArmbenchError where there are several, or it cannot be written.
    """
    found = plans(spec)
    if len(found) != 1:
        raise ArmbenchError(
            f"{len(found)} schedules for one file", hint="give one rate or one concurrency"
        )
    stored.write(found[0][1], path)


def allowed_cpus(machine: Machine) -> list[int]:
    """The CPUs that this process may run on."""
    return parse_cpu_list(machine.limits.allowed_cpus)


def client_cpus(spec: EndpointSpec, machine: Machine, *, local: bool) -> list[int]:
    """CPUs for the client: as told, else the last one beside a server, or all without one."""
    allowed = allowed_cpus(machine)
    if spec.client_cpus is not None:
        asked = parse_cpu_list(spec.client_cpus)
        if outside := sorted(set(asked) - set(allowed)):
            raise ArmbenchError(
                f"--client-cpus names {outside}, this process may run on {allowed}",
                hint="choose among those",
            )
        return asked
    most = spec.senders or 1
    return allowed[-most:] if local else allowed[: max(1, most)]


def _sampling(spec: EndpointSpec) -> dict[str, float | int | bool]:
    """Greedy, of the asked length; servers that do not know a member ignore it."""
    chosen: dict[str, float | int | bool] = {"temperature": 0}
    return chosen | ({"ignore_eos": True, "min_tokens": True} if spec.ignore_eos else {})


def contact(spec: EndpointSpec) -> tuple[Endpoint, Target]:
    """The endpoint, asked who it is. Raises ArmbenchError where nobody answers."""
    if not spec.target:
        raise ArmbenchError("no --target", hint="give a URL, or `armbench run --load closed`")
    address = endpoints.parse_url(spec.target)
    verify: bool | Path = Path(spec.ca_file) if spec.ca_file else spec.verify
    found = Endpoint(
        address,
        key=endpoints.key_from(spec.key_variable),
        headers=spec.headers,
        verify=verify,
        timeout_s=parse_duration(spec.timeout),
        proxy=endpoints.parse_proxy(spec.proxy) if spec.proxy else None,
    )
    served = found.models()
    if spec.model is None and not served:
        raise ArmbenchError(
            f"{address.origin} does not say which models it serves", hint="give --model NAME"
        )
    if spec.model is not None and served and spec.model not in served:
        raise unknown_name(f"model at {address.origin}", spec.model, served)
    target = Target(
        url=address.origin + address.path,
        endpoint=spec.endpoint,
        model=spec.model or served[0],
        body=spec.body,
        headers=sorted(spec.headers),
        sampling=_sampling(spec),
        server=found.server,
        client_host=spec.client_host,
        local=spec.client_host is None and endpoints.is_local(address.host),
    )
    return found, target


def variant_of(endpoint: Endpoint) -> Variant:
    """What computes behind `endpoint`: our own server tells, of others the interface is known."""
    told = endpoint.health()
    engine, dtype, cpus = told.get("engine"), told.get("dtype"), told.get("cpus")
    if not isinstance(engine, str) or not isinstance(dtype, str) or not isinstance(cpus, list):
        return Variant(engine="openai", dtype=None, threads=None)
    return Variant(engine=engine, dtype=dtype, threads=len(cpus))


def parse_until(text: str) -> tuple[str, float]:
    """(metric, share) of `tpot_p50_s=3%`. Raises ArmbenchError for anything else."""
    name, equals, share = text.partition("=")
    metric(name)
    try:
        value = float(share.removesuffix("%")) / (100 if share.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not equals or not 0 < value < 1:
        raise ArmbenchError(f"--until {text!r}", hint="write it like tpot_p50_s=3%")
    return name, value
