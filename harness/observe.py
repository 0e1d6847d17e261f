"""What happened on the machine while a trial went on, beside its own work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from msgspec.structs import replace

from harness.machine.conditions import read_conditions
from harness.machine.during import During
from harness.machine.judge import judge
from harness.machine.proof import Watch, warnings
from harness.records.machine import Machine
from harness.records.run import InstanceSeen, PlacementProof, Trial, Usage
from harness.wire import Reported

_INTERVAL_S = 0.25
_FULLY_WATCHED = 4  # processes that are sampled that often; more are sampled as often together


def observe(
    trial: Trial,
    machine: Machine,
    cpus: Sequence[int],
    work: Callable[[], None],
    own_cpu_s: Callable[[], float | None],
) -> None:
    """Do `work` between two readings of the conditions of `cpus`, and judge what disturbed it.

    `own_cpu_s` is asked before and after: the CPU seconds of all processes that belong to the
    trial. None: nobody can tell them from a competitor's, and competitors go unjudged.
    """
    trial.before = read_conditions(cpus=cpus)
    start, before = time.monotonic(), own_cpu_s()
    with During() as during:
        work()
    seconds = time.monotonic() - start
    trial.after = read_conditions(cpus=cpus)
    after = own_cpu_s()
    trial.during = during.readings
    trial.findings = judge(
        trial.before,
        trial.after,
        own_cpu_s=None if before is None or after is None else after - before,
        seconds=seconds,
        cpus=machine.topology.cpus,
        watched=len(set(cpus)),
        during=during.readings,
    )


@contextmanager
def watches(
    pids: Sequence[int], asked: Sequence[Sequence[int]], driver: Sequence[int]
) -> Iterator[list[Watch]]:
    """A watch over the threads of each engine process; many share the samples of a few."""
    interval_s = _INTERVAL_S * max(1, len(pids) / _FULLY_WATCHED)
    with ExitStack() as stack:
        yield [
            stack.enter_context(Watch(pid, cpus, driver, interval_s=interval_s))
            for pid, cpus in zip(pids, asked, strict=True)
        ]


def tell_engines(trial: Trial, seen: Sequence[Watch], reported: Sequence[Reported]) -> None:
    """What every engine process used, and the proof where it ran, into `trial`."""
    trial.engine_facts = reported[0].facts
    trial.usage = add_usage([r.usage for r in reported])
    prove(trial, [w.proof(r.runtime, r.policy) for w, r in zip(seen, reported, strict=True)])
    for one, told in zip(trial.instances, reported, strict=bool(trial.instances)):
        one.usage = told.usage


def prove(trial: Trial, proofs: Sequence[PlacementProof]) -> None:
    """Where every engine process ran, into `trial`, with what must be known of it."""
    if len(proofs) == 1:
        trial.placement = proofs[0]
        trial.findings += warnings(proofs[0])
        return
    trial.instances = trial.instances or [InstanceSeen() for _ in proofs]
    for number, (one, proof) in enumerate(zip(trial.instances, proofs, strict=True)):
        one.placement = proof
        for finding in warnings(proof):
            text = f"instance {number}: {finding.message}"
            trial.findings.append(replace(finding, message=text))


def add_usage(each: Sequence[Usage]) -> Usage:
    """Of all processes together; resident pages that they share count for each."""
    return Usage(
        **{name: sum(getattr(one, name) for one in each) for name in Usage.__struct_fields__}
    )


def tree_cpu_s(pids: Sequence[int]) -> float | None:
    """CPU seconds of processes and all below them so far; None where one of `pids` is gone."""
    import psutil

    total = 0.0
    try:
        roots = [psutil.Process(pid) for pid in pids]
    except psutil.Error:
        return None
    every = {p.pid: p for root in roots for p in (root, *root.children(recursive=True))}
    for process in every.values():
        try:
            used = process.cpu_times()
        except psutil.Error:
            continue  # ended between listing and reading
        total += used.user + used.system
    return total


def listener_pid(port: int) -> int | None:
    """The process of this machine that listens on TCP `port`; None where that can't be seen."""
    import psutil

    try:
        found = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return None
    listening = psutil.CONN_LISTEN
    return next(
        (c.pid for c in found if c.status == listening and c.laddr.port == port and c.pid), None
    )
