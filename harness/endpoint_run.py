"""Trials against any endpoint: `armbench load`."""

from __future__ import annotations

import datetime
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from msgspec import structs

import harness
from harness import begin, store
from harness.endpoint_spec import (
    EndpointSpec,
    allowed_cpus,
    client_cpus,
    contact,
    loads,
    parse_until,
    variant_of,
)
from harness.errors import ArmbenchError, NotComparable
from harness.load import endpoint as endpoints
from harness.load import keys
from harness.load.capacity import ProbeOutcome, early_verdict, search
from harness.load.endpoint import Endpoint
from harness.load.offer import Offer, OfferOptions, View
from harness.load.selfcheck import ClientCeiling, check_client
from harness.load.slo import parse_slo
from harness.load.view import choose_view
from harness.machine.detect import machine_slug
from harness.observe import listener_pid, observe, prove, tree_cpu_s, watches
from harness.plan import interleaved
from harness.records.load import Capacity, Slo, Target
from harness.records.machine import Machine
from harness.records.run import (
    SCHEMA,
    Case,
    LoadPoint,
    ModelIdentity,
    Plan,
    RequestRecord,
    Result,
    Trial,
    Variant,
)
from harness.runner import Listener, Run
from harness.stats import narrow_enough
from harness.units import NS_PER_S, parse_duration

_MOST_REPEATS = 30  # of a run that repeats until its interval is narrow
_ATTEMPTS = 3  # at a probe that is disturbed
_SEARCH_SPAN = 1024.0  # how far from the rate of a single stream a capacity is looked for
_PREDICTED_SHARE = 0.4  # of one process's ceiling, so that half of it is not reached


def begin_run(
    spec: EndpointSpec, machine: Machine, results: Path, listener: Listener
) -> EndpointRun:
    """A new run, its result file not yet written. Raises ArmbenchError where it can't be run."""
    endpoint, target = contact(spec)
    variant = variant_of(endpoint)
    result, path = new_result(spec, machine, results, target, variant)
    listener.started(machine, result.plan)
    return EndpointRun(result, path, listener, spec, endpoint, variant)


def new_result(
    spec: EndpointSpec, machine: Machine, results: Path, target: Target, variant: Variant
) -> tuple[Result, Path]:
    """An empty result for `target`, and where it goes."""
    cases = [Case(id=i, variant=variant, load=load) for i, load in enumerate(loads(spec))]
    cpus = client_cpus(spec, machine, local=target.local)
    plan = Plan(
        name=spec.name,
        model=target.model,
        cases=cases,
        repeats=spec.repeats,
        seed=spec.seed,
        cpus=[],
        driver_cpus=cpus,
        time_budget_s=None,
        trial_timeout_s=parse_duration(spec.timeout),
        order=interleaved(cases, spec.repeats, spec.seed),
    )
    price, reason = begin.choose_price(spec.price, spec.instance, machine if target.local else None)
    now = datetime.datetime.now(datetime.UTC)
    path = store.new_path(results, machine_slug(machine), plan.name, now)
    result = Result(
        schema=SCHEMA,
        armbench=harness.__version__,
        created=now.isoformat(timespec="seconds"),
        plan=plan,
        model=ModelIdentity(
            name=target.model,
            weights=None,
            family=None,
            parameters=None,
            config_sha256=None,
            files={},
        ),
        machine=machine,
        software=begin.software(),
        price=price,
        price_reason=reason,
        target=target,
    )
    return result, path


def resume_run(spec: EndpointSpec, path: Path, machine: Machine, listener: Listener) -> EndpointRun:
    """The run in `path`, to be finished with the same flags.

    Raises NotComparable where target, model, machine, seed or loads are not those of the result.
    """
    result = earlier(spec, path, machine)
    assert result.target is not None
    endpoint, target = contact(spec)
    same = (target.url, target.model) == (result.target.url, result.target.model)
    refuse(path, [] if same else ["target or model"])
    listener.started(machine, result.plan)
    return EndpointRun(result, path, listener, spec, endpoint, variant_of(endpoint))


def earlier(spec: EndpointSpec, path: Path, machine: Machine) -> Result:
    """The result in `path`, if it was begun on `machine` with the seed and the loads of `spec`.

    Raises NotComparable where it was not.
    """
    result = store.load(path)
    if result.target is None:
        raise ArmbenchError(f"{path} is no result of `armbench load`", hint="armbench run --resume")
    probed = {probe.case for one in result.capacities for probe in one.probes}
    asked = [case.load for case in result.plan.cases if case.id not in probed]
    same = {
        "machine": machine_slug(machine) == machine_slug(result.machine),
        "seed": spec.seed == result.plan.seed,
        "load": spec.searches or asked == loads(spec),
    }
    refuse(path, [name for name, alike in same.items() if not alike])
    return result


def refuse(path: Path, others: list[str]) -> None:
    """Raise NotComparable where the run in `path` was begun with `others`."""
    if others:
        raise NotComparable(
            f"{path} was begun with another {', '.join(others)}",
            hint="give the flags it was begun with, or start a new run",
        )


