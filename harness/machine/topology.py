"""Packages, cores, hardware threads, last-level-cache domains and NUMA nodes, from sysfs."""

from __future__ import annotations

import re
from typing import NamedTuple

from harness.machine.cpuinfo import Processor
from harness.machine.tree import MAX_CPUS, Tree, integer, number_list, partition
from harness.records.machine import NumaNode, Topology
from harness.units import format_cpu_list

CPUS = "sys/devices/system/cpu"
NODES = "sys/devices/system/node"
_CPU_NAME = re.compile(r"cpu(\d{1,5})")
_NODE_NAME = re.compile(r"node(\d{1,5})")
_MEM_TOTAL = re.compile(r"MemTotal:\s*(\d{1,15}) kB")
_MAX_NODES = 1024


class _Sharing(NamedTuple):
    cores: list[list[int]]
    packages: list[list[int]]


def read_topology(
    tree: Tree, processors: list[Processor], domains: list[list[int]], unknown: dict[str, str]
) -> Topology:
    """How the online CPUs hang together; `domains` are the groups that share the last cache.

    Where nothing is readable one CPU is assumed, and `unknown` says so.
    """
    online = online_cpus(tree, processors)
    if not online:
        online = [0]
        unknown["topology.cpus"] = f"one assumed: {tree.why(f'{CPUS}/online')}"
    sharing = _cores_and_packages(tree, processors, online, unknown)
    nodes = _nodes(tree, online, unknown)
    if not domains:
        domains = [c for n in nodes if (c := number_list(n.cpus))]
        unknown["topology.llc_domains"] = (
            "no last-level cache is shown: one domain per NUMA node assumed"
        )
    return Topology(
        cpus=len(online),
        online=format_cpu_list(online),
        physical_cores=len(sharing.cores),
        threads_per_core=max(len(core) for core in sharing.cores),
        packages=max(1, len(sharing.packages)),
        numa_nodes=sum(bool(n.cpus) for n in nodes),
        cores=sharing.cores,
        llc_domains=[format_cpu_list(d) for d in domains],
        package_cpus=[format_cpu_list(p) for p in sharing.packages],
        nodes=nodes,
    )


def online_cpus(tree: Tree, processors: list[Processor]) -> list[int]:
    """The online CPUs, ascending: by sysfs, else by /proc/cpuinfo, else by sysfs folder names."""
    listed = tree.cpus(f"{CPUS}/online")
    if listed:
        return listed
    if processors:
        return sorted({p.cpu for p in processors if p.cpu < MAX_CPUS})
    folders = (_CPU_NAME.fullmatch(n) for n in tree.names(CPUS))
    return sorted({int(m[1]) for m in folders if m and int(m[1]) < MAX_CPUS})


def _cores_and_packages(
    tree: Tree, processors: list[Processor], online: list[int], unknown: dict[str, str]
) -> _Sharing:
    cores = _groups(tree, online, ("core_cpus_list", "thread_siblings_list"))
    packages = _groups(tree, online, ("package_cpus_list", "core_siblings_list"))
    if cores is None:
        cores, packages = _by_id(_ids_in_sysfs(tree, online) or _ids_in_cpuinfo(processors), online)
        if cores is None:
            reason = tree.why(f"{CPUS}/cpu{online[0]}/topology/core_cpus_list")
            unknown["topology.physical_cores"] = f"one thread per core assumed: {reason}"
            cores = [[c] for c in online]
    return _Sharing(cores, packages or [])


def _groups(tree: Tree, online: list[int], names: tuple[str, str]) -> list[list[int]] | None:
    """Online CPUs in the groups that one of two files in each CPU's topology folder lists.

    The ids beside them are not used: with ACPI they are table offsets, elsewhere -1.
    """
    for name in names:
        if tree.exists(f"{CPUS}/cpu{online[0]}/topology/{name}"):
            break
    else:
        return None
    groups: dict[int, list[int]] = {}
    covered: set[int] = set()
    for cpu in online:
        if cpu not in covered:
            members = tree.cpus(f"{CPUS}/cpu{cpu}/topology/{name}") or [cpu]
            groups[cpu] = members
            covered.update(members if cpu in members else [cpu])
    return partition(online, groups)


_Ids = dict[int, tuple[int | None, int | None]]


def _ids_in_sysfs(tree: Tree, online: list[int]) -> _Ids:
    """Package and core id by CPU, where sysfs has ids but no lists; empty without them."""
    if not tree.exists(f"{CPUS}/cpu{online[0]}/topology/core_id"):
        return {}
    folders = ((c, f"{CPUS}/cpu{c}/topology") for c in online)
    return {
        c: (tree.number(f"{f}/physical_package_id"), tree.number(f"{f}/core_id"))
        for c, f in folders
    }


def _ids_in_cpuinfo(processors: list[Processor]) -> _Ids:
    """Package and core id by CPU, as an x86 /proc/cpuinfo lists them."""
    read = integer
    return {p.cpu: (read(p.fields.get("package")), read(p.fields.get("core"))) for p in processors}


def _by_id(ids: _Ids, online: list[int]) -> tuple[list[list[int]] | None, list[list[int]] | None]:
    """Cores and packages of CPUs with equal ids, or None where a CPU has none."""
    if not all(cpu in ids and None not in ids[cpu] for cpu in online):
        return None, None
    cores: dict[object, list[int]] = {}
    packages: dict[object, list[int]] = {}
    for cpu in online:
        cores.setdefault(ids[cpu], []).append(cpu)
        packages.setdefault(ids[cpu][0], []).append(cpu)
    return list(cores.values()), list(packages.values())


def _nodes(tree: Tree, online: list[int], unknown: dict[str, str]) -> list[NumaNode]:
    """Every NUMA node the kernel shows; without any, one node with every CPU."""
    ids = tree.cpus(f"{NODES}/online")
    if ids is None:
        ids = sorted(int(m[1]) for n in tree.names(NODES) if (m := _NODE_NAME.fullmatch(n)))
    present = set(online)
    nodes = [_node(tree, node, present) for node in ids[:_MAX_NODES]]
    if not any(n.cpus for n in nodes):
        unknown["topology.nodes"] = f"one NUMA node assumed: {tree.why(NODES)}"
        return [NumaNode(id=0, cpus=format_cpu_list(online))]
    return nodes


def _node(tree: Tree, node: int, online: set[int]) -> NumaNode:
    folder = f"{NODES}/node{node}"
    cpus = [c for c in tree.cpus(f"{folder}/cpulist") or [] if c in online]
    total = _MEM_TOTAL.search(tree.text(f"{folder}/meminfo") or "")
    distances = [integer(d) for d in (tree.line(f"{folder}/distance") or "").split()]
    return NumaNode(
        id=node,
        cpus=format_cpu_list(cpus),
        memory_bytes=int(total[1]) * 1024 if total else None,
        distances=[d for d in distances if d is not None],
    )
