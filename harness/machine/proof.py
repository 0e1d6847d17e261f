"""Placement proved: the engine's threads watched from outside, its pages and its own word.

An affinity that was asked for proves nothing, so the kernel is asked where every thread may run
and where it ran while a trial goes on, and the runtime how many threads it believes to have.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from harness.machine.numa import read_pages, remote_pages
from harness.machine.tree import Tree, number_list
from harness.records.machine import Finding
from harness.records.run import MemoryPolicy, PlacementProof, RuntimeThreads, ThreadSeen
from harness.units import NS_PER_S, format_cpu_list

# A thread that used at least this share of the busiest one's CPU time computes; others only wait.
COMPUTE_SHARE = 0.2
# A compute thread that is pushed off its CPU more often has a competitor; the harness itself, on a
# machine with no CPU to spare, wakes about ten times a second.
SWITCHES_PER_S = 50


class _Sample(Struct):
    name: str
    affinity: str
    cpu_ns: int
    cpu: int
    migrations: int | None
    switches: int | None


def _status_fields(text: str) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key: value.strip() for key, value in pairs}


def _migrations(task: Path) -> int | None:
    try:
        for line in (task / "sched").read_text().splitlines():
            if line.startswith("se.nr_migrations"):
                return int(line.split(":")[1])
    except (OSError, ValueError, IndexError):
        pass
    return None  # kernel built without CONFIG_SCHED_DEBUG


def cpu_ns(task: Path, stat: Sequence[str]) -> int:
    """CPU time of a thread: exact from schedstat, in ticks of 10 ms where that tells nothing.

    Kernels that do not count it there have no such file, or zeros in it.
    """
    try:
        exact = int((task / "schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        exact = 0
    ticks = int(stat[11]) + int(stat[12])  # utime, stime: fields 14 and 15 of proc(5)
    return exact or ticks * NS_PER_S // os.sysconf("SC_CLK_TCK")


def _sample_thread(task: Path) -> _Sample | None:
    """One thread as /proc shows it; None where it ended meanwhile."""
    try:
        status = _status_fields((task / "status").read_text())
        stat = (task / "stat").read_text().rpartition(")")[2].split()
        switches = status.get("nonvoluntary_ctxt_switches", "")
        return _Sample(
            name=status.get("Name", "?"),
            affinity=status["Cpus_allowed_list"],
            cpu_ns=cpu_ns(task, stat),
            cpu=int(stat[36]),  # processor: field 39
            migrations=_migrations(task),
            switches=int(switches) if switches.isdecimal() else None,
        )
    except (OSError, KeyError, ValueError, IndexError):
        return None


def _rise(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


class Watch:
    """Samples the threads of process `pid` from a thread of its own, between enter and exit."""

    def __init__(
        self,
        pid: int,
        asked: Sequence[int],
        driver: Sequence[int],
        *,
        interval_s: float = 0.25,
        root: Path = Path("/"),
    ) -> None:
        self.pid, self.root = pid, root
        self.tasks = root / "proc" / str(pid) / "task"
        self.asked, self.driver = list(asked), list(driver)
        self.interval_s = interval_s
        self.first: dict[str, _Sample] = {}
        self.last: dict[str, _Sample] = {}
        self.affinities: dict[str, Counter[str]] = {}
        self.working: dict[str, Counter[str]] = {}  # at samples before which it had worked
        self.seen: dict[str, set[int]] = {}
        self.samples = 0
        self.seconds = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="placement-watch", daemon=True)

    def __enter__(self) -> Watch:
        self._start = time.monotonic()
        self.sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.sample()
        self.seconds = time.monotonic() - self._start

    def _loop(self) -> None:
        while not self._stop.wait(self.interval_s):
            self.sample()

    def sample(self) -> None:
        """Look at every thread once."""
        try:
            tasks = list(self.tasks.iterdir())
        except OSError:
            return
        self.samples += 1
        for task in tasks:
            now = _sample_thread(task)
            if now is None:
                continue
            before = self.last.get(task.name)
            self.first.setdefault(task.name, now)
            self.last[task.name] = now
            self.affinities.setdefault(task.name, Counter())[now.affinity] += 1
            if before is not None and now.cpu_ns > before.cpu_ns:
                self.seen.setdefault(task.name, set()).add(now.cpu)
                self.working.setdefault(task.name, Counter())[now.affinity] += 1

    def _affinity(self, tid: str) -> str:
        """Where thread `tid` was allowed while it worked, most often; else where it is now.

        OpenVINO binds its threads for as long as they work, and lets go of them in between.
        """
        worked = self.working.get(tid)
        return worked.most_common(1)[0][0] if worked else self.last[tid].affinity

    def _threads(self) -> list[ThreadSeen]:
        found = []
        for tid, last in self.last.items():
            first = self.first[tid]
            found.append(
                ThreadSeen(
                    name=last.name,
                    affinity=self._affinity(tid),
                    cpu_s=(last.cpu_ns - first.cpu_ns) / NS_PER_S,
                    ran_on=sorted(self.seen.get(tid, ())),
                    migrations=_rise(first.migrations, last.migrations),
                    tid=int(tid),
                    involuntary_switches=_rise(first.switches, last.switches),
                )
            )
        return found

    def proof(
        self, runtime: RuntimeThreads | None = None, policy: MemoryPolicy | None = None
    ) -> PlacementProof:
        """What was seen, and every fault in plain words; reads the process's pages now.

        `runtime` and `policy` are what the process says of itself.
        """
        threads = self._threads()
        busiest = max((t.cpu_s for t in threads), default=0.0)
        floor = COMPUTE_SHARE * busiest
        compute = [i for i, t in enumerate(threads) if t.cpu_s >= floor > 0]
        proof = PlacementProof(
            asked=self.asked,
            driver=self.driver,
            samples=self.samples,
            threads=threads,
            compute=compute,
            faults=faults(self.asked, threads, compute, list(self.affinities.values())),
            seconds=self.seconds,
            policy=policy,
            memory=read_pages(Tree(self.root), self.pid),
            runtime=runtime,
        )
        if runtime is not None:
            proof.faults += runtime_faults(self.asked, runtime)
        if policy is not None and proof.memory is not None:
            own, _ = remote_pages(policy.nodes, proof.memory)
            proof.faults += [own] if own else []
        return proof


def faults(
    asked: Sequence[int],
    threads: Sequence[ThreadSeen],
    compute: Iterable[int],
    masks: Sequence[Mapping[str, int]],
) -> list[str]:
    """Every way in which `threads` are not where `asked` says; empty is the proof.

    `masks` are all affinities each thread was seen with, and how often. A thread may wait anywhere
    inside the engine's CPUs; a thread that computes must be bound to one that no other computes on.
    """
    place = set(asked)
    found = _strays(place, threads, masks)
    bound: Counter[int] = Counter()
    computing = list(compute)
    for thread in (threads[i] for i in computing):
        cpus = _cpus(thread.affinity)
        if len(cpus) == 1:
            bound[cpus[0]] += 1
        else:
            moved = f"; it moved {thread.migrations} times" if thread.migrations else ""
            found.append(
                f"compute thread {thread.name!r} is not bound to one CPU but to "
                f"{thread.affinity}{moved}"
            )
    found += [f"{n} compute threads share CPU {cpu}" for cpu, n in bound.items() if n > 1]
    if len(computing) > len(place):
        found.append(
            f"oversubscribed: {len(computing)} threads compute on {_many(len(place), 'CPU')} "
            f"({format_cpu_list(place)})"
        )
    elif threads and not found and len(computing) < len(place):
        found.append(f"{len(place)} threads were asked for, {len(computing)} computed")
    return found


def _strays(
    place: set[int], threads: Sequence[ThreadSeen], masks: Sequence[Mapping[str, int]]
) -> list[str]:
    """Threads that were allowed, at some time, to run outside `place`."""
    found: list[str] = []
    for thread, seen in zip(threads, masks, strict=True):
        outside = {mask: n for mask, n in seen.items() if set(_cpus(mask)) - place}
        ran = [cpu for cpu in thread.ran_on if cpu not in place]
        if outside:
            went = f", and ran on {format_cpu_list(ran)}" if ran else ""
            found.append(
                f"thread {thread.name!r} may run on CPUs {' and '.join(outside)}, outside the "
                f"engine's {format_cpu_list(place)}, in {sum(outside.values())} of "
                f"{sum(seen.values())} samples{went}"
            )
    return found


def _cpus(mask: str) -> list[int]:
    return number_list(mask) or []


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def runtime_faults(asked: Sequence[int], runtime: RuntimeThreads) -> list[str]:
    """Where the runtime's own threads are not those that were placed."""
    name, found = runtime.runtime, []
    if runtime.compute is not None and runtime.compute != len(asked):
        found.append(
            f"{name} says it computes with {_many(runtime.compute, 'thread')}, {len(asked)} were "
            "placed"
        )
    places = [str(cpu) for cpu in asked[1:]]
    if runtime.affinities is not None and runtime.affinities != places:
        found.append(
            f"{name} was told affinities {runtime.affinities} for its threads after the first, "
            f"the plan says {places}"
        )
    return found + (_pool_faults(asked, runtime) if runtime.library is not None else [])


