"""What would disturb a measurement on this machine now, and what to do about each, worst first."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from harness.errors import Exit
from harness.machine.conditions import read_conditions
from harness.machine.judge import judge
from harness.records.machine import Conditions, Finding, Machine
from harness.units import format_bytes, parse_cpu_list

WATCHED_S = 0.25  # long enough for 25 ticks of /proc/stat, short enough to wait for
# the share of its CPUs that a busy machine already runs tasks on, by the one-minute average
LOAD_SHARE = 0.25
# a model, its KV cache and the allocator need room; below this the kernel reclaims while we measure
LEAST_MEMORY_SHARE = 0.10

_ORDER = (  # worst first: what makes numbers wrong, then what makes them vary, then slow
    "steal",
    "cgroup_throttling",
    "thermal_throttling",
    "foreign_cpu",
    "swap",
    "memory_pressure",
    "quota_part",
    "memory_low",
    "mixed_cores",
    "load",
    "governor",
    "boost",
    "frequency_drift",
    "numa_balancing",
    "one_cpu",
    "thp",
    "swap_on",
    "major_faults",
)


def check(machine: Machine, root: Path = Path("/"), watched_s: float = WATCHED_S) -> list[Finding]:
    """Watches the machine for `watched_s` seconds (a captured one for none): all that disturbs."""
    before = read_conditions(root)
    live = os.path.realpath(root) == "/"
    if not live:
        return findings(machine, before, before, 0.0)
    own, start = time.process_time(), time.monotonic()
    time.sleep(watched_s)
    after = read_conditions(root)
    seconds = time.monotonic() - start
    return findings(machine, before, after, seconds, time.process_time() - own)


def exit_code(found: list[Finding]) -> Exit:
    """6 where something makes a measurement invalid now, else 0."""
    return Exit.INVALID if any(f.severity == "invalid" for f in found) else Exit.FINE


def findings(
    machine: Machine, before: Conditions, after: Conditions, seconds: float, own_cpu_s: float = 0.0
) -> list[Finding]:
    """What disturbs by two readings `seconds` apart and by the machine's settings, worst first."""
    cpus = machine.topology.cpus
    found = judge(before, after, own_cpu_s=own_cpu_s, seconds=seconds, cpus=cpus)
    moved = {f.name for f in found}
    found += [f for f in _settings(machine, after) if f.name not in moved]
    return sorted(found, key=lambda f: (f.severity != "invalid", _ORDER.index(f.name)))


def _settings(machine: Machine, now: Conditions) -> Iterator[Finding]:
    yield from _quota(machine)
    yield from _cores(machine)
    yield from _load(machine, now)
    yield from _clock(now)
    yield from _memory(machine, now)


def _text(now: Conditions, name: str) -> str | None:
    value = now.readings[name].value if name in now.readings else None
    return value if isinstance(value, str) else None


def _number(now: Conditions, name: str) -> float | None:
    value = now.readings[name].value if name in now.readings else None
    return value if isinstance(value, int | float) else None


def _quota(machine: Machine) -> Iterator[Finding]:
    quota, allowed = machine.limits.cpu_quota, len(parse_cpu_list(machine.limits.allowed_cpus))
    if quota is not None and quota < allowed:
        yield Finding(
            name="quota_part",
            severity="warning",
            message=f"the cgroup's quota is {quota:g} CPUs' worth of time on {allowed} CPUs",
            hint=f"run at most {max(1, int(quota))} threads, or give the container whole CPUs "
            "(`--cpuset-cpus`)",
        )


def _cores(machine: Machine) -> Iterator[Finding]:
    kinds = [c for c in machine.cpu.clusters if c.cpus]
    if len(kinds) > 1:
        names = ", ".join(f"{c.core or c.midr or 'core'} ({c.cpus})" for c in kinds)
        yield Finding(
            name="mixed_cores",
            severity="warning",
            message=f"the cores are of different kinds: {names}",
            hint="keep every thread inside one kind; the slowest sets the pace of all",
        )
    if machine.topology.cpus == 1:
        yield Finding(
            name="one_cpu",
            severity="warning",
            message="engine and driver share the only CPU",
            hint="take a machine with at least two CPUs",
        )


def _load(machine: Machine, now: Conditions) -> Iterator[Finding]:
    load = _number(now, "load_1m")
    if load is not None and load > LOAD_SHARE * machine.topology.cpus and load > 0.5:
        yield Finding(
            name="load",
            severity="warning",
            message=f"the load average of the last minute is {load:.1f} on "
            f"{machine.topology.cpus} CPUs",
            hint="wait until it is near 0, or stop what runs (`top` names it)",
        )


def _clock(now: Conditions) -> Iterator[Finding]:
    governor = _text(now, "governor")
    if governor not in (None, "performance"):
        yield Finding(
            name="governor",
            severity="warning",
            message=f"the frequency governor is {governor}: the clock follows the load",
            hint="`cpupower frequency-set -g performance`",
        )
    if _text(now, "boost") == "on":
        yield Finding(
            name="boost",
            severity="warning",
            message="boost is on: the clock depends on temperature and on how many cores work",
            hint="for steady numbers: `echo 0 > /sys/devices/system/cpu/cpufreq/boost` (Intel: "
            "`echo 1 > /sys/devices/system/cpu/intel_pstate/no_turbo`)",
        )


def _memory(machine: Machine, now: Conditions) -> Iterator[Finding]:
    if machine.topology.numa_nodes > 1 and _text(now, "numa_balancing") == "on":
        yield Finding(
            name="numa_balancing",
            severity="warning",
            message="automatic NUMA balancing moves pages while we measure",
            hint="`echo 0 > /proc/sys/kernel/numa_balancing`",
        )
    if machine.memory.thp == "never":
        yield Finding(
            name="thp",
            severity="warning",
            message="transparent huge pages are off: weights are read through small pages",
            hint="`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`",
        )
    free, total = _number(now, "memory_available_bytes"), machine.memory.total_bytes
    if free is not None and total and free < LEAST_MEMORY_SHARE * total:
        yield Finding(
            name="memory_low",
            severity="warning",
            message=f"only {format_bytes(free)} of {format_bytes(total)} of memory is available",
            hint="stop what holds it, or take a smaller model",
        )
    swap = _number(now, "swap_total_bytes")
    used = swap - (_number(now, "swap_free_bytes") or 0.0) if swap else 0.0
    if swap and used:
        yield Finding(
            name="swap_on",
            severity="warning",
            message=f"{format_bytes(used)} lie in swap",
            hint="`swapoff -a`, then `swapon -a`, with enough free memory",
        )
