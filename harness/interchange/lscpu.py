"""A machine from `lscpu -J` and a DMI dump, through the same detection as a live one.

What the two say is written as the files of `/proc` and `/sys` they were read from, in memory, and
read back by `machine.detect`. `lscpu` (util-linux) gives sizes with a unit, or in bytes with `-B`;
older ones give a cache's size by instance. A DMI dump is a list of SMBIOS records with `type` and
`props` (or `values`, as jc writes them).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

from harness.errors import ArmbenchError
from harness.interchange.foreign import kept
from harness.machine.catalogue import catalogue
from harness.machine.detect import describe
from harness.machine.smbios import Dimm, Processor, Table, said
from harness.machine.tree import MAX_CPUS, Tree, clean, integer, number_list
from harness.records.machine import Machine
from harness.units import format_cpu_list

_ARM_VENDORS = {  # as util-linux spells implementers: sys-utils/lscpu-arm.c
    "arm": 0x41,
    "broadcom": 0x42,
    "cavium": 0x43,
    "fujitsu": 0x46,
    "hisilicon": 0x48,
    "nvidia": 0x4E,
    "apm": 0x50,
    "qualcomm": 0x51,
    "samsung": 0x53,
    "marvell": 0x56,
    "apple": 0x61,
    "microsoft": 0x6D,
    "phytium": 0x70,
    "ampere": 0xC0,
}
_CACHES = {
    "L1d": (1, "Data"),
    "L1i": (1, "Instruction"),
    "L2": (2, "Unified"),
    "L3": (3, "Unified"),
}
_CACHE = re.compile(
    r"(\d{1,15}(?:\.\d{1,6})?)\s*(?:([KMG])(?:i?B)?)?\s*(?:\((\d{1,6}) instances?\))?"
)
_UNITS = {None: 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_STEPPING = re.compile(r"r(\d+)p(\d+)")
_SIGNATURE = re.compile(r"Implementor (0x[0-9a-fA-F]+), .*?Part (0x[0-9a-fA-F]+)")
_IDS = {  # name in /sys/class/dmi/id: record type, property
    "bios_vendor": (0, "vendor"),
    "bios_version": (0, "version"),
    "sys_vendor": (1, "manufacturer"),
    "product_name": (1, "product_name"),
    "product_version": (1, "version"),
    "product_family": (1, "family"),
    "board_vendor": (2, "manufacturer"),
    "board_name": (2, "product_name"),
    "chassis_vendor": (3, "manufacturer"),
    "chassis_asset_tag": (3, "asset_tag"),
}
_SILENT = "lscpu and the DMI dump do not tell it"


class _Written(Tree):
    """A tree of files that exist in memory only."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.root, self.live = "", False
        self._files = files
        self._names: dict[str, set[str]] = {}
        for path in files:
            parts = path.split("/")
            for n in range(1, len(parts)):
                self._names.setdefault("/".join(parts[:n]), set()).add(parts[n])

    def data(self, path: str, limit: int = 64 * 1024) -> bytes | None:
        text = self._files.get(path)
        return None if text is None else text.encode()[:limit]

    def names(self, path: str) -> list[str]:
        return sorted(self._names.get(path, ()))

    def exists(self, path: str) -> bool:
        return path in self._files or path in self._names

    def why(self, path: str) -> str:
        return _SILENT


def is_lscpu(value: Any) -> bool:
    """Whether a JSON value is the output of `lscpu -J`."""
    return isinstance(value, dict) and isinstance(value.get("lscpu"), list)


