"""Writes a `/proc` and `/sys` tree of a server from a compact description.

`python tests/machine/trees.py NAME FOLDER` writes the tree of `tests/machines/NAME` for
`armbench machine --root FOLDER`.
"""

# a large server has thousands of files, and os is faster than pathlib
# ruff: noqa: PTH103, PTH123
from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from harness.units import format_cpu_list, parse_cpu_list

MACHINES = Path(__file__).resolve().parent.parent / "machines"


class Kind(Struct, forbid_unknown_fields=True, kw_only=True):
    """A cluster of equal cores in a machine that mixes them."""

    cpus: str
    midr: str
    max_khz: int | None = None


class CacheLevel(Struct, forbid_unknown_fields=True, kw_only=True):
    """Every cache of a level and type; `shared` counts neighbouring physical cores."""

    level: int
    type: str
    kib: int
    shared: int = 1


class Firmware(Struct, forbid_unknown_fields=True, kw_only=True):
    """The readable parts of an SMBIOS table."""

    manufacturer: str = ""
    version: str = ""
    sockets: int = 1
    dimm_type: int = 0x07
    dimm_mts: int = 0
    dimm_gib: int = 0


class Description(Struct, forbid_unknown_fields=True, kw_only=True):
    """A server, as far as detection looks at it."""

    source: str
    cpus: int
    features: str
    midr: str | None = None
    kinds: list[Kind] = field(default_factory=list)
    vendor: str | None = None
    family: int | None = None
    model: int | None = None
    stepping: int | None = None
    model_name: str | None = None
    threads_per_core: int = 1
    siblings_far: bool = False  # CPU n and n + half are one core; else n and n + 1
    package_ids: list[int] = field(default_factory=lambda: [0])
    nodes: list[str] = field(default_factory=list)  # kernel lists
    empty_nodes: dict[str, int] = field(default_factory=dict)  # id -> GiB without CPUs
    caches: list[CacheLevel] = field(default_factory=list)
    memory_gib: float = 0
    memory_share: float = 0.96  # what the kernel has left of it
    pmd_kib: int = 2048
    dmi: dict[str, str] = field(default_factory=dict)
    firmware: Firmware | None = None
    soc_id: str | None = None
    sve_bytes: int | None = None
    max_khz: int | None = None
    midr_in_sysfs: bool = True
    files: dict[str, str] = field(default_factory=dict)  # further files, as they are


def load(name: str) -> Description:
    """The description of `tests/machines/<name>`."""
    text = (MACHINES / name / "machine.toml").read_text()
    return msgspec.convert(tomllib.loads(text), Description)


