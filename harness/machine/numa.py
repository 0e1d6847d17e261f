"""Memory on chosen nodes, through the system calls themselves, and where its pages lie.

No libnuma: set_mempolicy(2) and get_mempolicy(2) have no wrapper in the C library, so they are
called by number.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import sys
from collections.abc import Iterable, Sequence

from harness.machine.memory import THP, chosen
from harness.machine.topology import NODES
from harness.machine.tree import LARGE, Tree
from harness.records.machine import Machine
from harness.records.run import MemoryPolicy, MemorySeen, NodePages
from harness.units import format_bytes, format_cpu_list, parse_cpu_list

# get_mempolicy, set_mempolicy, migrate_pages: arch/x86/entry/syscalls/syscall_64.tbl and
# include/uapi/asm-generic/unistd.h
_NUMBERS = {"x86_64": (239, 238, 256), "aarch64": (236, 237, 238), "riscv64": (236, 237, 238)}
_POLICIES = ("default", "preferred", "bind", "interleave", "local", "preferred many")
_BIND = 2
_MAX_NODES = 1024
_BITS = 8 * ctypes.sizeof(ctypes.c_ulong)
_WHY = {
    errno.ENOSYS: "this kernel has no memory policies",
    errno.EPERM: "not permitted here: a container's system call filter, as a rule",
    errno.EINVAL: "the kernel knows no memory on these nodes, or the cpuset forbids them",
}
_PAGES = re.compile(r"(?<= )N(\d{1,4})=(\d{1,15})(?!\S)")
_PAGE_SIZE = re.compile(r"(?<= )kernelpagesize_kB=(\d{1,9})(?!\S)")
_HUGE = re.compile(r"^AnonHugePages:\s+(\d{1,15}) kB", re.MULTILINE)
# Up to this share of a process's own pages may lie elsewhere: what was touched before the binding.
_REMOTE_SHARE = 0.05


def memory_nodes(machine: Machine, cpus: Iterable[int]) -> list[int]:
    """The nodes to take memory from for threads on `cpus`; empty where there is nothing to choose.

    That is on a machine with memory on one node, and where a node of these CPUs has none.
    """
    nodes = [n for n in machine.topology.nodes if n.memory_bytes != 0]
    if len(nodes) < 2:
        return []
    place = set(cpus)
    near = [n for n in machine.topology.nodes if place & set(parse_cpu_list(n.cpus))]
    if any(n.memory_bytes == 0 for n in near):
        return []
    return [n.id for n in near]


def bind_memory(nodes: Sequence[int]) -> MemoryPolicy:
    """Takes this process's memory from `nodes` alone from now on, and says what holds.

    What it has touched already moves there. An empty list binds nothing. Never raises: a kernel
    that refuses is part of the answer.
    """
    if not nodes:
        return MemoryPolicy(reason="memory lies on one node: nothing to choose")
    asked = sorted(set(nodes))
    numbers = _NUMBERS.get(os.uname().machine) if sys.platform == "linux" else None
    if numbers is None:
        return MemoryPolicy(nodes=asked, reason="no system call number is known for this system")
    if not all(0 <= node < _MAX_NODES for node in asked):
        return MemoryPolicy(nodes=asked, reason=f"a node number is not below {_MAX_NODES}")
    get, put, migrate = numbers
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    wanted = _mask(asked)
    if call(ctypes.c_long(put), ctypes.c_int(_BIND), wanted, ctypes.c_ulong(_MAX_NODES + 1)) != 0:
        number = ctypes.get_errno()
        words = _WHY.get(number, os.strerror(number))
        return MemoryPolicy(nodes=asked, reason=f"set_mempolicy failed: {words}")
    # best effort: a few MiB of interpreter; the kernel takes no number of a node it does not have
    online = Tree().cpus(f"{NODES}/online") or []
    others = _mask(n for n in online if n not in asked and n < _MAX_NODES)
    call(ctypes.c_long(migrate), ctypes.c_int(0), ctypes.c_ulong(_MAX_NODES + 1), others, wanted)
    return _policy_in_force(call, get, asked)


def _mask(nodes: Iterable[int]) -> ctypes.Array[ctypes.c_ulong]:
    mask = (ctypes.c_ulong * (_MAX_NODES // _BITS))()
    for node in nodes:
        mask[node // _BITS] |= 1 << node % _BITS
    return mask


def _policy_in_force(call: ctypes._NamedFuncPointer, get: int, asked: list[int]) -> MemoryPolicy:
    """The policy as the kernel gives it back."""
    mode, mask = ctypes.c_int(-1), _mask(())
    if call(
        ctypes.c_long(get),
        ctypes.byref(mode),
        mask,
        ctypes.c_ulong(_MAX_NODES + 1),
        ctypes.c_void_p(None),
        ctypes.c_ulong(0),
    ):
        return MemoryPolicy(
            nodes=asked,
            policy="bind",
            reason=f"not read back: {os.strerror(ctypes.get_errno())}",
        )
    kind = mode.value & 0xFF  # above are flags
    name = _POLICIES[kind] if kind < len(_POLICIES) else str(kind)
    held = [n for n in range(_MAX_NODES) if mask[n // _BITS] >> n % _BITS & 1]
    return MemoryPolicy(nodes=asked, policy=f"{name}:{format_cpu_list(held)}")


def read_pages(tree: Tree, pid: int) -> MemorySeen:
    """Where the pages of process `pid` lie now, by node, or the reason why that is not known.

    The kernel walks the whole address space for this: not to be called inside a window.
    """
    seen = MemorySeen(page_bytes=_page_bytes(tree), thp=chosen(tree, f"{THP}/enabled"))
    if (huge := _HUGE.search(tree.text(f"proc/{pid}/smaps_rollup") or "")) is not None:
        seen.huge_bytes = int(huge[1]) * 1024
    text = tree.text(f"proc/{pid}/numa_maps", LARGE)
    if text is None:
        seen.reason = tree.why(f"proc/{pid}/numa_maps")
        return seen
    found: dict[int, NodePages] = {}
    for line in text.splitlines():
        size = _PAGE_SIZE.search(line)
        unit = int(size[1]) * 1024 if size else seen.page_bytes or 4096
        for node, pages in _PAGES.findall(line):
            here = found.setdefault(int(node), NodePages(node=int(node)))
            if " file=" in line:
                here.file_bytes += int(pages) * unit
            else:
                here.own_bytes += int(pages) * unit
    seen.pages = [found[node] for node in sorted(found)]
    if not found:
        seen.reason = f"/proc/{pid}/numa_maps lists no pages"
    return seen


def _page_bytes(tree: Tree) -> int | None:
    return os.sysconf("SC_PAGE_SIZE") if tree.live else None


def remote_pages(asked: Sequence[int], seen: MemorySeen) -> tuple[str | None, str | None]:
    """(fault, warning) about pages outside the nodes `asked` for, with their numbers.

    A process's own memory elsewhere is a fault: its figures are those of remote memory. Files lie
    where their first reader, perhaps another process, ran: a warning.
    """
    if not asked:
        return None, None
    own = {p.node: p.own_bytes for p in seen.pages}
    files = {p.node: p.file_bytes for p in seen.pages}
    return (
        _remote(asked, own, "of the engine's memory"),
        _remote(asked, files, "of the engine's mapped files"),
    )


def _remote(asked: Sequence[int], held: dict[int, int], what: str) -> str | None:
    away = {node: count for node, count in held.items() if node not in asked and count}
    lost, total = sum(away.values()), sum(held.values())
    if lost <= _REMOTE_SHARE * total:
        return None
    return (
        f"{format_bytes(lost)} of {format_bytes(total)} {what} lie on {_nodes(away)}, outside "
        f"{_nodes(asked)}"
    )


def _nodes(nodes: Iterable[int]) -> str:
    listed = list(nodes)
    return f"node{'s' if len(listed) > 1 else ''} {format_cpu_list(listed)}"