def is_dmi(value: Any) -> bool:
    """Whether a JSON value is a list of SMBIOS records."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(r, dict) and "type" in r and _props(r) is not None for r in value)
    )


def machine(lscpu: Any, dmi: Any = None, *, kernel: str | None = None) -> Machine:
    """The machine that `lscpu -J` and the DMI dump of it describe.

    Raises ArmbenchError where lscpu's output has no number of CPUs, or one that can't be.
    """
    told = _flat(lscpu["lscpu"])
    shape = _shape(told)
    files = dict(_files(told, shape, _part(told, dmi)))
    if kernel:
        files["proc/sys/kernel/osrelease"] = kernel
    found = describe(_Written(files), table=_table(dmi or []))
    unknown = found.unknown
    unknown["memory.total_bytes"] = "lscpu does not tell it"
    unknown["memory.thp"] = unknown["memory.page_bytes"] = _SILENT
    unknown["limits.allowed_cpus"] = "every online CPU assumed: no process was looked at"
    if shape.threads > 1 and not shape.paired:
        unknown["topology.cores"] = (
            "lscpu counts the threads of a core but not which: CPUs n and n + half assumed"
        )
    return found


def _flat(rows: list[Any], depth: int = 0) -> dict[str, str]:
    """Fields of lscpu by name; newer ones nest them."""
    found: dict[str, str] = {}
    for row in rows[:1000] if depth < 8 else []:
        if isinstance(row, dict) and isinstance(row.get("field"), str):
            if isinstance(row.get("data"), str):
                found.setdefault(row["field"].rstrip(":"), row["data"])
            if isinstance(row.get("children"), list):
                found |= _flat(row["children"], depth + 1)
    return found


class _Shape(NamedTuple):
    """Cores and packages as lists of CPUs; `paired` where it is told which CPUs share a core."""

    cpus: list[int]
    cores: list[list[int]]
    packages: list[list[int]]
    nodes: list[list[int]]
    threads: int
    paired: bool


def _shape(told: dict[str, str]) -> _Shape:
    count = integer(told.get("CPU(s)"))
    if count is None or not 0 < count <= MAX_CPUS:
        raise ArmbenchError(
            f"lscpu tells {told.get('CPU(s)')!r:.40} CPUs, expected 1 to {MAX_CPUS}"
        )
    cpus = number_list(told.get("On-line CPU(s) list", "")) or list(range(count))
    threads = integer(told.get("Thread(s) per core")) or 1
    threads = threads if 0 < threads <= 8 and len(cpus) % threads == 0 else 1
    listed = sorted(
        (int(m[1]), c)
        for name, text in told.items()
        if (m := re.fullmatch(r"NUMA node(\d{1,4}) CPU\(s\)", name))
        and (c := [n for n in number_list(text) or [] if n in set(cpus)])
    )
    nodes = [c for _, c in listed] if sum(len(c) for _, c in listed) == len(cpus) else [cpus]
    step = len(cpus) // threads
    far = threads > 1 and any(cpus[0] in n and cpus[step] in n for n in nodes)
    near = threads > 1 and len(nodes) > 1 and not far
    cores = (
        [cpus[n : n + threads] for n in range(0, len(cpus), threads)]
        if near
        else [cpus[n::step] for n in range(step)]
    )
    sockets = integer(told.get("Socket(s)")) or 1
    return _Shape(cpus, cores, _packages(cores, nodes, sockets), nodes, threads, len(nodes) > 1)


def _packages(cores: list[list[int]], nodes: list[list[int]], sockets: int) -> list[list[int]]:
    """CPUs by socket: whole NUMA nodes where they divide evenly, else whole cores in order."""
    parts = nodes if len(nodes) > 1 and len(nodes) % max(sockets, 1) == 0 else cores
    if not 0 < sockets <= len(parts):
        sockets = 1
    each = -(-len(parts) // sockets)
    return [sorted(chain(*parts[n : n + each])) for n in range(0, len(parts), each)]


def _files(told: dict[str, str], shape: _Shape, part: int | None) -> Iterator[tuple[str, str]]:
    """The files below `/proc` and `/sys` that these fields came from."""
    block = _cpuinfo(told, part)
    yield "proc/cpuinfo", "".join(f"processor\t: {cpu}\n{block}\n" for cpu in shape.cpus)
    base = "sys/devices/system"
    yield f"{base}/cpu/online", format_cpu_list(shape.cpus)
    yield f"{base}/node/online", format_cpu_list(range(len(shape.nodes)))
    for number, node in enumerate(shape.nodes):
        yield f"{base}/node/node{number}/cpulist", format_cpu_list(node)
    for group in shape.packages:
        text = format_cpu_list(group)
        for cpu in group:
            yield f"{base}/cpu/cpu{cpu}/topology/package_cpus_list", text
    mhz = clean(told.get("CPU max MHz"))
    for core in shape.cores:
        text = format_cpu_list(core)
        for cpu in core:
            yield f"{base}/cpu/cpu{cpu}/topology/core_cpus_list", text
            if mhz and re.fullmatch(r"\d{2,6}(\.\d{1,6})?", mhz):
                khz = round(float(mhz) * 1000)
                yield f"{base}/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq", str(khz)
    yield from _caches(told, shape, f"{base}/cpu")


def _caches(told: dict[str, str], shape: _Shape, base: str) -> Iterator[tuple[str, str]]:
    """Each level as its instances share it: neighbouring cores, as many for each instance."""
    for index, (name, (level, kind)) in enumerate(_CACHES.items()):
        match = _CACHE.fullmatch((told.get(f"{name} cache") or told.get(name) or "").strip())
        if match is None:
            continue
        total, count = float(match[1]) * _UNITS[match[2]], int(match[3] or 0)
        each = -(-len(shape.cores) // count) if count else 1
        size = total / count if count else total
        for first in range(0, len(shape.cores), each):
            group = sorted(chain(*shape.cores[first : first + each]))
            for cpu in group:
                here = f"{base}/cpu{cpu}/cache/index{index}"
                yield f"{here}/level", str(level)
                yield f"{here}/type", kind
                yield f"{here}/size", f"{round(size / 1024)}K"
                yield f"{here}/shared_cpu_list", format_cpu_list(group)


def _cpuinfo(told: dict[str, str], part: int | None) -> str:
    """One CPU's block of /proc/cpuinfo, as the kernel of that architecture writes it."""

    def line(name: str, field: str) -> str:
        text = clean(told.get(field), 16384)
        return f"{name}\t: {text}\n" if text else ""

    if told.get("Architecture") in ("aarch64", "arm64", "armv8l"):
        stepping = _STEPPING.fullmatch(told.get("Stepping", ""))
        variant, revision = (int(stepping[1]), int(stepping[2])) if stepping else (0, 0)
        ids = (
            ""
            if part is None
            else (
                f"CPU implementer\t: 0x{part >> 12:02x}\nCPU architecture: 8\n"
                f"CPU variant\t: 0x{variant & 15:x}\nCPU part\t: 0x{part & 0xFFF:03x}\n"
                f"CPU revision\t: {revision & 15}\n"
            )
        )
        return line("Features", "Flags") + ids
    return (
        line("vendor_id", "Vendor ID")
        + line("cpu family", "CPU family")
        + line("model", "Model")
        + line("model name", "Model name")
        + line("stepping", "Stepping")
        + line("flags", "Flags")
    )