def write_tree(root: Path, server: Description) -> Path:
    """Writes the tree below `root` and returns it."""
    made: set[str] = set()
    for path, content in _files(server):
        folder = f"{root}/{path.rpartition('/')[0]}"
        if folder not in made:
            os.makedirs(folder, exist_ok=True)
            made.add(folder)
        with open(f"{root}/{path}", "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
    return root


def _files(server: Description) -> Iterator[tuple[str, str | bytes]]:
    yield "proc/cpuinfo", cpuinfo(server)
    if server.memory_gib:
        total = int(server.memory_gib * server.memory_share * 1024**2)
        yield "proc/meminfo", f"MemTotal:       {total} kB\nMemFree:        {total} kB\n"
    for name, value in server.dmi.items():
        yield f"sys/class/dmi/id/{name}", f"{value}\n"
    if server.firmware:
        yield "sys/firmware/dmi/tables/DMI", smbios(server)
    if server.soc_id:
        yield "sys/devices/soc0/soc_id", f"{server.soc_id}\n"
    if server.sve_bytes:
        yield "proc/sys/abi/sve_default_vector_length", f"{server.sve_bytes}\n"
    thp = "sys/kernel/mm/transparent_hugepage"
    yield f"{thp}/enabled", "always [madvise] never\n"
    yield f"{thp}/hpage_pmd_size", f"{server.pmd_kib * 1024}\n"
    yield f"sys/kernel/mm/hugepages/hugepages-{server.pmd_kib}kB/nr_hugepages", "0\n"
    yield from _topology(server)
    yield from _nodes(server)
    yield from server.files.items()


def cores(server: Description) -> list[list[int]]:
    """The physical cores as their hardware threads."""
    count, threads = server.cpus, server.threads_per_core
    if server.siblings_far:
        step = count // threads
        return [list(range(n, count, step)) for n in range(step)]
    return [list(range(n, n + threads)) for n in range(0, count, threads)]


def _listed(cpus: list[int]) -> str:
    return _kernel_list(tuple(cpus))


@cache
def _kernel_list(cpus: tuple[int, ...]) -> str:
    return format_cpu_list(cpus) + "\n"


def _topology(server: Description) -> Iterator[tuple[str, str]]:
    base = "sys/devices/system/cpu"
    yield f"{base}/online", f"0-{server.cpus - 1}\n" if server.cpus > 1 else "0\n"
    every = cores(server)
    packages = len(server.package_ids)
    mates: list[list[int]] = [[] for _ in server.package_ids]
    for number, core in enumerate(every):
        mates[number * packages // len(every)] += core
    for number, core in enumerate(every):
        package = number * packages // len(every)
        for cpu in core:
            folder = f"{base}/cpu{cpu}"
            yield f"{folder}/topology/core_cpus_list", _listed(core)
            yield f"{folder}/topology/package_cpus_list", _listed(mates[package])
            yield f"{folder}/topology/physical_package_id", f"{server.package_ids[package]}\n"
            yield from _caches(server, folder, every, number)
            yield from _ids(server, folder, cpu)


def _caches(
    server: Description, folder: str, every: list[list[int]], number: int
) -> Iterator[tuple[str, str]]:
    for index, level in enumerate(server.caches):
        first = number // level.shared * level.shared
        shared = [c for core in every[first : first + level.shared] for c in core]
        here = f"{folder}/cache/index{index}"
        yield f"{here}/level", f"{level.level}\n"
        yield f"{here}/type", f"{level.type}\n"
        yield f"{here}/size", f"{level.kib}K\n"
        yield f"{here}/shared_cpu_list", _listed(shared)
        if number == 0:
            yield f"{here}/coherency_line_size", "64\n"


def _ids(server: Description, folder: str, cpu: int) -> Iterator[tuple[str, str]]:
    midr = midr_of(server, cpu)
    if midr is not None and server.midr_in_sysfs:
        yield f"{folder}/regs/identification/midr_el1", f"0x{midr:016x}\n"
    khz = next((k.max_khz for k in server.kinds if cpu in parse_cpu_list(k.cpus)), server.max_khz)
    if khz:
        yield f"{folder}/cpufreq/cpuinfo_max_freq", f"{khz}\n"
        yield f"{folder}/cpufreq/scaling_cur_freq", f"{khz}\n"
        yield f"{folder}/cpufreq/scaling_governor", "performance\n"


def midr_of(server: Description, cpu: int) -> int | None:
    """The MIDR of one CPU, or None on x86."""
    text = next((k.midr for k in server.kinds if cpu in parse_cpu_list(k.cpus)), server.midr)
    return int(text, 16) if text else None


def _nodes(server: Description) -> Iterator[tuple[str, str]]:
    nodes = [parse_cpu_list(n) for n in server.nodes] or [list(range(server.cpus))]
    base = "sys/devices/system/node"
    every = [*range(len(nodes)), *map(int, server.empty_nodes)]
    yield f"{base}/online", _listed(every)
    for here in every:
        cpus = nodes[here] if here < len(nodes) else []
        yield f"{base}/node{here}/cpulist", _listed(cpus) if cpus else "\n"
        row = " ".join("10" if here == there else "20" for there in every)
        yield f"{base}/node{here}/distance", f"{row}\n"
        gib = server.empty_nodes.get(str(here), server.memory_gib / len(nodes))
        kib = int(gib * server.memory_share * 1024**2)
        yield f"{base}/node{here}/meminfo", f"Node {here} MemTotal:       {kib} kB\n"


def cpuinfo(server: Description) -> str:
    """`/proc/cpuinfo` as the kernel of that architecture prints it."""
    return "".join(_cpuinfo_block(server, cpu) for cpu in range(server.cpus))


def _cpuinfo_block(server: Description, cpu: int) -> str:
    midr = midr_of(server, cpu)
    if midr is not None:
        return (
            f"processor\t: {cpu}\nBogoMIPS\t: 50.00\nFeatures\t: {server.features}\n"
            f"CPU implementer\t: 0x{midr >> 24:02x}\nCPU architecture: 8\n"
            f"CPU variant\t: 0x{midr >> 20 & 15:x}\nCPU part\t: 0x{midr >> 4 & 4095:03x}\n"
            f"CPU revision\t: {midr & 15}\n\n"
        )
    if server.vendor is None:
        return f"processor\t: {cpu}\n\n"
    return (
        f"processor\t: {cpu}\nvendor_id\t: {server.vendor}\ncpu family\t: {server.family}\n"
        f"model\t\t: {server.model}\nmodel name\t: {server.model_name}\n"
        f"stepping\t: {server.stepping}\nflags\t\t: {server.features}\n\n"
    )


def smbios(server: Description) -> bytes:
    """An SMBIOS table with system, processors, one DIMM and the end marker."""
    told, firmware = server.dmi, server.firmware or Firmware()
    system = (told.get("sys_vendor", ""), told.get("product_name", ""))
    parts = [record(1, bytes([1, 2]).ljust(23, b"\0"), *system)]
    processor = bytearray(44)
    processor[0x03], processor[0x0C] = 1, 2  # offsets 0x07 and 0x10 of the whole record
    socket = record(4, bytes(processor), firmware.manufacturer, firmware.version)
    parts += [socket] * firmware.sockets
    if firmware.dimm_gib:
        dimm = bytearray(36)
        dimm[0x08:0x0A] = (0x7FFF).to_bytes(2, "little")
        dimm[0x0E], dimm[0x11:0x13] = firmware.dimm_type, firmware.dimm_mts.to_bytes(2, "little")
        dimm[0x18:0x1C] = (firmware.dimm_gib * 1024).to_bytes(4, "little")
        parts.append(record(17, bytes(dimm)))
    return b"".join([*parts, record(127, b"")])


def record(kind: int, body: bytes, *strings: str) -> bytes:
    """One SMBIOS structure: header, body, strings."""
    head = bytes([kind, 4 + len(body), 0, 0])
    texts = b"".join(s.encode("latin-1") + b"\0" for s in strings if s)
    return head + body + (texts + b"\0" if texts else b"\0\0")


def main(arguments: list[Any]) -> None:
    """Writes the tree of a described machine."""
    name, folder = arguments
    write_tree(Path(folder), load(name))


if __name__ == "__main__":
    main(sys.argv[1:])
