"""A trial of one of our engines behind our own server: started, loaded, watched, stopped."""

from __future__ import annotations

import os

import msgspec
from msgspec import Struct

from harness import wire
from harness.engine_process import EngineFailed
from harness.engines import EngineSpec
from harness.load.endpoint import Endpoint, parse_url
from harness.load.offer import Offer, OfferOptions
from harness.load.view import Journal
from harness.machine.numa import memory_nodes
from harness.machine.placement import Instance
from harness.machine.proof import Watch
from harness.observe import observe, tell_engines, tree_cpu_s, watches
from harness.records.load import ServeSetting, Target
from harness.records.machine import Machine
from harness.records.run import LoadPoint, Trial
from harness.serving.options import Service
from harness.serving.process import ServerProcess


class Told(Struct):
    """The answer of /armbench/report."""

    engines: list[wire.Reported | None]
    server_cpu_s: float


class ServedTrial(Struct, kw_only=True):
    """What such a trial needs beside its load; `cpus` are those of each instance."""

    machine: Machine
    spec: EngineSpec
    cpus: list[list[int]]
    setting: ServeSetting
    vocabulary: int
    model: str
    driver_cpus: list[int]
    seed: int
    timeout_s: float
    ceiling_events_per_s: float | None = None


def fill(trial: Trial, load: LoadPoint, asked: ServedTrial) -> None:
    """One trial, into `trial`. Raises EngineFailed or ArmbenchError."""
    service = Service(
        spec=asked.spec,
        name=asked.model,
        vocabulary=asked.vocabulary,
        setting=asked.setting,
        driver_cpus=asked.driver_cpus,
        instances=[
            Instance(cpus=cpus, memory_nodes=memory_nodes(asked.machine, cpus))
            for cpus in asked.cpus
        ],
        load_timeout_s=asked.timeout_s,
    )
    with ServerProcess(service) as server:
        ready = server.ready(asked.timeout_s)
        trial.load_s = ready.load_s
        endpoint = Endpoint(parse_url(ready.url), timeout_s=asked.timeout_s)
        target = Target(
            url=ready.url,
            endpoint="completions",
            model=ready.model,
            prompts="ids",
            sampling={"temperature": 0, "ignore_eos": True},
        )
        options = OfferOptions(
            cpus=asked.driver_cpus,
            timeout_s=asked.timeout_s,
            ceiling_events_per_s=asked.ceiling_events_per_s,
            engine_cpus=ready.cpus,
            vocabulary=asked.vocabulary,
        )
        pids = [server.pid, os.getpid()]
        with Offer(target, endpoint, options, Journal(endpoint)) as offer:
            trial.warmup, trial.warmup_stable = offer.warm_up(load, seed=asked.seed)
            engines = [one.pid for one in ready.instances]
            with watches(engines, asked.cpus, asked.driver_cpus) as seen:
                observe(
                    trial,
                    asked.machine,
                    ready.cpus,
                    lambda: _measure(offer, trial, load, asked.seed),
                    lambda: tree_cpu_s(pids),
                )
        _settle(trial, seen, endpoint, server)


def _measure(offer: Offer, trial: Trial, load: LoadPoint, seed: int) -> None:
    offer.measure(trial, load, seed=seed)


def _settle(trial: Trial, seen: list[Watch], endpoint: Endpoint, server: ServerProcess) -> None:
    """Ask the engines what they used, prove their placement, and end the server."""
    status, body = endpoint.ask("GET", "/armbench/report")
    try:
        told = msgspec.json.decode(body, type=Told)
    except msgspec.MsgspecError as error:
        raise EngineFailed(
            f"the server's report came as {status}: {error}", server.tail()
        ) from error
    if dead := [n for n, one in enumerate(told.engines) if one is None]:
        raise EngineFailed(f"instance {dead[0]} died during the trial", server.tail())
    tell_engines(trial, seen, [one for one in told.engines if one is not None])
    server.stop()
