"""Who runs where: from a machine's topology and a wish to CPUs for every thread.

Whether the threads really went there is `proof`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec import Struct, field
from msgspec.structs import replace

from harness.errors import ArmbenchError
from harness.machine.numa import memory_nodes
from harness.machine.wish import Wish
from harness.records.machine import Cluster, Machine
from harness.records.run import Places
from harness.units import format_cpu_list, parse_cpu_list

# From this many cores on, one is left to the driver: an eighth of the engine's cores or less.
SPARE_CORE_FROM = 8
_WHOLE = Wish("compact")


class Instance(Struct, kw_only=True):
    """One engine process: a CPU for each of its threads, in order.

    `memory_nodes` is where its memory is bound; empty where the machine has one node only.
    """

    cpus: list[int]
    memory_nodes: list[int] = field(default_factory=list)


class Placement(Struct, kw_only=True):
    """Instances and the CPUs that are left to the driver; `notes` in plain words."""

    wish: str
    instances: list[Instance]
    driver: list[int]
    shared: bool
    notes: list[str] = field(default_factory=list)

    @property
    def cpus(self) -> list[int]:
        """CPUs of the first instance's threads, in order."""
        return self.instances[0].cpus


class _Core(NamedTuple):
    """A physical core by its allowed hardware threads, and where it lies."""

    cpus: tuple[int, ...]
    node: int
    domain: int


_Cores = list[_Core]


