"""Which processor this is: MIDR first, then the firmware's name, then where it is sold.

One core is in several products (Neoverse N2 is Yitian 710 and Cobalt 100), so the core alone
never names the product; where the evidence does not single one out, it stays unknown.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from harness.machine.catalogue import X86_VENDORS, Catalogue, Row, part_key
from harness.machine.cpuinfo import Processor, features_of, model_name_of
from harness.machine.smbios import Table
from harness.machine.tree import Tree, integer
from harness.records.machine import Cache, Cloud, Cluster, Cpu, Topology
from harness.units import format_cpu_list

# what hypervisors write into DMI: these say nothing about the processor's maker
GENERIC_VENDORS = ("qemu", "kvm", "xen", "vmware", "innotek", "red hat", "openstack", "bochs")
# brands of Arm servers: a firmware that writes one names the processor
_BRANDS = (
    *("graviton", "yitian", "cobalt", "axion", "grace", "vera", "altra", "ampereone"),
    *("kunpeng", "a64fx", "monaka", "thunderx", "phytium"),
)
# names of QEMU's CPU models: `Intel Xeon Processor (Skylake, IBRS)`, `AMD EPYC-Rome Processor`
_VIRTUAL = re.compile(r"Processor \(|EPYC-[A-Z]|^AMD EPYC Processor$|QEMU|Virtual")
# firmware strings that are a machine type or a placeholder, not a processor
_NO_PROCESSOR = ("virt-", "pc-i440fx", "pc-q35", "qemu", "other", "cpu", "none", "not ")


class Evidence(NamedTuple):
    """What may tell products with the same core apart."""

    table: Table | None
    ids: dict[str, str]
    soc: str | None
    cloud: Cloud
    topology: Topology
    caches: list[Cache]
    known: Catalogue


class Choice(NamedTuple):
    """The id of a product, or its name where our list lacks it; by what it was told, or why not."""

    id: str | None
    because: str
    name: str | None = None


def describe_cpu(
    tree: Tree,
    processors: list[Processor],
    evidence: Evidence,
    unknown: dict[str, str],
) -> Cpu:
    """The processor of this tree; reasons for what stays unknown go to `unknown`."""
    cpu = Cpu(features=features_of(processors), model_name=model_name_of(processors))
    if not cpu.features:
        unknown["cpu.features"] = tree.why("proc/cpuinfo")
    midrs = _midrs(tree, processors, evidence.topology)
    if midrs:
        _describe_arm(tree, cpu, midrs, evidence, unknown)
    elif processors and "vendor" in processors[0].fields:
        _describe_x86(tree, cpu, processors, evidence, unknown)
    else:
        unknown["cpu.core"] = unknown["cpu.product"] = (
            f"no MIDR and no vendor id: {tree.why('proc/cpuinfo')}"
        )
    return cpu


def _midrs(tree: Tree, processors: list[Processor], topology: Topology) -> dict[int, int]:
    """The MIDR by CPU, from /proc/cpuinfo, else from sysfs."""
    found = {p.cpu: m for p in processors if (m := p.midr) is not None}
    if found:
        return found
    folder = "sys/devices/system/cpu"
    for cpu in (c for core in topology.cores for c in core):
        midr = tree.number(f"{folder}/cpu{cpu}/regs/identification/midr_el1")
        if midr is not None and midr > 0:
            found[cpu] = midr & 0xFFFFFFFF
    return found


def _describe_arm(
    tree: Tree,
    cpu: Cpu,
    midrs: dict[int, int],
    evidence: Evidence,
    unknown: dict[str, str],
) -> None:
    cpu.model_name = _firmware_name(evidence.table)  # a kernel's own name is an emulator's
    cpu.clusters = _arm_clusters(tree, midrs, evidence.known)
    main = max(cpu.clusters, key=lambda c: (c.max_mhz or 0, int(c.midr or "0", 16) >> 4 & 0xFFF))
    midr = int(main.midr or "0", 16)
    part = part_key(midr)
    cpu.midr, cpu.core = main.midr, main.core
    if cpu.core is None:
        unknown["cpu.core"] = f"implementer and part {part} are in no list of ours"
    choice = choose(part, evidence)
    if choice.id is not None:
        row = evidence.known.cpu[choice.id]
        cpu.id, cpu.product, cpu.vendor = choice.id, row.product, row.vendor
        cpu.identified_by = f"MIDR {cpu.midr}, {choice.because}"
        return
    cpu.vendor, cpu.product = evidence.known.implementer(part), choice.name
    if choice.name is None:
        unknown["cpu.product"] = choice.because
    else:
        cpu.identified_by = choice.because


def _arm_clusters(tree: Tree, midrs: dict[int, int], known: Catalogue) -> list[Cluster]:
    """CPUs by MIDR, in order of their first CPU."""
    groups: dict[int, list[int]] = {}
    for cpu, midr in midrs.items():
        groups.setdefault(midr, []).append(cpu)
    return [
        Cluster(
            cpus=format_cpu_list(cpus),
            core=known.core_name(part_key(midr)),
            midr=f"0x{midr:08x}",
            max_mhz=max_mhz(tree, cpus[0]),
        )
        for midr, cpus in groups.items()
    ]


def max_mhz(tree: Tree, cpu: int) -> float | None:
    """The highest clock of a CPU in MHz by cpufreq, or None (most guests have no cpufreq)."""
    khz = tree.number(f"sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq")
    return khz / 1000 if khz is not None and khz > 0 else None


def _firmware_name(table: Table | None) -> str | None:
    for processor in table.processors if table else []:
        name = processor.version
        if name and not name.lower().startswith(_NO_PROCESSOR):
            return name
    return None


def choose(part: str, evidence: Evidence) -> Choice:
    """The product among those with this part, by the strongest evidence there is."""
    rows = evidence.known.by_part(part)
    if told := _by_firmware(rows, evidence.table):
        return told
    if not rows:
        return Choice(None, f"no product with part {part} is in our list")
    return (
        _by_part(rows)
        or _by_instance(rows, evidence.cloud)
        or _by_words(rows, evidence)
        or _by_elimination(rows, evidence)
        or _by_cache(rows, evidence)
        or Choice(None, _ambiguous(rows, evidence, evidence.known.core_name(part) or part))
    )


def _by_firmware(rows: dict[str, Row], table: Table | None) -> Choice | None:
    """The row with the longest of its SMBIOS spellings in the firmware's words.

    A processor's brand that no row has is believed as it is written: a product after our list.
    """
    name = _firmware_name(table)
    told = (
        " ".join(f"{p.manufacturer or ''} {p.version or ''}" for p in table.processors[:1])
        if table
        else ""
    )
    fits = [(len(w), c) for c, r in rows.items() for w in r.smbios if w.lower() in told.lower()]
    if fits:
        return Choice(max(fits)[1], f"SMBIOS processor string {name or told.strip()!r}")
    if name and (not rows or any(brand in name.lower() for brand in _BRANDS)):
        return Choice(None, f"SMBIOS processor string {name!r}", name)
    return None


def _by_part(rows: dict[str, Row]) -> Choice | None:
    """The row of a part that is in one product only, wherever that is sold."""
    cpu, row = next(iter(rows.items()))
    return (
        Choice(cpu, "a part of this product only") if len(rows) == 1 and not row.only_at else None
    )


def _by_instance(rows: dict[str, Row], cloud: Cloud) -> Choice | None:
    for cpu, row in rows.items():
        if cloud.instance and cloud.instance.startswith(tuple(row.instances)):
            return Choice(cpu, f"instance type {cloud.instance}")
    return None


def _by_words(rows: dict[str, Row], evidence: Evidence) -> Choice | None:
    """A row whose words, and no sibling's, are in the DMI ids or the SoC id."""
    told = " | ".join([*evidence.ids.values(), evidence.soc or ""]).lower()
    hits = {c: [w for w in row.words if w in told] for c, row in rows.items()}
    found = [c for c, words in hits.items() if words]
    most = [c for c in found if all(set(hits[c]) > set(hits[o]) for o in found if o != c)]
    found = most or _fitting({c: rows[c] for c in found}, evidence)
    if len(found) != 1:
        return None
    return Choice(found[0], f"{hits[found[0]][0]!r} in the DMI or SoC ids")