def _pool_faults(asked: Sequence[int], runtime: RuntimeThreads) -> list[str]:
    """Where OpenMP's places and threads are not those of the plan."""
    found: list[str] = []
    wanted = [str(cpu) for cpu in asked]
    if not runtime.places:
        found.append("OpenMP has no places: its threads are bound to no CPU")
    elif runtime.places != wanted:
        found.append(f"OpenMP has the places {runtime.places}, the plan says {wanted}")
    users: dict[str, list[int]] = {}
    for number, thread in enumerate(runtime.pool):
        users.setdefault(thread.cpus, []).append(number)
        if len(_cpus(thread.cpus)) != 1:
            found.append(f"OpenMP thread {number} is bound to no single CPU but to {thread.cpus}")
    found += [
        f"OpenMP threads {', '.join(map(str, numbers))} are all bound to CPU {cpu}"
        for cpu, numbers in users.items()
        if len(numbers) > 1 and len(_cpus(cpu)) == 1
    ]
    return found


def warnings(proof: PlacementProof) -> list[Finding]:
    """What a reader must know of a placement that held: competitors, pools, remote files."""
    found = {
        "competitor": _competitors(proof),
        "interop": _interop(proof),
        "pool": _unasked(proof),
        "memory": _unbound(proof),
        "pages": _pages(proof),
    }
    return [
        Finding(name=f"placement {name}", severity="warning", message=text)
        for name, text in found.items()
        if text
    ]


