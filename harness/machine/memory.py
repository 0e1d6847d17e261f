"""Memory: size, pages, huge pages, DIMMs where the firmware tells, peak with its source."""

from __future__ import annotations

import os
import re

from harness.machine.catalogue import Row
from harness.machine.smbios import TABLE, Dimm, Table
from harness.machine.tree import Tree
from harness.records.machine import Memory, NumaNode

THP = "sys/kernel/mm/transparent_hugepage"
HUGE = "sys/kernel/mm/hugepages"
_FIELD = re.compile(r"^([A-Za-z0-9_()]{1,40}):\s+(\d{1,15})(?: kB)?\s*$", re.MULTILINE)
_CHOSEN = re.compile(r"\[([a-z]{1,20})\]")
_POOL = re.compile(r"hugepages-(\d{1,9})kB")
_CHANNELS = re.compile(r"(\d{1,2}) channels")
# a transparent huge page is one table of 8-byte entries: page² / 8
_PAGE_BY_PMD = {page * page // 8: page for page in (4096, 16384, 65536)}
_BYTES_PER_TRANSFER = 8


def read_memory(
    tree: Tree, nodes: list[NumaNode], table: Table | None, row: Row | None, unknown: dict[str, str]
) -> Memory:
    """What memory there is; `row` is the CPU's row in cpus.toml, for the documented peak."""
    memory = Memory(
        total_bytes=_total(tree, nodes, table, unknown),
        page_bytes=_page(tree),
        thp=chosen(tree, f"{THP}/enabled"),
        huge_pages=_pools(tree),
    )
    if memory.page_bytes is None:
        unknown["memory.page_bytes"] = "a captured tree without transparent huge pages hides it"
    if memory.thp is None:
        unknown["memory.thp"] = tree.why(f"{THP}/enabled")
    _describe_dimms(tree, memory, table, unknown)
    _describe_peak(memory, row, unknown)
    return memory


def meminfo(tree: Tree) -> dict[str, int]:
    """`/proc/meminfo` by name; sizes in bytes, page counts (`HugePages_…`) as they are."""
    found = _FIELD.findall(tree.text("proc/meminfo") or "")
    return {k: int(v) * (1 if k.startswith("HugePages") else 1024) for k, v in found}


def chosen(tree: Tree, path: str) -> str | None:
    """The bracketed word of a sysfs choice such as `always [madvise] never`."""
    match = _CHOSEN.search(tree.line(path) or "")
    return match[1] if match else None


def _total(
    tree: Tree, nodes: list[NumaNode], table: Table | None, unknown: dict[str, str]
) -> int | None:
    """Bytes the kernel has; else of all nodes; else what the firmware says is installed."""
    sources = (
        meminfo(tree).get("MemTotal"),
        sum(n.memory_bytes or 0 for n in nodes),
        sum(d.size_bytes or 0 for d in table.dimms) if table else 0,
    )
    total = next((s for s in sources if s), None)
    if total is None:
        unknown["memory.total_bytes"] = tree.why("proc/meminfo")
    return total


def _page(tree: Tree) -> int | None:
    if tree.live and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE")
    return _PAGE_BY_PMD.get(tree.number(f"{THP}/hpage_pmd_size") or 0)


def _pools(tree: Tree) -> dict[str, int]:
    """Reserved huge pages: page size in bytes -> pages."""
    found: dict[str, int] = {}
    for match in filter(None, map(_POOL.fullmatch, tree.names(HUGE))):
        count = tree.number(f"{HUGE}/{match[0]}/nr_hugepages")
        if count is not None and count >= 0:
            found[str(int(match[1]) * 1024)] = count
    return found


def _describe_dimms(
    tree: Tree, memory: Memory, table: Table | None, unknown: dict[str, str]
) -> None:
    dimms: list[Dimm] = table.dimms if table else []
    memory.dimm_type = next((d.type for d in dimms if d.type), None)
    memory.dimm_mts = next((d.mts for d in dimms if d.mts and 100 < d.mts < 100_000), None)
    if memory.dimm_mts is None:
        unknown["memory.dimm_mts"] = (
            "the firmware does not say" if table else f"SMBIOS: {tree.why(TABLE)}"
        )


def _describe_peak(memory: Memory, row: Row | None, unknown: dict[str, str]) -> None:
    """The theoretical bandwidth of one whole socket, which a guest may have only part of."""
    channels = _CHANNELS.match(row.memory or "") if row else None
    if channels and memory.dimm_mts:
        memory.peak_bytes_per_s = float(
            int(channels[1]) * memory.dimm_mts * 1_000_000 * _BYTES_PER_TRANSFER
        )
        memory.peak_source = (
            f"one socket: {channels[1]} documented channels at {memory.dimm_mts} MT/s by SMBIOS"
        )
    elif row and row.peak_gb_s:
        memory.peak_bytes_per_s = row.peak_gb_s * 1e9
        memory.peak_source = f"one socket: {row.peak_source}"
    else:
        unknown["memory.peak_bytes_per_s"] = "no documented figure for this processor"