def _by_elimination(rows: dict[str, Row], evidence: Evidence) -> Choice | None:
    """The only row that can stand at this provider, or on hardware of this vendor."""
    vendor, provider = evidence.ids.get("sys_vendor"), evidence.cloud.provider
    if provider is None and (vendor is None or vendor.lower().startswith(GENERIC_VENDORS)):
        return None
    here = {
        c: r
        for c, r in rows.items()
        if (not r.only_at or provider in r.only_at) and not _other_cache(r, evidence)
    }
    own = {c: r for c, r in here.items() if r.only_at}
    found = _fitting(own, evidence) or _fitting(here, evidence)
    plain = [c for c in found if not rows[c].instances] or found
    if len(plain) != 1:
        return None
    said = f"DMI sys_vendor {vendor!r}" if vendor else f"provider {provider}"
    return Choice(plain[0], said)


def _fitting(rows: dict[str, Row], evidence: Evidence) -> list[str]:
    """The rows that the number of cores in one package leaves."""
    cores = -(-evidence.topology.physical_cores // max(1, evidence.topology.packages))
    found = [
        c
        for c, r in rows.items()
        if cores > (r.over_cores or 0) and cores <= (r.most_cores or cores)
    ]
    special = [c for c in found if rows[c].over_cores]
    return special or found


def _other_cache(row: Row, evidence: Evidence) -> bool:
    """Whether the L2 that is shown is not the row's."""
    size = next((c.size_bytes for c in evidence.caches if c.level == 2), None)
    return row.l2_kib is not None and size is not None and size != row.l2_kib * 1024


def _by_cache(rows: dict[str, Row], evidence: Evidence) -> Choice | None:
    size = next((c.size_bytes for c in evidence.caches if c.level == 2), None)
    for cpu, row in rows.items():
        if row.l2_kib and size == row.l2_kib * 1024 and not _generic(evidence):
            return Choice(cpu, f"L2 of {row.l2_kib} KiB")
    return None


def _generic(evidence: Evidence) -> bool:
    vendor = (evidence.ids.get("sys_vendor") or "").lower()
    return vendor.startswith(GENERIC_VENDORS)


def _ambiguous(rows: dict[str, Row], evidence: Evidence, core: str) -> str:
    names = " or ".join(r.product for r in rows.values())
    vendor = evidence.ids.get("sys_vendor")
    why = f"DMI names {vendor!r}" if vendor else "there are no DMI ids and no SMBIOS table to read"
    return f"{core} is in {names}, and {why}"


def _describe_x86(
    tree: Tree,
    cpu: Cpu,
    processors: list[Processor],
    evidence: Evidence,
    unknown: dict[str, str],
) -> None:
    fields = processors[0].fields
    cpu.vendor = X86_VENDORS.get(fields["vendor"], fields["vendor"][:32] or None)
    cpu.family, cpu.model = integer(fields.get("family")), integer(fields.get("model"))
    cpu.stepping = integer(fields.get("stepping"))
    unknown["cpu.midr"] = "x86 processors have none"
    if cpu.family is not None and cpu.model is not None and cpu.vendor:
        cpu.id = evidence.known.by_model(cpu.vendor, cpu.family, cpu.model, cpu.features)
    if cpu.id is not None:
        row = evidence.known.cpu[cpu.id]
        cpu.product, cpu.core = row.product, row.core
        cpu.identified_by = f"family {cpu.family}, model {cpu.model}"
        if _VIRTUAL.search(cpu.model_name or ""):
            cpu.note = "a hypervisor's CPU model: the hardware may be a later one"
    else:
        cpu.product = cpu.model_name or _firmware_name(evidence.table)
        cpu.identified_by = "the kernel's model name" if cpu.product else None
        unknown["cpu.core"] = f"family {cpu.family}, model {cpu.model} is in no list of ours"
        if cpu.product is None:
            unknown["cpu.product"] = unknown["cpu.core"]
    cpu.clusters = _x86_clusters(tree, cpu, processors)


def _x86_clusters(tree: Tree, cpu: Cpu, processors: list[Processor]) -> list[Cluster]:
    """Performance and efficiency cores of a hybrid; elsewhere one cluster."""
    kinds = {k: tree.cpus(f"sys/devices/cpu_{k}/cpus") for k in ("core", "atom")}
    named = {"core": "performance core", "atom": "efficiency core"}
    if all(kinds.values()):
        return [
            Cluster(cpus=format_cpu_list(cpus), core=named[k], max_mhz=max_mhz(tree, cpus[0]))
            for k, cpus in kinds.items()
            if cpus
        ]
    cpus = [p.cpu for p in processors]
    mhz = max_mhz(tree, cpus[0])
    return [Cluster(cpus=format_cpu_list(cpus), core=cpu.core, max_mhz=mhz)]
