"""Who runs where: chosen from the topology, then read back from the kernel.

The proof is the point: an affinity that was asked for proves nothing, so the threads of the engine
process are watched from outside while a trial runs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct, field

from harness.errors import ArmbenchError
from harness.records.machine import Machine
from harness.records.run import PlacementProof, ThreadSeen
from harness.units import NS_PER_S, format_cpu_list, parse_cpu_list

# From this many cores on, one is left to the driver: an eighth of the engine's cores or less.
SPARE_CORE_FROM = 8
# A thread that used at least this share of the busiest one's CPU time computes; others only wait.
COMPUTE_SHARE = 0.2


class Placement(Struct, kw_only=True):
    """CPUs of the engine's threads, in order, and those of the driver; `notes` in plain words."""

    cpus: list[int]
    driver: list[int]
    shared: bool
    notes: list[str] = field(default_factory=list)


def _allowed_cores(machine: Machine, only: Sequence[int] | None) -> list[list[int]]:
    """Physical cores as their allowed hardware threads, those of the fullest node first."""
    allowed = set(parse_cpu_list(machine.limits.allowed_cpus))
    if only is not None:
        outside = [cpu for cpu in only if cpu not in allowed]
        if outside:
            raise ArmbenchError(
                f"CPUs {format_cpu_list(outside)} were asked for, but this process may run on "
                f"{format_cpu_list(allowed)}",
                hint="name allowed CPUs, or start outside the cpuset",
            )
        allowed &= set(only)
    cores = [[c for c in core if c in allowed] for core in machine.topology.cores]
    cores = [core for core in cores if core]
    known = {cpu for core in cores for cpu in core}
    cores += [[cpu] for cpu in sorted(allowed - known)]
    nodes = [set(parse_cpu_list(node.cpus)) for node in machine.topology.nodes]
    nodes.sort(key=lambda node: -sum(core[0] in node for core in cores))
    rank = {cpu: index for index, node in enumerate(nodes) for cpu in node}
    return sorted(cores, key=lambda core: rank.get(core[0], 0))  # stable: ids stay in order


def _first_node(machine: Machine, cores: Sequence[Sequence[int]]) -> int:
    """How many of `cores` lie in the node of the first."""
    for node in machine.topology.nodes:
        cpus = set(parse_cpu_list(node.cpus))
        if cores[0][0] in cpus:
            return sum(core[0] in cpus for core in cores)
    return len(cores)


def default_threads(machine: Machine, only: Sequence[int] | None = None) -> int:
    """One thread per allowed physical core of one NUMA node, within the cgroup's quota.

    From `SPARE_CORE_FROM` cores on, one of them is left to the driver, unless other cores are free.
    """
    cores = _allowed_cores(machine, only)
    threads = _first_node(machine, cores)
    if threads == len(cores) >= SPARE_CORE_FROM:
        threads -= 1
    if machine.limits.cpu_quota is not None:
        threads = min(threads, max(1, int(machine.limits.cpu_quota)))
    return threads


def place(machine: Machine, threads: int, only: Sequence[int] | None = None) -> Placement:
    """A CPU for each of `threads` threads, cores before hardware threads, one node before two.

    `only` narrows the CPUs to choose from. Raises ArmbenchError where they are too few.
    """
    cores = _allowed_cores(machine, only)
    order = [core[0] for core in cores] + [cpu for core in cores for cpu in core[1:]]
    if not 1 <= threads <= len(order):
        raise ArmbenchError(
            f"plan asks for {threads} threads, but this process may run on {len(order)} CPUs "
            f"({format_cpu_list(order)})",
            hint="lower `threads`, or start outside the cpuset",
        )
    cpus = order[:threads]
    notes: list[str] = []
    if threads > len(cores):
        notes.append(f"{threads} threads on {len(cores)} physical cores: some share a core")
    elif threads > _first_node(machine, cores):
        notes.append("the threads span more than one NUMA node")
    quota = machine.limits.cpu_quota
    if quota is not None and threads > quota:
        notes.append(f"the cgroup grants {quota:g} CPUs of time, less than {threads} threads")
    return _with_driver(machine, cpus, cores, notes)


def _with_driver(
    machine: Machine, cpus: list[int], cores: Sequence[Sequence[int]], notes: list[str]
) -> Placement:
    used = set(cpus)
    allowed = parse_cpu_list(machine.limits.allowed_cpus)
    siblings = {cpu for core in machine.topology.cores if used & set(core) for cpu in core}
    free = [c for c in allowed if c not in siblings] or [c for c in allowed if c not in used]
    if free:
        return Placement(cpus=cpus, driver=free, shared=False, notes=notes)
    notes.append(
        f"the driver shares the engine's {len(cpus)} CPU(s): none is left, so what it takes "
        "(a few samples a second) is inside the figures"
    )
    return Placement(cpus=cpus, driver=sorted(used), shared=True, notes=notes)