def _part(told: dict[str, str], dmi: Any) -> int | None:
    """Implementer and part of an Arm core: by the name in lscpu, else by the DMI signature."""
    implementer = _ARM_VENDORS.get(told.get("Vendor ID", "").lower())
    name = told.get("Model name", "").replace("-", " ").lower()
    for key, core in catalogue().cores.items():
        maker, _, part = key.partition(".")
        if core.replace("-", " ").lower() == name and implementer in (None, int(maker, 16)):
            return int(maker, 16) << 12 | int(part, 16)
    for props in _records(dmi or [], 4):
        if match := _SIGNATURE.search(str(props.get("signature", ""))[:200]):
            return (int(match[1], 16) & 0xFF) << 12 | int(match[2], 16) & 0xFFF
    return None


def _props(record: Any) -> dict[str, Any] | None:
    """The properties of a record under lower-case names with underscores."""
    props = record.get("props", record.get("values")) if isinstance(record, dict) else None
    if not isinstance(props, dict):
        return None
    return {str(k).lower().replace(" ", "_"): v for k, v in list(props.items())[:200]}


def _records(dmi: list[Any], kind: int) -> list[dict[str, Any]]:
    found = (_props(r) for r in dmi[:4096] if isinstance(r, dict) and r.get("type") == kind)
    return [props for props in found if props]


def _table(dmi: list[Any]) -> Table | None:
    """What detection uses of an SMBIOS table; no serial numbers, and no asset tag but the chassis'.

    Sizes of DIMMs are left out: a dump may name each kind of DIMM once.
    """
    if not dmi:
        return None
    ids = {}
    for name, (kind, key) in _IDS.items():
        text = next((t for p in _records(dmi, kind) if (t := _said(p.get(key)))), None)
        if text:
            ids[name] = text
    processors = [
        Processor(_said(p.get("manufacturer")), _said(p.get("version"))) for p in _records(dmi, 4)
    ]
    return Table(processors, [_dimm(p) for p in _records(dmi, 17)], ids)


def _said(value: Any) -> str | None:
    return said(str(value)) if isinstance(value, str | int | float) else None


def _dimm(props: dict[str, Any]) -> Dimm:
    """Type and transfers per second: a number is in Hz, a text like `4800 MT/s`."""
    speed, kind = kept(props.get("speed")), _said(props.get("type"))
    if isinstance(speed, str):
        match = re.fullmatch(r"(\d{3,6}) (?:MT/s|MHz)", speed)
        speed = int(match[1]) * 1_000_000 if match else None
    mts = round(speed / 1e6) if isinstance(speed, int | float) and speed > 0 else None
    known = kind if kind and re.fullmatch(r"(LP)?DDR\d|HBM\d?", kind) else None
    return Dimm(known, mts, None)