def _competitors(proof: PlacementProof) -> str | None:
    seconds = max(proof.seconds or 0.0, 1.0)
    rates = {
        t.affinity: t.involuntary_switches / seconds
        for t in (proof.threads[i] for i in proof.compute)
        if t.involuntary_switches is not None
    }
    often = {cpu: rate for cpu, rate in rates.items() if rate > SWITCHES_PER_S}
    if not often:
        return None
    return (
        f"compute threads on CPUs {', '.join(often)} were pushed off them up to "
        f"{max(often.values()):.0f} times a second: something else ran there"
    )


def _interop(proof: PlacementProof) -> str | None:
    runtime = proof.runtime
    if runtime is None or (runtime.interop or 1) <= 1:
        return None
    return (
        f"{runtime.runtime} may run {runtime.interop} operators at once, each on "
        f"{runtime.compute} threads, on {_many(len(proof.asked), 'CPU')}"
    )


def _unasked(proof: PlacementProof) -> str | None:
    runtime = proof.runtime
    if runtime is None or runtime.reason is None:
        return None
    return f"the thread pool of {runtime.runtime} could not be asked: {runtime.reason}"


def _unbound(proof: PlacementProof) -> str | None:
    policy = proof.policy
    if policy is None or not policy.nodes:
        return None
    nodes = format_cpu_list(policy.nodes)
    if policy.policy == f"bind:{nodes}":
        return None
    why = policy.reason or f"the kernel holds {policy.policy}"
    return f"memory is not bound to node {nodes}, it lies where it was touched first: {why}"


def _pages(proof: PlacementProof) -> str | None:
    if proof.policy is None or not proof.policy.nodes or proof.memory is None:
        return None
    if proof.memory.reason:
        return f"where the engine's pages lie is not known: {proof.memory.reason}"
    return remote_pages(proof.policy.nodes, proof.memory)[1]
