"""The state of the machine at one instant: counters and settings, cheap enough for every trial.

Counters grow from boot; `judge` (in judge.py) takes their differences.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harness.machine.energy import read_energy, read_temperature
from harness.machine.judge import judge
from harness.machine.limits import cgroup_of
from harness.machine.memory import THP, chosen, meminfo
from harness.machine.topology import CPUS
from harness.machine.tree import LARGE, Tree, clean, integer
from harness.records.machine import Conditions, Reading

__all__ = ["judge", "read_conditions"]

_TICKS = 100  # USER_HZ of every Linux architecture armbench runs on; asked for on live machines
_NS = 1e9
_SAMPLED = 4  # reading a clock can cost an interrupt on that CPU
_MHZ = re.compile(r"^cpu MHz\s*:\s*(\d{1,6}(?:\.\d{1,6})?)", re.MULTILINE)
_PSI = re.compile(r"^some .*\btotal=(\d{1,18})", re.MULTILINE)
_STAT = re.compile(r"^(cpu\d{0,5}) ([\d ]{1,400})$", re.MULTILINE)
_VMSTAT = ("pswpin", "pswpout", "pgmajfault", "pgfault", "thp_fault_alloc", "numa_pages_migrated")

Readings = dict[str, Reading]


def read_conditions(root: Path = Path("/"), cpus: Sequence[int] | None = None) -> Conditions:
    """The state now. `cpus` narrows clocks and CPU time to these CPUs; default: all of them.

    Every reading has its source, or None and the reason. Times are seconds, sizes bytes.
    """
    tree = Tree(root)
    at_ns = time.monotonic_ns()
    readings: Readings = {}
    _read_load(tree, readings)
    _read_cpu_time(tree, cpus, readings)
    _read_clocks(tree, cpus, readings)
    _read_throttling(tree, cpus, readings)
    _read_paging(tree, readings)
    _read_pressure(tree, readings)
    _read_settings(tree, readings)
    readings["temperature_c"] = read_temperature(tree)
    readings["energy_j"] = read_energy(tree)
    return Conditions(at_ns=at_ns, readings=readings)


def found(value: float | str | None, tree: Tree, path: str) -> Reading:
    """A reading from `path`, or why it is missing."""
    if value is None:
        return Reading(reason=tree.why(path))
    return Reading(value=value, source=f"/{path}")


def _read_load(tree: Tree, readings: Readings) -> None:
    words = (tree.line("proc/loadavg") or "").split()
    match = re.fullmatch(r"\d{1,9}\.\d{1,6}", words[0]) if words else None
    readings["load_1m"] = found(float(match[0]) if match else None, tree, "proc/loadavg")


class _Times(NamedTuple):
    """Seconds since boot, summed over CPUs."""

    busy: float
    steal: float
    iowait: float


def _read_cpu_time(tree: Tree, cpus: Sequence[int] | None, readings: Readings) -> None:
    """Busy and stolen CPU time since boot, of `cpus` and of the whole machine."""
    path = "proc/stat"
    rows = {m[1]: _times(m[2]) for m in _STAT.finditer(tree.text(path, LARGE) or "")}
    own = [t for c in cpus if (t := rows.get(f"cpu{c}"))] if cpus is not None else []
    total = rows.get("cpu")
    used = _Times(*(sum(column) for column in zip(*own, strict=True))) if own else total
    for name in ("busy", "steal", "iowait"):
        readings[f"cpu_{name}_s"] = found(getattr(used, name, None), tree, path)
    readings["machine_busy_s"] = found(getattr(total, "busy", None), tree, path)


def _times(text: str) -> _Times:
    """One row: user nice system idle iowait irq softirq steal; guest time is in user already."""
    hertz = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else _TICKS
    values = [int(v) / hertz for v in text.split()[:8]]
    user, nice, system, _, iowait, irq, softirq, steal = values + [0.0] * (8 - len(values))
    return _Times(user + nice + system + irq + softirq, steal, iowait)


def _read_clocks(tree: Tree, cpus: Sequence[int] | None, readings: Readings) -> None:
    """Clocks of a few CPUs: by cpufreq, else by the x86 cpuinfo; most guests show neither."""
    wanted = list(cpus) if cpus else tree.cpus(f"{CPUS}/online") or [0]
    sample = wanted[:: max(1, len(wanted) // _SAMPLED)][:_SAMPLED]
    name = "cpufreq/scaling_cur_freq"
    khz = [k for c in sample if (k := tree.number(f"{CPUS}/cpu{c}/{name}")) and k > 0]
    path = f"{CPUS}/cpu{sample[0]}/{name}"
    mhz = [k / 1000 for k in khz]
    if not mhz and (match := _MHZ.findall(tree.text("proc/cpuinfo") or "")):
        mhz, path = [float(m) for m in match[: len(wanted)]], "proc/cpuinfo"
    readings["frequency_mhz"] = found(sum(mhz) / len(mhz) if mhz else None, tree, path)
    readings["frequency_min_mhz"] = found(min(mhz, default=None), tree, path)
    policy = f"{CPUS}/cpu{sample[0]}/cpufreq"
    for key, file in (("governor", "scaling_governor"), ("frequency_driver", "scaling_driver")):
        readings[key] = found(tree.line(f"{policy}/{file}"), tree, f"{policy}/{file}")
    readings["boost"] = _boost(tree)


def _boost(tree: Tree) -> Reading:
    """`on` or `off`, from either of the two switches the kernel has."""
    path = f"{CPUS}/cpufreq/boost"
    value, on = tree.number(path), 1
    if value is None:
        inverse = f"{CPUS}/intel_pstate/no_turbo"
        if (value := tree.number(inverse)) is not None:
            path, on = inverse, 0
    return found(None if value is None else "on" if value == on else "off", tree, path)


def _read_throttling(tree: Tree, cpus: Sequence[int] | None, readings: Readings) -> None:
    path = cgroup_of(tree).cpu_stat(tree)
    pairs = (line.split() for line in (tree.text(path) or "").splitlines())
    stat = {p[0]: integer(p[1]) for p in pairs if len(p) == 2}
    readings["cgroup_throttled"] = found(stat.get("nr_throttled"), tree, path)
    micro, nano = stat.get("throttled_usec"), stat.get("throttled_time")
    seconds = micro / 1e6 if micro is not None else nano / _NS if nano is not None else None
    readings["cgroup_throttled_s"] = found(seconds, tree, path)
    cpu = cpus[0] if cpus else 0
    folder = f"{CPUS}/cpu{cpu}/thermal_throttle"
    counts = [tree.number(f"{folder}/{n}_throttle_count") for n in ("core", "package")]
    known = [c for c in counts if c is not None]
    readings["thermal_throttled"] = found(sum(known) if known else None, tree, folder)


def _read_paging(tree: Tree, readings: Readings) -> None:
    text = tree.text("proc/vmstat") or ""
    pairs = (line.split(" ", 1) for line in text.splitlines() if " " in line)
    counts = dict(p for p in pairs if len(p) == 2)
    for name in _VMSTAT:
        readings[name] = found(integer(counts.get(name)), tree, "proc/vmstat")
    info = meminfo(tree)
    for name, key in (
        ("memory_available_bytes", "MemAvailable"),
        ("thp_bytes", "AnonHugePages"),
        ("swap_free_bytes", "SwapFree"),
        ("swap_total_bytes", "SwapTotal"),
    ):
        readings[name] = found(info.get(key), tree, "proc/meminfo")


def _read_pressure(tree: Tree, readings: Readings) -> None:
    """Seconds in which some task waited for memory or for a CPU, since boot."""
    for kind in ("memory", "cpu"):
        match = _PSI.search(tree.text(f"proc/pressure/{kind}") or "")
        seconds = int(match[1]) / 1e6 if match else None
        readings[f"psi_{kind}_s"] = found(seconds, tree, f"proc/pressure/{kind}")


def _read_settings(tree: Tree, readings: Readings) -> None:
    readings["thp"] = found(chosen(tree, f"{THP}/enabled"), tree, f"{THP}/enabled")
    numa = "proc/sys/kernel/numa_balancing"
    value = tree.number(numa)
    readings["numa_balancing"] = found(_switch(value), tree, numa)
    smt = clean(tree.line(f"{CPUS}/smt/control"))
    readings["smt"] = found(smt, tree, f"{CPUS}/smt/control")


def _switch(value: int | None) -> str | None:
    return None if value is None else "on" if value else "off"
