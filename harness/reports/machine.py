"""The machine on one screen: what it is, what it may use, what state it is in, what is unknown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from textwrap import wrap

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.records.machine import Cache, Conditions, Finding, Machine, Reading
from harness.units import format_bytes, parse_cpu_list

_WIDTH = 96
# features that decide which kernels can run, in the order of their worth; the rest is in --json
_TOLD = (
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16", "sme", "sme2"),
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
)
# reasons that every person can do without; they are in --json
_PLAIN = ("cpu.midr", "cpu.sve_bits", "limits.locked_memory_bytes", "os", "kernel")
_STATE = (  # reading, label, unit
    ("load_1m", "load", ""),
    ("frequency_mhz", "clock", " MHz"),
    ("governor", "governor", ""),
    ("boost", "boost", ""),
    ("temperature_c", "temperature", " °C"),
    ("numa_balancing", "NUMA balancing", ""),
    ("energy_j", "energy", " J"),
)
_MOST_UNKNOWN = 8

Row = tuple[str, str]


def machine_card(machine: Machine, conditions: Conditions | None = None) -> RenderableType:
    """The machine as a table for a terminal, unknowns with their reasons below."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in rows(machine, conditions):
        table.add_row(label, Text(value))
    unknown = Table.grid(padding=(0, 2))
    for name, reason in unknowns(machine):
        unknown.add_row(Text(name, style="dim"), Text(reason, style="dim"))
    head = Text(title(machine), style="bold")
    parts: list[RenderableType] = [head, Padding(table, (0, 0, 0, 2))]
    if unknown.row_count:
        parts += [Text("unknown"), Padding(unknown, (0, 0, 0, 2))]
    return Group(*parts)


def machine_lines(machine: Machine, conditions: Conditions | None = None) -> list[str]:
    """The same as plain lines, for a pipe or a log."""
    lines = [title(machine)]
    for label, value in rows(machine, conditions):
        first, *more = wrap(value, _WIDTH - 14) or [""]
        lines += [f"  {label:<10}  {first}", *(f"{'':14}{line}" for line in more)]
    hidden = [f"  {name}: {reason}" for name, reason in unknowns(machine)]
    return [*lines, *(["unknown"] if hidden else []), *hidden]


def findings_lines(found: Iterable[Finding]) -> list[str]:
    """What disturbs a measurement, worst first, each with what to do about it."""
    lines: list[str] = []
    for finding in found:
        lines.append(f"{finding.severity}: {finding.message}")
        if finding.hint:
            lines.append(f"  hint: {finding.hint}")
    return lines or ["nothing seen that would disturb a measurement"]


def title(machine: Machine) -> str:
    """The product and where it is rented: `AWS Graviton4 · aws c8g.4xlarge`."""
    cpu, cloud = machine.cpu, machine.cloud
    name = cpu.product or " + ".join(dict.fromkeys(c.core for c in cpu.clusters if c.core))
    name = name or (f"unknown processor {cpu.midr}" if cpu.midr else "unknown processor")
    instance = f" {cloud.instance}{' (a guess)' if cloud.guess else ''}" if cloud.instance else ""
    return f"{name} · {cloud.provider or 'no known cloud'}{instance}"


def rows(machine: Machine, conditions: Conditions | None) -> list[Row]:
    """Label and text of every line of the card."""
    found = [
        ("processor", _processor(machine)),
        *_clusters(machine),
        ("features", _features(machine)),
        ("CPUs", _cpus(machine)),
        *_nodes(machine),
        ("caches", ", ".join(map(_cache, machine.caches)) or "not shown"),
        ("memory", _memory(machine)),
        ("limits", _limits(machine)),
        ("system", " · ".join(filter(None, (machine.architecture, machine.kernel, machine.os)))),
    ]
    if conditions is not None:
        found.append(("state", _state(conditions)))
    if machine.cpu.note:
        found.append(("note", machine.cpu.note))
    return [(label, value) for label, value in found if value]


def unknowns(machine: Machine) -> list[Row]:
    """What is not known, with reasons; at most eight, the rest is counted."""
    provider = machine.unknown.get("cloud.provider")
    hidden = {*_PLAIN, *(["cloud.instance"] if provider else [])}
    told = [(n, r) for n, r in machine.unknown.items() if n not in hidden]
    rest = len(told) - _MOST_UNKNOWN
    more = [("…", f"{rest} more in --json")] if rest > 0 else []
    return told[:_MOST_UNKNOWN] + more