def default_threads(machine: Machine, wish: Wish = _WHOLE, instances: int = 1) -> int:
    """Threads of each instance: one per allowed physical core, within the cgroup's quota.

    One instance has those of one NUMA node; several have as many as let each of them stay inside
    one. From `SPARE_CORE_FROM` cores of an instance on, one of each is left, for the driver,
    unless other cores are free, or `numa` asks for whole nodes. Where the wish names CPUs: as many
    threads as the first instance has CPUs, or as a single list has for each.
    """
    if wish.lists is not None:
        alone = len(wish.lists) == 1
        return max(1, len(wish.lists[0]) // (instances if alone else 1))
    every = _allowed_cores(machine)
    nodes = [len(node) for node in _by_node(_one_kind(machine, every, 1))]
    sizes = range(nodes[0], 1, -1)
    numa = wish.name == "numa"
    threads = next((n for n in sizes if _room(nodes, n, numa=numa) >= instances), 1)
    whole_nodes = numa and instances > 1
    if threads >= SPARE_CORE_FROM and threads * instances == len(every) and not whole_nodes:
        threads -= 1
    if machine.limits.cpu_quota is not None:
        threads = min(threads, max(1, int(machine.limits.cpu_quota) // instances))
    return threads


def _room(nodes: Sequence[int], size: int, *, numa: bool) -> int:
    """Instances of `size` cores that nodes of so many cores hold; by `numa` one in each."""
    return sum(min(1, cores // size) if numa else cores // size for cores in nodes)


def default_instances(machine: Machine, wish: Wish) -> int:
    """One; by the wish `numa` one for each node, by a file as many as it lists."""
    if wish.lists is not None:
        return len(wish.lists)
    cores = _one_kind(machine, _allowed_cores(machine), 1)
    return len(_by_node(cores)) if wish.name == "numa" else 1


def place(machine: Machine, threads: int, wish: Wish = _WHOLE, instances: int = 1) -> Placement:
    """A CPU for each of `threads` threads of each of `instances` instances.

    Chosen by us, threads get a physical core each as long as there are enough, and an instance
    stays inside one NUMA node as long as it fits into any. Raises ArmbenchError where the CPUs are
    too few, or the instances do not fit into the nodes.
    """
    chosen = _place_each(machine, threads, wish, instances)
    driver, shared, notes = _driver(machine, wish, {cpu for cpus in chosen for cpu in cpus})
    return Placement(
        wish=wish.name,
        instances=[
            Instance(cpus=cpus, memory_nodes=memory_nodes(machine, cpus)) for cpus in chosen
        ],
        driver=driver,
        shared=shared,
        notes=_notes(machine, chosen) + notes,
    )


def _place_each(machine: Machine, threads: int, wish: Wish, instances: int) -> list[list[int]]:
    """The CPUs of each instance. Raises ArmbenchError where they do not fit."""
    if threads < 1 or instances < 1:
        raise ArmbenchError(
            f"{instances} × {threads} threads", hint="ask for one instance and one thread or more"
        )
    if wish.lists is not None:
        return _as_listed(machine, wish, threads, instances)
    return _chosen(machine, wish, threads, instances)


class Layout(Struct, kw_only=True):
    """CPUs for every shape of a plan, and for its driver; `notes` in plain words."""

    places: list[Places]
    driver: list[int]
    notes: list[str]

    @property
    def cpus(self) -> list[int]:
        """Every CPU that an engine thread has in any shape, in order."""
        return list(dict.fromkeys(c for one in self.places for cpus in one.cpus for c in cpus))


def lay_out(machine: Machine, shapes: Iterable[tuple[int, int]], wish: Wish = _WHOLE) -> Layout:
    """A placement of every (threads, instances) in `shapes`, the driver outside all of them.

    A single instance takes the first CPUs of the largest one, so that fewer threads are a part of
    more, unless cores of a stronger kind are enough for it. What does not fit is left out with a
    note. Raises ArmbenchError where nothing fits.
    """
    places: list[Places] = []
    notes: list[str] = []
    refused: list[ArmbenchError] = []
    largest: list[int] = []
    ordered = sorted(set(shapes), key=lambda shape: (shape[1], -shape[0]))
    for threads, instances in ordered:
        if instances == 1 and largest and _same_kind(machine, wish, threads, len(largest)):
            places.append(Places(threads=threads, instances=1, cpus=[largest[:threads]]))
            continue
        try:
            cpus = _place_each(machine, threads, wish, instances)
        except ArmbenchError as error:
            refused.append(error)
            notes.append(f"{shape_text(threads, instances)} left out: {error.message}")
            continue
        largest = largest or cpus[0]
        places.append(Places(threads=threads, instances=instances, cpus=cpus))
        head = "" if instances == 1 else f"{shape_text(threads, instances)}: "
        notes += [head + note for note in _notes(machine, cpus)]
    if not places:
        raise refused[0]
    used = {cpu for one in places for cpus in one.cpus for cpu in cpus}
    driver, _, said = _driver(machine, wish, used)
    places.sort(key=lambda one: (one.instances, -one.threads))
    return Layout(places=places, driver=driver, notes=notes + said)


def lay_out_each(machine: Machine, shapes: Iterable[tuple[int, int]], wish: Wish) -> Layout:
    """Every shape where a plan of that shape alone has it, with its driver: they run in turn.

    The layout's own driver is outside all of them, as far as there is room. Raises ArmbenchError
    where one does not fit.
    """
    places: list[Places] = []
    said: dict[str, list[str]] = {}
    for shape in sorted(set(shapes), key=lambda shape: (shape[1], -shape[0])):
        alone = lay_out(machine, [shape], wish)
        places.append(replace(alone.places[0], driver=alone.driver))
        text = shape_text(*shape)
        for note in alone.notes:
            said.setdefault(note.removeprefix(f"{text}: "), []).append(text)
    used = {cpu for one in places for cpus in one.cpus for cpu in cpus}
    driver, _, _ = _driver(machine, wish, used)
    notes = [f"{', '.join(which)}: {note}" for note, which in said.items()]
    return Layout(places=places, driver=driver, notes=notes)


def _same_kind(machine: Machine, wish: Wish, threads: int, more: int) -> bool:
    """Whether `threads` threads have cores of the same kind as `more` have."""
    if wish.lists is not None:
        return True
    every = _allowed_cores(machine)
    return _one_kind(machine, every, threads) == _one_kind(machine, every, more)


def shape_text(threads: int, instances: int) -> str:
    """`2 threads`, `4 × 2 threads`."""
    return f"{threads} threads" if instances == 1 else f"{instances} × {threads} threads"


# From names to CPUs


def _as_listed(machine: Machine, wish: Wish, threads: int, instances: int) -> list[list[int]]:
    """The CPUs that the wish lists: a file's by instance, a single list cut into equal parts."""
    lists = wish.lists or []
    named = [cpu for cpus in [*lists, wish.driver or []] for cpu in cpus]
    allowed = set(parse_cpu_list(machine.limits.allowed_cpus))
    if outside := [cpu for cpu in named if cpu not in allowed]:
        raise ArmbenchError(
            f"CPUs {format_cpu_list(outside)} were asked for, but this process may run on "
            f"{format_cpu_list(allowed)}",
            hint="name allowed CPUs, or start outside the cpuset",
        )
    if len(lists) == 1:
        flat = lists[0]
        lists = [flat[n * threads : (n + 1) * threads] for n in range(instances)]
    short = [cpus for cpus in lists[:instances] if len(cpus) < threads]
    if short or len(lists) < instances:
        named_here = ", ".join(str(len(cpus)) for cpus in wish.lists or [])
        raise ArmbenchError(
            f"plan asks for {shape_text(threads, instances)}, but placement {wish.name} names "
            f"{named_here} CPUs",
            hint="lower `threads`, or name more CPUs",
        )
    return [cpus[:threads] for cpus in lists[:instances]]


# From topology to CPUs


def _allowed_cores(machine: Machine) -> _Cores:
    """Physical cores by their allowed hardware threads, those of the fullest node first."""
    allowed = set(parse_cpu_list(machine.limits.allowed_cpus))
    groups = [[c for c in core if c in allowed] for core in machine.topology.cores]
    known = {cpu for core in groups for cpu in core}
    groups += [[cpu] for cpu in sorted(allowed - known)]
    node_of = _index(node.cpus for node in machine.topology.nodes)
    domain_of = _index(machine.topology.llc_domains)
    cores = [
        _Core(tuple(core), node_of.get(core[0], -1), domain_of.get(core[0], -1))
        for core in groups
        if core
    ]
    sizes = {node: sum(core.node == node for core in cores) for node in {c.node for c in cores}}
    return sorted(cores, key=lambda core: (-sizes[core.node], core.node))  # stable: ids in order


def _index(lists: Iterable[str]) -> dict[int, int]:
    """The number of the list that each CPU is in."""
    return {cpu: n for n, text in enumerate(lists) for cpu in parse_cpu_list(text)}


def _by_node(cores: _Cores) -> list[_Cores]:
    """`cores` by node, the fullest first."""
    found: dict[int, _Cores] = {}
    for core in cores:
        found.setdefault(core.node, []).append(core)
    return sorted(found.values(), key=len, reverse=True)


def _one_kind(machine: Machine, cores: _Cores, cpus: int) -> _Cores:
    """The cores of one cluster: the strongest that has `cpus` CPUs. Raises where none has."""
    kinds = [_of_cluster(cores, cluster) for cluster in _strongest_first(machine)]
    kinds = [kind for kind in kinds if kind]
    if len(kinds) < 2:
        return cores
    for kind in kinds:
        if sum(len(core.cpus) for core in kind) >= cpus:
            return kind
    sizes = ", ".join(str(sum(len(core.cpus) for core in kind)) for kind in kinds)
    raise ArmbenchError(
        f"plan asks for {cpus} threads, but the kinds of cores here have {sizes} CPUs, and a run "
        "stays inside one kind",
        hint="lower `threads`, or name the CPUs with `placement` to mix them",
    )


def _strongest_first(machine: Machine) -> list[Cluster]:
    main = machine.cpu.midr
    return sorted(
        machine.cpu.clusters,
        key=lambda c: (c.max_mhz or 0, c.midr == main and main is not None),
        reverse=True,
    )


def _of_cluster(cores: _Cores, cluster: Cluster) -> _Cores:
    inside = set(parse_cpu_list(cluster.cpus))
    return [core for core in cores if core.cpus[0] in inside]


def _chosen(machine: Machine, wish: Wish, threads: int, instances: int) -> list[list[int]]:
    every = _allowed_cores(machine)
    total = threads * instances
    there = [cpu for core in every for cpu in core.cpus]
    if total > len(there):
        raise ArmbenchError(
            f"plan asks for {shape_text(threads, instances)}, but this process may run on "
            f"{len(there)} CPUs ({format_cpu_list(there)})",
            hint="lower `threads`, or start outside the cpuset",
        )
    cores = _one_kind(machine, every, total)
    for size in _core_counts(cores, threads, instances):
        packed = _pack(cores, size, instances, wish.name)
        if packed is not None and all(_threads_of(part) >= threads for part in packed):
            return [_in_order(part)[:threads] for part in packed]
    if total > len(cores):  # whole cores are too coarse: instances share some
        packed = _pack(_single_threads(cores), threads, instances, wish.name)
        if packed is not None:
            return [_in_order(part) for part in packed]
    sizes = ", ".join(str(len(node)) for node in _by_node(cores))
    raise ArmbenchError(
        f"{shape_text(threads, instances)} do not fit: an instance stays inside one NUMA node, and "
        f"the nodes have {sizes} cores for placement {wish.name}",
        hint="take fewer threads or instances, or name the CPUs with `placement`",
    )


def _core_counts(cores: _Cores, threads: int, instances: int) -> Iterable[int]:
    """How many cores to try for each instance: one per thread, fewer only where they lack."""
    if threads * instances <= len(cores):
        return [threads]
    least = -(-threads // max(len(core.cpus) for core in cores))
    return range(min(threads, len(cores) // instances), least - 1, -1)


def _single_threads(cores: _Cores) -> _Cores:
    """Every hardware thread as if it were a core, the first ones of all cores first."""
    deepest = max(len(core.cpus) for core in cores)
    return [
        core._replace(cpus=(core.cpus[n],))
        for n in range(deepest)
        for core in cores
        if n < len(core.cpus)
    ]


def _threads_of(cores: _Cores) -> int:
    return sum(len(core.cpus) for core in cores)


def _in_order(cores: _Cores) -> list[int]:
    """CPUs of `cores`: the first hardware thread of each, then the second of each."""
    deepest = max(len(core.cpus) for core in cores)
    return [core.cpus[n] for n in range(deepest) for core in cores if n < len(core.cpus)]


def _pack(cores: _Cores, size: int, instances: int, how: str) -> list[_Cores] | None:
    """`size` cores for each instance, or None where the nodes have no room for one."""
    nodes = _by_node(cores)
    largest = len(nodes[0])
    used: list[list[_Cores]] = [[] for _ in nodes]  # instances by node
    packed: list[_Cores] = []
    for _ in range(instances):
        room = [n for n, node in enumerate(nodes) if len(node) >= size]
        if how == "numa":
            room = [n for n in room if not used[n]]
        elif how == "spread":
            room.sort(key=lambda n: len(used[n]))
        if room:
            node = room[0]
            part = _from_node(nodes[node], size, how, alone=instances == 1, others=used[node])
            used[node].append(part)
        elif size > largest and how != "numa":
            part = _across(nodes, size)
        else:
            return None
        taken = set(part)
        nodes = [[core for core in node if core not in taken] for node in nodes]
        packed.append(part)
    return packed


def _across(nodes: list[_Cores], size: int) -> _Cores:
    """Cores of as few nodes as possible, for an instance that is larger than any node."""
    fullest = sorted(nodes, key=len, reverse=True)
    return [core for node in fullest for core in node][:size]


def _from_node(
    node: _Cores, size: int, how: str, *, alone: bool, others: Sequence[_Cores]
) -> _Cores:
    """`size` cores of one node: of one domain if that has room, else of as few as possible.

    By the wish `spread` an instance takes the domain with the fewest others, and a single one's
    threads take the domains in turn.
    """
    domains: dict[int, _Cores] = {}
    for core in node:
        domains.setdefault(core.domain, []).append(core)
    if how == "spread" and alone:
        rounds = max(map(len, domains.values()))
        turns = [d[n] for n in range(rounds) for d in domains.values() if n < len(d)]
        return turns[:size]
    room = [d for d in domains.values() if len(d) >= size]
    if how == "spread":
        room.sort(key=lambda d: sum(d[0].domain == core.domain for o in others for core in o))
    if room:
        return room[0][:size]
    part: _Cores = []
    left = list(domains.values())
    while len(part) < size:
        rest = size - len(part)
        enough = [d for d in left if len(d) >= rest]
        domain = min(enough, key=len) if enough else max(left, key=len)
        part += domain[:rest]
        left.remove(domain)
    return part


# What is left, and what to say of it


def _driver(machine: Machine, wish: Wish, used: set[int]) -> tuple[list[int], bool, list[str]]:
    """(CPUs of the driver, whether engine threads have some of them, notes)."""
    driver = wish.driver or _free(machine, used)
    notes = []
    shared = not driver or bool(used & set(driver))
    if shared:
        notes.append(
            f"the driver shares the engine's {len(used)} CPU(s): none is left, so what it takes "
            "(a few samples a second) is inside the figures"
            if not driver
            else f"the driver shares CPUs {format_cpu_list(used & set(driver))} with the engine, "
            "as asked"
        )
    elif set(driver) & _siblings(machine, used):
        notes.append("the driver runs on hardware threads of the engine's cores: none is free")
    return driver or sorted(used), shared, notes


def _siblings(machine: Machine, used: set[int]) -> set[int]:
    """Every hardware thread of the cores that `used` CPUs belong to."""
    return {cpu for core in machine.topology.cores if used & set(core) for cpu in core}


def _free(machine: Machine, used: set[int]) -> list[int]:
    """CPUs for the driver: outside the engine's LLC domains, else its cores, else its CPUs."""
    allowed = parse_cpu_list(machine.limits.allowed_cpus)
    domains = [set(parse_cpu_list(d)) for d in machine.topology.llc_domains]
    near = {cpu for domain in domains if domain & used for cpu in domain}
    siblings = _siblings(machine, used)
    for taken in (near | siblings | used, siblings | used, used):
        if free := [cpu for cpu in allowed if cpu not in taken]:
            return free
    return []


def _notes(machine: Machine, chosen: list[list[int]]) -> list[str]:
    """What a reader of the figures must know of this placement."""
    total = sum(map(len, chosen))
    every = {cpu for cpus in chosen for cpu in cpus}
    notes: list[str] = []
    cores = sum(bool(every & set(core)) for core in machine.topology.cores)
    known = {cpu for core in machine.topology.cores for cpu in core}
    cores += len(every - known)
    if total > cores:
        notes.append(f"{total} threads on {cores} physical cores: some share a core")
    node_of = _index(node.cpus for node in machine.topology.nodes)
    wide = [n for n, cpus in enumerate(chosen) if len({node_of.get(c, -1) for c in cpus}) > 1]
    if wide and len(chosen) == 1:
        notes.append("the threads span more than one NUMA node")
    elif wide:
        notes.append(f"{len(wide)} of {len(chosen)} instances span more than one NUMA node")
    kind_of = _index(cluster.cpus for cluster in machine.cpu.clusters)
    if len({kind_of.get(c, -1) for c in every}) > 1:
        notes.append("the threads are on cores of different kinds: the slowest sets the pace")
    quota = machine.limits.cpu_quota
    if quota is not None and total > quota:
        notes.append(f"the cgroup grants {quota:g} CPUs of time, less than {total} threads")
    return notes
