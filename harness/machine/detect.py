"""`detect`: the machine below a root folder, this one's or a captured one's."""

from __future__ import annotations

import os
import re
from pathlib import Path

from harness.errors import ArmbenchError
from harness.machine.caches import read_caches
from harness.machine.catalogue import Catalogue, catalogue, part_key
from harness.machine.cloud import guess_instance, read_cloud
from harness.machine.cpuinfo import Processor, architecture_of, read_processors
from harness.machine.dmi import read_ids, soc_id
from harness.machine.identity import Evidence, describe_cpu
from harness.machine.limits import read_limits
from harness.machine.memory import read_memory
from harness.machine.smbios import Table, read_table
from harness.machine.sve import read_sve
from harness.machine.topology import online_cpus, read_topology
from harness.machine.tree import Tree, clean
from harness.records.machine import Machine, Topology

_SLUG = re.compile(r"[^a-z0-9.]+")
# clouds whose guests see the sharing of hardware threads as it is
_HONEST = {"aws", "gcp", "azure", "alibaba", "oci"}


def detect(root: Path = Path("/"), *, instance: str | None = None) -> Machine:
    """The machine whose `/proc` and `/sys` lie below `root`.

    `instance` is the cloud's instance type where the user gives it. What cannot be read is None,
    with the reason in `unknown`; nothing in the tree makes this raise. Raises ArmbenchError where
    `root` is no folder or configs/cpus.toml is broken.
    """
    if not root.is_dir():
        raise ArmbenchError(
            f"{root} is not a folder", hint="give the folder that holds proc/ and sys/"
        )
    tree = Tree(root)
    if tree.live and not tree.exists("proc/cpuinfo"):
        from harness.machine.elsewhere import detect_without_proc

        return detect_without_proc(instance)
    return describe(tree, instance=instance)


def describe(tree: Tree, *, table: Table | None = None, instance: str | None = None) -> Machine:
    """The machine of a tree; `table` is its SMBIOS table where the tree has none."""
    return _detect(tree, instance, catalogue(), table)


def _detect(
    tree: Tree, instance: str | None, known: Catalogue, told: Table | None = None
) -> Machine:
    unknown: dict[str, str] = {}
    processors, table = read_processors(tree), told or read_table(tree)
    ids = read_ids(tree, table)
    caches = read_caches(tree, online_cpus(tree, processors), unknown)
    topology = read_topology(tree, processors, caches.domains, unknown)
    cloud = read_cloud(ids, instance, unknown)
    evidence = Evidence(table, ids, soc_id(tree), cloud, topology, caches.caches, known)
    cpu = describe_cpu(tree, processors, evidence, unknown)
    row = known.cpu.get(cpu.id) if cpu.id else None
    read_sve(tree, cpu, row, unknown)
    online = [c for core in topology.cores for c in core]
    limits = read_limits(tree, sorted(online), ids, cpu.features, unknown)
    memory = read_memory(tree, topology.nodes, table, row, unknown)
    guess_instance(cloud, cpu.id, topology.cpus, memory.total_bytes, unknown)
    smt = known.smt_core(part_key(int(cpu.midr, 16))) if cpu.midr else True
    honest = limits.hypervisor is None or cloud.provider in _HONEST
    _describe_vcpu(topology, smt, honest, unknown)
    cpu.note = cpu.note or (row.note if row else None)
    machine = Machine(
        architecture=_architecture(tree, processors),
        cpu=cpu,
        topology=topology,
        memory=memory,
        limits=limits,
        cloud=cloud,
        caches=caches.caches,
        kernel=_kernel(tree),
        os=_os(tree),
        unknown=unknown,
    )
    for name in ("architecture", "kernel", "os"):
        if getattr(machine, name) is None:
            unknown[name] = "the captured tree does not tell it"
    return machine


def _architecture(tree: Tree, processors: list[Processor]) -> str | None:
    """Of a live machine what the kernel says, of a captured one what its cpuinfo looks like."""
    return os.uname().machine if tree.live else architecture_of(processors)


def _describe_vcpu(topology: Topology, smt: bool, honest: bool, unknown: dict[str, str]) -> None:
    """Says whether one CPU is a whole core.

    `smt`: such cores can run several threads; `honest`: what this guest sees of that is true.
    """
    if topology.threads_per_core > 1:
        topology.vcpu = "hardware thread"
    elif not smt or honest:
        topology.vcpu = "core"
    else:
        unknown["topology.vcpu"] = (
            "the hypervisor shows one thread per core, but may hide that two share one"
        )


def _kernel(tree: Tree) -> str | None:
    if tree.live:
        return os.uname().release
    words = (tree.line("proc/version") or "").split()
    return tree.line("proc/sys/kernel/osrelease") or (words[2] if len(words) > 2 else None)


def _os(tree: Tree) -> str | None:
    for path in ("etc/os-release", "usr/lib/os-release"):
        for line in (tree.text(path) or "").splitlines():
            if line.startswith("PRETTY_NAME="):
                return clean(line.partition("=")[2].strip("\"'"))
    return None


def machine_slug(machine: Machine) -> str:
    """A folder name for results: `aws-c8g.4xlarge`, else product and size `amd-epyc-turin-2cpu`.

    A guessed instance type is not used: a later, better guess would split the machine in two.
    """
    cloud = machine.cloud
    if cloud.provider and cloud.instance and not cloud.guess:
        return _slug(f"{cloud.provider}-{cloud.instance}")
    name = machine.cpu.product or machine.cpu.core or machine.architecture or "machine"
    where = cloud.provider if cloud.provider and cloud.provider not in name.lower() else ""
    return _slug(f"{where}-{name}-{machine.topology.cpus}cpu")


def _slug(text: str) -> str:
    return _SLUG.sub("-", text.lower()).strip("-.")[:80]
