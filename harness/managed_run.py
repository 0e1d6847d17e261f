"""Trials of a foreign server that armbench starts itself, by its recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import structs

from harness.endpoint_run import EndpointRun, earlier, new_result, refuse
from harness.endpoint_spec import EndpointSpec, client_cpus
from harness.errors import ArmbenchError
from harness.load.endpoint import Endpoint, parse_url
from harness.load.keys import LoadKeys
from harness.load.managed import Managed
from harness.load.recipes import Recipe, Settings, read_recipe
from harness.load.view import choose_view
from harness.machine.numa import memory_nodes
from harness.machine.placement import Placement, default_threads, place
from harness.machine.wish import parse_wish
from harness.plan import SERVED, Spec
from harness.records.load import Target
from harness.records.machine import Machine
from harness.records.run import Case, Result, Trial, Variant
from harness.runner import Listener
from harness.units import parse_duration

_SLOTS = 8
_SHARED = (
    *("name", "model", "server", "binary", "placement", "slots", "repeats", "seed"),
    *("instance", "price"),
)


def endpoint_spec_of(spec: Spec) -> EndpointSpec:
    """A plan's serving loads, as asked of the server that its `server` names.

    Raises ArmbenchError for loads that do not go over HTTP, or several thread counts.
    """
    if other := sorted(set(spec.load) - set(SERVED)):
        raise ArmbenchError(
            f"server {spec.server} and load {', '.join(other)}",
            hint="a server of somebody else's takes loads closed and open",
        )
    if len(spec.threads) > 1:
        raise ArmbenchError(f"server {spec.server} with threads {spec.threads}", hint="give one")
    if spec.instances not in ([], [1]):
        raise ArmbenchError(
            f"server {spec.server} with instances {spec.instances}",
            hint="a server of somebody else's is started once; our engines take --instances",
        )
    same = {f.encode_name for f in structs.fields(LoadKeys)}
    shared = {name: getattr(spec, name) for name in (*same, *_SHARED)}
    kinds = set(spec.load)
    if "closed" not in kinds:
        shared["concurrency"] = []
    if "open" not in kinds:
        shared["rate"] = []
    return EndpointSpec(**shared, threads=spec.threads[0] if spec.threads else None)


def begin_managed(
    spec: EndpointSpec, machine: Machine, results: Path, listener: Listener
) -> ManagedRun:
    """A new run of the server that `spec.server` names; nothing is started yet.

    Raises ArmbenchError for an unknown recipe, a model it can't serve, a program that is missing.
    """
    recipe, settings, where, variant = _settled(spec, machine)
    target = Target(url="http://127.0.0.1", endpoint=spec.endpoint, model=settings.model_name)
    target = structs.replace(target, recipe=recipe.name, server=recipe.title)
    result, path = new_result(spec, machine, results, target, variant)
    result.plan.cpus = where.cpus
    result.plan.placement = where.wish
    result.plan.driver_cpus = (
        client_cpus(spec, machine, local=True) if spec.client_cpus else where.driver
    )
    result.plan.notes += where.notes
    listener.started(machine, result.plan)
    return ManagedRun(result, path, listener, spec, variant, recipe, settings)


def resume_managed(
    spec: EndpointSpec, path: Path, machine: Machine, listener: Listener
) -> ManagedRun:
    """The run in `path`, to be finished with the same flags; each server has its own URL.

    Raises NotComparable where server, model, CPUs, machine, seed or loads are not those of the
    result.
    """
    recipe, settings, where, variant = _settled(spec, machine)
    result = earlier(spec, path, machine)
    assert result.target is not None
    same = {
        "server": result.target.recipe == recipe.name,
        "model": result.plan.model == settings.model_name,
        "endpoint": result.target.endpoint == spec.endpoint,
        "placement": result.plan.cpus == where.cpus,
    }
    refuse(path, [name for name, alike in same.items() if not alike])
    listener.started(machine, result.plan)
    return ManagedRun(result, path, listener, spec, variant, recipe, settings)


def _settled(spec: EndpointSpec, machine: Machine) -> tuple[Recipe, Settings, Placement, Variant]:
    """What the server of `spec` is and where it runs, checked before it starts."""
    recipe = read_recipe(spec.server or "")
    if spec.model is None:
        raise ArmbenchError(f"no --model for {recipe.title}", hint="give a file or folder")
    if spec.proxy is not None:
        raise ArmbenchError(
            f"--proxy, and {recipe.title} on this machine", hint="leave --proxy out"
        )
    wish = parse_wish(spec.placement)
    threads = spec.threads or default_threads(machine, wish)
    where = place(machine, threads, wish)
    settings = Settings(
        model=spec.model,
        model_name=Path(spec.model).stem,
        cpus=tuple(where.cpus),
        slots=spec.slots or max([*spec.concurrency, _SLOTS]),
        context=spec.context,
    )
    Managed(recipe, settings, binary=spec.binary)  # what the user can mend is said now
    variant = Variant(engine=recipe.name, dtype=None, threads=len(where.cpus))
    return recipe, settings, where, variant


class ManagedRun(EndpointRun):
    """Each trial has a server process of its own; a search has one for all its probes."""

    def __init__(
        self,
        result: Result,
        path: Path,
        listener: Listener,
        spec: EndpointSpec,
        variant: Variant,
        recipe: Recipe,
        settings: Settings,
    ) -> None:
        endpoint = Endpoint(parse_url("http://127.0.0.1"))
        super().__init__(result, path, listener, spec, endpoint, variant)
        self.recipe, self.settings = recipe, settings
        self.server: Managed | None = None
        self.facts: dict[str, Any] | None = None

    def reach(self) -> None:
        """Nothing is there yet: each trial starts its own."""

    @contextmanager
    def serving(self) -> Iterator[None]:
        """The server, ready and connected; the one that is there where a search started it."""
        if self.server is not None:
            yield
            return
        nodes = memory_nodes(self.result.machine, self.result.plan.cpus)
        server = Managed(
            self.recipe,
            self.settings,
            binary=self.spec.binary,
            nodes=nodes,
            progress=self.listener.phase,
        )
        with server:
            target = server.target(self.spec.endpoint, exact_length=self.spec.ignore_eos)
            target.sampling = {"temperature": 0, **target.sampling}
            self.result.target = target
            endpoint = Endpoint(parse_url(target.url), timeout_s=parse_duration(self.spec.timeout))
            metrics = self.recipe.metrics.path if self.recipe.metrics else None
            used = server.cpu_s()
            with self.connected(endpoint, target, choose_view(endpoint, metrics)):
                self.own_pids = [process.pid for process in server.processes()]
                self.engines = [(server.busiest(used), list(self.settings.cpus))]
                self.server = server
                try:
                    yield
                finally:
                    self.server, self.engines = None, []
            server.check("by the end of its trial")
            self.facts = server.facts()

    def fill(self, trial: Trial, case: Case) -> None:
        """As at any endpoint, with what the server is beside it."""
        super().fill(trial, case)
        trial.engine_facts = self.facts or {}
