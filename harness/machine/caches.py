"""Caches and who shares them, from sysfs. Several cloud guests show none."""

from __future__ import annotations

import re
from typing import NamedTuple

from harness.machine.topology import CPUS
from harness.machine.tree import Tree, partition
from harness.records.machine import Cache

_SIZE = re.compile(r"(\d{1,9})([KMG]?)")
_UNIT = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_INDEX = re.compile(r"index\d{1,2}")
_TYPES = {"Data": "data", "Instruction": "instruction", "Unified": "unified"}
_MAX_INDEXES = 16


class CacheMap(NamedTuple):
    """The caches, and the CPUs by domain of the last level (empty where it is not shown)."""

    caches: list[Cache]
    domains: list[list[int]]


class _Kind(NamedTuple):
    level: int
    type: str
    size: int


def read_caches(tree: Tree, online: list[int], unknown: dict[str, str]) -> CacheMap:
    """Every level with its size, number and sharing; what has no size is left out, and said."""
    kinds: dict[tuple[int, str], Cache] = {}
    groups: dict[tuple[int, str], dict[int, list[int]]] = {}
    covered: dict[str, set[int]] = {}
    for cpu in online:
        for index in _indexes(tree, cpu):
            if cpu not in covered.setdefault(index, set()):
                folder = f"{CPUS}/cpu{cpu}/cache/{index}"
                covered[index].update(_note(tree, folder, cpu, kinds, groups))
    shared = {key: partition(online, found) for key, found in groups.items()}
    for key, cache in kinds.items():
        real = [g for g in shared[key] if g[0] in groups[key]]
        cache.instances = len(real)
        cache.shared_by = max(len(g) for g in real)
    if not kinds:
        first = f"{CPUS}/cpu{online[0]}/cache" if online else CPUS
        shown = tree.exists(f"{first}/index0")
        unknown["caches"] = (
            "the cache folders hold no sizes"
            if shown
            else f"{tree.why(first)}; some hypervisors hide it"
        )
    caches = [kinds[key] for key in sorted(kinds)]
    return CacheMap(caches, _domains(shared))


def _indexes(tree: Tree, cpu: int) -> list[str]:
    names = [n for n in tree.names(f"{CPUS}/cpu{cpu}/cache") if _INDEX.fullmatch(n)]
    return names[:_MAX_INDEXES]


def _note(
    tree: Tree,
    folder: str,
    cpu: int,
    kinds: dict[tuple[int, str], Cache],
    groups: dict[tuple[int, str], dict[int, list[int]]],
) -> list[int]:
    """Adds one CPU's cache to the kinds and to the groups that share it; returns the group."""
    level, kind = tree.number(f"{folder}/level"), _TYPES.get(tree.line(f"{folder}/type") or "")
    if level is None or not 0 < level < 10 or kind is None:
        return []
    key = (level, kind)
    if key not in kinds:
        size = _bytes(tree.line(f"{folder}/size"))
        if size is None:
            return []
        kinds[key] = Cache(
            level=level,
            type=kind,
            size_bytes=size,
            instances=0,
            shared_by=1,
            line_bytes=tree.number(f"{folder}/coherency_line_size"),
            ways=tree.number(f"{folder}/ways_of_associativity"),
        )
    group = tree.cpus(f"{folder}/shared_cpu_list") or [cpu]
    groups.setdefault(key, {})[cpu] = group
    return group


def _bytes(text: str | None) -> int | None:
    match = _SIZE.fullmatch(text or "")
    return (int(match[1]) * _UNIT[match[2]] or None) if match else None


def _domains(shared: dict[tuple[int, str], list[list[int]]]) -> list[list[int]]:
    """The groups of the last level, where that is beyond the cores' own caches."""
    own = max((len(g) for key, gs in shared.items() if key[0] == 1 for g in gs), default=2)
    outer = [
        key
        for key, groups in shared.items()
        if key[0] > 2 or (key[0] == 2 and any(len(g) > own for g in groups))
    ]
    return shared[max(outer)] if outer else []