class EndpointRun(Run):
    """Trials against one endpoint, each on fresh connections."""

    def __init__(
        self,
        result: Result,
        path: Path,
        listener: Listener,
        spec: EndpointSpec,
        endpoint: Endpoint,
        variant: Variant,
    ) -> None:
        super().__init__(result, path, listener)
        self.spec, self.endpoint, self.variant = spec, endpoint, variant
        self.offer: Offer | None = None
        self.options: OfferOptions | None = None
        self.own_pids: list[int] = []  # processes of the server, where they are seen
        self.engines: list[tuple[int, list[int]]] = []  # those that compute, and their CPUs
        self.searching: Slo | None = None
        self.probes: dict[float, int] = {}
        self.open = ExitStack()

    @property
    def target(self) -> Target:
        assert self.result.target is not None
        return self.result.target

    def prepare(self) -> None:
        """Measure the client's own ceiling, then settle how requests are sent."""
        self.listener.phase("the client's own ceiling")
        cpus = self.plan.driver_cpus
        ceiling = check_client(cpus, say=self.listener.phase)
        senders = self.spec.senders or self._senders(ceiling.events_per_s)
        self.options = OfferOptions(
            cpus=cpus,
            senders=senders,
            timeout_s=parse_duration(self.spec.timeout),
            drain_s=parse_duration(self.spec.drain),
            key=endpoints.key_from(self.spec.key_variable),
            headers=self.spec.headers,
            verify=self.endpoint.verify,
            proxy=self.spec.proxy,
            schedule=Path(self.spec.schedule) if self.spec.schedule else None,
            ceiling_events_per_s=senders * ceiling.events_per_s,
            engine_cpus=allowed_cpus(self.result.machine) if self.target.local else [],
        )
        self.reach()

    def reach(self) -> None:
        """Connect to the server that is there already."""
        if self.target.local:
            pid = listener_pid(self.endpoint.address.port)
            self.own_pids = [pid] if pid is not None else []
            told = self.endpoint.health()
            self.engines = _engines(told)
        view = choose_view(self.endpoint, self.spec.metrics)
        self.open.enter_context(self.connected(self.endpoint, self.target, view))

    @contextmanager
    def connected(self, endpoint: Endpoint, target: Target, view: View) -> Iterator[None]:
        """Client processes for `target`, which know how requests are sent there."""
        assert self.options is not None
        with Offer(target, endpoint, self.options, view) as offer:
            self.listener.phase("how prompts are sent, and what words cost there")
            offer.discover(self.spec.prompts)
            self.offer = offer
            try:
                yield
            finally:
                self.offer = None

    @contextmanager
    def serving(self) -> Iterator[None]:
        """A server for one trial, or for one search; this one is there all the time."""
        yield

    def _senders(self, events_per_s: float) -> int:
        """Client processes for the tokens that the loads ask for, as far as CPUs go."""
        rates = [
            case.load.serving.arrivals.rate * case.load.output_tokens
            for case in self.plan.cases
            if case.load.serving and case.load.serving.arrivals and case.load.serving.arrivals.rate
        ]
        wanted = max(rates, default=0.0) / (_PREDICTED_SHARE * events_per_s)
        return max(1, min(math.ceil(wanted), len(self.plan.driver_cpus)))

    def close(self) -> None:
        self.open.close()

    def fill(self, trial: Trial, case: Case) -> None:
        """Warm-up, then the window with conditions around it."""
        with self.serving():
            if self.searching is None:
                warm = self._offer().warm_up(case.load, seed=self.spec.seed)
                trial.warmup, trial.warmup_stable = warm
            trial.stopped_early = self._measured(trial, case.load)

    def _offer(self) -> Offer:
        assert self.offer is not None
        return self.offer

    def _measured(self, trial: Trial, load: LoadPoint) -> str | None:
        """One window, watched; what ended it early."""
        offer, told, slo = self._offer(), "", self.searching

        def stop(records: list[RequestRecord]) -> str | None:
            now = time.monotonic_ns()
            return early_verdict(records, slo, planned=load.requests, now_ns=now) if slo else None

        def work() -> None:
            nonlocal told
            told = offer.measure(trial, load, seed=self.spec.seed, stop=stop if slo else None) or ""

        self.watched(trial, work)
        return told or None

    def watched(self, trial: Trial, work: Callable[[], None]) -> None:
        """`work`, with what disturbed it and where the engines ran, into `trial`."""

        def own_cpu_s() -> float | None:
            if self.target.local and not self.own_pids:
                return None
            return tree_cpu_s([*self.own_pids, os.getpid()])

        machine = self.result.machine
        if not self.engines:
            observe(trial, machine, allowed_cpus(machine), work, own_cpu_s)
            return
        pids, placed = [pid for pid, _ in self.engines], [cpus for _, cpus in self.engines]
        with watches(pids, placed, self.plan.driver_cpus) as seen:
            observe(trial, machine, [c for cpus in placed for c in cpus], work, own_cpu_s)
        prove(trial, [watch.proof() for watch in seen])

    def measure(self) -> None:
        """Trials of the loads asked for; more until they are sure; then the capacity."""
        super().measure()
        if self.spec.until is not None:
            metric, share = parse_until(self.spec.until)
            while self._unsure(metric, share) and self.plan.repeats < _MOST_REPEATS:
                self.plan.order += [(case.id, self.plan.repeats) for case in self.plan.cases]
                self.plan.repeats += 1
                super().measure()
        if self.spec.searches and not self.result.capacities:
            with self.serving():
                self.result.capacities.append(self._search())
            self.save()

    def _unsure(self, metric: str, share: float) -> bool:
        """Whether the interval of `metric` is wider than `share` in some case."""
        figures = [self.result.summary.get(str(c.id), {}).get(metric) for c in self.plan.cases]
        return not narrow_enough([f for f in figures if f is not None], share)

    def _search(self) -> Capacity:
        """The highest rate that keeps the promise, each probe a case of its own."""
        slo = self.searching = parse_slo(self.spec.slo or "")
        ends = time.monotonic() + parse_duration(self.spec.budget)
        unloaded, _ = self._offer().warm_up(next(self._points(1.0)), seed=self.spec.seed)
        last = unloaded[-1]
        begun = [rate for case in self.plan.cases if (rate := _rate(case)) is not None]
        # an interrupted search goes on from where it began, so that its probes are found again
        start = begun[0] if begun else NS_PER_S / max(1, last.token_ns[-1] - last.sent_ns)

        def probe(rate: float, samples: int) -> ProbeOutcome:
            return self._probe(rate, samples, slo)

        return search(
            probe,
            slo,
            start_rate=start,
            lowest=start / _SEARCH_SPAN,
            highest=start * _SEARCH_SPAN,
            spent=lambda: time.monotonic() > ends,
        )

    def _points(self, rate: float, requests: int | None = None) -> Iterator[LoadPoint]:
        """The load point of the spec's lengths at `rate`, to be ended by count."""
        count = requests if requests is not None else self.spec.requests or 1
        asked = structs.replace(self.spec, rate=[rate], requests=count, duration=None)
        yield from itertools.islice(keys.points(asked, "open"), 1)

    def _probe(self, rate: float, samples: int, slo: Slo) -> ProbeOutcome:
        """One probe, a case of its own; one that an interrupted run made is taken as it is."""
        earlier = [case for case in self.plan.cases if _rate(case) == rate]
        number = self.probes.get(rate, 0)
        self.probes[rate] = number + 1
        if number < len(earlier):
            case = earlier[number]
        else:
            load = next(self._points(rate, samples))
            case = Case(id=len(self.plan.cases), variant=self.variant, load=load)
            self.plan.cases.append(case)
        trial = self._undisturbed(case, number, rate)
        if trial.state == "failed":
            raise ArmbenchError(f"the probe at {rate:g} requests/s failed: {trial.reason}")
        if trial.invalid:
            return ProbeOutcome(case=case.id, margins=[])
        return ProbeOutcome.of(trial.records, slo, case=case.id, stopped_early=trial.stopped_early)

    def _undisturbed(self, case: Case, number: int, rate: float) -> Trial:
        """The probe of `case`; one that was disturbed is made again, a few times."""
        done = [t for t in self.result.trials if t.case == case.id]
        for attempt in range(_ATTEMPTS):
            if attempt >= len(done):
                again = f", again: {done[-1].invalid[0]}" if done else ""
                self.listener.phase(
                    f"probing {rate:g} requests/s with {case.load.requests} requests{again}"
                )
                order = (case.id, number * _ATTEMPTS + attempt)
                self.plan.order.append(order)
                done.append(self.trial(case, order[1], len(self.result.trials)))
                self.result.trials.append(done[-1])
                self.save()
            if done[attempt].state == "failed" or not done[attempt].invalid:
                return done[attempt]
        return done[-1]


def _rate(case: Case) -> float | None:
    arrivals = case.load.serving.arrivals if case.load.serving else None
    return arrivals.rate if arrivals else None


def self_check(spec: EndpointSpec, say: Callable[[str], None]) -> ClientCeiling:
    """What the client can take at most on this machine, measured against a null server."""
    from harness.machine.detect import detect

    machine = detect()
    return check_client(client_cpus(spec, machine, local=True), say=say)


def _engines(health: Mapping[str, Any]) -> list[tuple[int, list[int]]]:
    """Process and CPUs of each engine behind a server of ours, by its /health; of others none."""
    listed = health.get("instances")
    if "engine_pid" not in health or not isinstance(listed, list):
        return []
    found = [(one.get("pid"), one.get("cpus")) for one in listed if isinstance(one, dict)]
    return [(pid, cpus) for pid, cpus in found if isinstance(pid, int) and isinstance(cpus, list)]
