"""Processes below a process, as /proc shows them."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct


class Process(Struct, kw_only=True):
    """One process of a server. `cpu_s` is the CPU time it has used."""

    pid: int
    parent: int
    name: str
    state: str
    cpu_s: float


def below(root: int) -> list[Process]:
    """Every process that descends from process `root`, those that have ended left out."""
    found: dict[int, list[Process]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and (process := read_process(int(entry.name))):
            found.setdefault(process.parent, []).append(process)
    result: list[Process] = []
    open_ = [root]
    while open_:
        children = found.pop(open_.pop(), [])
        open_ += [child.pid for child in children]
        result += [child for child in children if child.state not in "ZX"]
    return result


def read_process(pid: int) -> Process | None:
    """Process `pid` as /proc/PID/stat shows it, see proc(5); None where there is none."""
    try:
        head, _, tail = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
        fields = tail.split()
        return Process(
            pid=pid,
            parent=int(fields[1]),
            name=head.partition("(")[2],
            state=fields[0],
            cpu_s=(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
        )
    except (OSError, ValueError, IndexError):
        return None