class _Sample(Struct):
    name: str
    affinity: str
    cpu_ns: int
    cpu: int
    migrations: int | None


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


def _cpu_ns(task: Path, stat: Sequence[str]) -> int:
    """CPU time of a thread: exact from schedstat, in ticks of 10 ms where there is none."""
    try:
        return int((task / "schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        ticks = int(stat[11]) + int(stat[12])  # utime, stime: fields 14 and 15 of proc(5)
        return ticks * NS_PER_S // os.sysconf("SC_CLK_TCK")


def _sample_thread(task: Path) -> _Sample | None:
    """One thread as /proc shows it; None where it ended meanwhile."""
    try:
        status = _status_fields((task / "status").read_text())
        stat = (task / "stat").read_text().rpartition(")")[2].split()
        return _Sample(
            name=status.get("Name", "?"),
            affinity=status["Cpus_allowed_list"],
            cpu_ns=_cpu_ns(task, stat),
            cpu=int(stat[36]),  # processor: field 39
            migrations=_migrations(task),
        )
    except (OSError, KeyError, ValueError, IndexError):
        return None


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
        self.tasks = root / "proc" / str(pid) / "task"
        self.asked, self.driver = list(asked), list(driver)
        self.interval_s = interval_s
        self.first: dict[str, _Sample] = {}
        self.last: dict[str, _Sample] = {}
        self.affinities: dict[str, list[str]] = {}
        self.seen: dict[str, list[int]] = {}
        self.samples = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="placement-watch", daemon=True)

    def __enter__(self) -> Watch:
        self.sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.sample()

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
            if now.affinity not in self.affinities.setdefault(task.name, []):
                self.affinities[task.name].append(now.affinity)
            if before is not None and now.cpu_ns > before.cpu_ns:
                self.seen.setdefault(task.name, []).append(now.cpu)

    def proof(self) -> PlacementProof:
        """What was seen, and every fault in plain words."""
        threads, masks = [], []
        for tid, last in self.last.items():
            first = self.first[tid]
            moved = None
            if last.migrations is not None and first.migrations is not None:
                moved = last.migrations - first.migrations
            masks.append(self.affinities[tid])
            threads.append(
                ThreadSeen(
                    name=last.name,
                    affinity=last.affinity,
                    cpu_s=(last.cpu_ns - first.cpu_ns) / NS_PER_S,
                    ran_on=sorted(set(self.seen.get(tid, []))),
                    migrations=moved,
                )
            )
        busiest = max((t.cpu_s for t in threads), default=0.0)
        floor = COMPUTE_SHARE * busiest
        compute = [i for i, t in enumerate(threads) if t.cpu_s >= floor > 0]
        return PlacementProof(
            asked=self.asked,
            driver=self.driver,
            samples=self.samples,
            threads=threads,
            compute=compute,
            faults=faults(self.asked, threads, compute, masks),
        )


def faults(
    asked: Sequence[int],
    threads: Sequence[ThreadSeen],
    compute: Iterable[int],
    masks: Sequence[Sequence[str]],
) -> list[str]:
    """Every way in which `threads` are not where `asked` says; empty is the proof.

    `masks` are all affinities each thread was seen with. A thread may wait anywhere inside the
    engine's CPUs; a thread that computes must be bound to one CPU that no other computes on.
    """
    place = set(asked)
    found: list[str] = []
    for thread, seen in zip(threads, masks, strict=True):
        for mask in seen:
            outside = set(parse_cpu_list(mask)) - place
            if outside:
                found.append(
                    f"thread {thread.name!r} may run on CPUs {mask}, outside the engine's "
                    f"{format_cpu_list(place)}"
                )
    bound: dict[int, int] = {}
    for index in compute:
        cpus = parse_cpu_list(threads[index].affinity)
        if len(cpus) > 1:
            found.append(
                f"compute thread {threads[index].name!r} is not bound to one CPU but to "
                f"{threads[index].affinity}"
            )
        else:
            bound[cpus[0]] = bound.get(cpus[0], 0) + 1
    found += [f"{n} compute threads share CPU {cpu}" for cpu, n in bound.items() if n > 1]
    working = sum(bound.values())
    if threads and not found and working < len(place):
        found.append(f"{len(place)} threads were asked for, {working} computed")
    return found