def _processor(machine: Machine) -> str:
    cpu = machine.cpu
    parts = [cpu.core or "unknown core", cpu.model_name, f"told by {cpu.identified_by}"]
    if cpu.identified_by is None:
        parts[2] = f"MIDR {cpu.midr}" if cpu.midr else None
    return " · ".join(p for p in parts if p and p != cpu.product)


def _clusters(machine: Machine) -> Iterator[Row]:
    kinds = machine.cpu.clusters
    if len(kinds) > 1:
        said = (
            f"{k.core or k.midr} on {k.cpus}" + (f" up to {k.max_mhz:.0f} MHz" if k.max_mhz else "")
            for k in kinds
        )
        yield "core kinds", "; ".join(said) + " (a run stays inside one)"


def _features(machine: Machine) -> str:
    have = set(machine.cpu.features)
    told = [f for f in _TOLD if f in have]
    sve = f" · SVE vectors of {machine.cpu.sve_bits} bits" if machine.cpu.sve_bits else ""
    rest = len(have) - len(told)
    return " ".join(told) + (f" (+{rest} more)" if rest else "") + sve


def _cpus(machine: Machine) -> str:
    shape = machine.topology
    parts = [
        f"{shape.cpus} on {_many(shape.physical_cores, 'core')}",
        _many(shape.packages, "socket"),
        _many(shape.numa_nodes, "NUMA node"),
        _many(len(shape.llc_domains), "last-level cache domain"),
    ]
    meaning = shape.vcpu and f"a CPU here is a {shape.vcpu}"
    return ", ".join(parts) + (f" · {meaning}" if meaning else "")


def _nodes(machine: Machine) -> Iterator[Row]:
    nodes = [n for n in machine.topology.nodes if n.cpus or n.memory_bytes]
    if len(nodes) > 1:
        said = (
            f"{n.id}: CPUs {n.cpus or 'none'}"
            + (f", {format_bytes(n.memory_bytes)}" if n.memory_bytes else "")
            for n in nodes
        )
        yield "nodes", "; ".join(said)


def _cache(cache: Cache) -> str:
    letter = {"data": "d", "instruction": "i"}.get(cache.type, "")
    size = format_bytes(cache.size_bytes) if cache.size_bytes else "?"
    shared = f" per {cache.shared_by} CPUs" if cache.shared_by > 1 else ""
    return f"L{cache.level}{letter} {size}{shared}"


def _memory(machine: Machine) -> str:
    memory = machine.memory
    speed = f"{memory.dimm_mts} MT/s" if memory.dimm_mts else None
    dimm = " ".join(filter(None, (memory.dimm_type, speed)))
    reserved = [
        f"{count} × {format_bytes(int(size))} pages"
        for size, count in memory.huge_pages.items()
        if count
    ]
    peak = memory.peak_bytes_per_s and (
        f"peak {memory.peak_bytes_per_s / 1e9:.0f} GB/s ({memory.peak_source})"
    )
    parts = [
        format_bytes(memory.total_bytes) if memory.total_bytes else "unknown size",
        dimm,
        memory.page_bytes and f"pages of {format_bytes(memory.page_bytes)}",
        memory.thp and f"huge pages {memory.thp}",
        *reserved,
        peak,
    ]
    return " · ".join(p for p in parts if p)


def _limits(machine: Machine) -> str:
    limits = machine.limits
    allowed = len(parse_cpu_list(limits.allowed_cpus))
    every = allowed == machine.topology.cpus
    parts = [
        "all CPUs" if every else f"{_many(allowed, 'CPU')} ({limits.allowed_cpus})",
        limits.cpu_quota is not None and f"quota of {limits.cpu_quota:g} CPUs",
        limits.memory_bytes is not None and f"memory up to {format_bytes(limits.memory_bytes)}",
        limits.container and f"in a {limits.container} container",
        f"guest of {limits.hypervisor}" if limits.hypervisor else "no hypervisor seen",
    ]
    return " · ".join(p for p in parts if p)


def _state(conditions: Conditions) -> str:
    known = ((label, unit, conditions.readings.get(name)) for name, label, unit in _STATE)
    parts = [f"{label} {_value(r)}{unit}" for label, unit, r in known if r and r.value is not None]
    energy = conditions.readings.get("energy_j")
    if energy and energy.value is None:
        parts.append(f"no energy: {energy.reason}")
    return " · ".join(parts)


def _value(reading: Reading) -> str:
    value = reading.value
    return value if isinstance(value, str) else f"{value:.4g}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
