"""What spoilt the time between two readings of the machine's state, with stated bounds."""

from __future__ import annotations

from collections.abc import Sequence

from harness.records.machine import Conditions, Finding

# Stolen CPU time delays every thread of a barrier: with 64 threads 1 % is 64 chances to wait.
STEAL_INVALID = 0.01
STEAL_WARNING = 0.001
# Foreign CPU time takes cores or bandwidth from the engine; a core of ten moves the result by about
# as much as a real change would. An idle system's own daemons stay below 2 %.
FOREIGN_INVALID = 0.10
FOREIGN_WARNING = 0.02
# /proc/stat counts whole ticks of 10 ms per CPU, so short intervals carry that much error
TICK_S = 0.01
# below this many cores no daemon has been seen to matter
FOREIGN_LEAST_CORES = 0.1
# a cgroup that held the engine back for 1 % of the time put every such pause into a latency
THROTTLED_INVALID = 0.01
# 1 MiB of swap traffic is a stall of milliseconds on any disk; single pages are old kernel habits
SWAP_INVALID_PAGES = 256
# the time some task waited for memory: reclaim shows in the tail first
PRESSURE_INVALID = 0.10
PRESSURE_WARNING = 0.01
# a page read from disk costs 0.1 ms or more; a loaded model should cause none
MAJOR_FAULTS_PER_S = 10.0
# run-to-run spread on a quiet server is 1 to 3 %; a larger fall of the clock explains a result
FREQUENCY_FALL = 0.05


def judge(
    before: Conditions,
    after: Conditions,
    *,
    own_cpu_s: float | None,
    seconds: float,
    cpus: int,
    watched: int | None = None,
    during: Sequence[Conditions] = (),
) -> list[Finding]:
    """What disturbed the interval, invalid first.

    `own_cpu_s` is the CPU time that engine and driver took in it (None: not known), `seconds` its
    length, `cpus` the number of CPUs of the machine, `watched` of those whose stolen time was read
    (None: all); `during` are readings in between, which show a clock that fell and came back.
    """
    if seconds <= 0 or cpus <= 0:
        return []
    found = [
        *_steal(before, after, seconds, watched or cpus),
        *_foreign(before, after, own_cpu_s, seconds, cpus),
        *_throttling(before, after, seconds),
        *_swap(before, after),
        *_memory(before, after, seconds),
        *_frequency([before, *during, after]),
    ]
    return sorted(found, key=lambda f: f.severity != "invalid")


def growth(before: Conditions, after: Conditions, name: str) -> float | None:
    """How much a counter grew, or None where either reading is missing or it was reset."""
    values = [c.readings[name].value for c in (before, after) if name in c.readings]
    if len(values) != 2:
        return None
    start, end = values
    if not isinstance(start, int | float) or not isinstance(end, int | float) or end < start:
        return None
    return end - start


def _steal(before: Conditions, after: Conditions, seconds: float, cpus: int) -> list[Finding]:
    stolen = growth(before, after, "cpu_steal_s") or 0.0
    share = max(0.0, stolen - TICK_S) / (seconds * cpus)
    if share < STEAL_WARNING:
        return []
    return [
        Finding(
            name="steal",
            severity="invalid" if share >= STEAL_INVALID else "warning",
            message=f"the hypervisor gave {share:.1%} of the CPU time to others",
            hint="repeat it, or take a dedicated or larger instance",
        )
    ]


def _foreign(
    before: Conditions, after: Conditions, own_cpu_s: float | None, seconds: float, cpus: int
) -> list[Finding]:
    busy = growth(before, after, "machine_busy_s")
    if busy is None or own_cpu_s is None:
        return []
    cores = max(0.0, busy - own_cpu_s - TICK_S * cpus) / seconds
    share = cores / cpus
    if share < FOREIGN_WARNING or cores < FOREIGN_LEAST_CORES:
        return []
    return [
        Finding(
            name="foreign_cpu",
            severity="invalid" if share >= FOREIGN_INVALID else "warning",
            message=f"other processes used {cores:.2f} of {cpus} CPUs",
            hint="stop them (`top` names them) and repeat",
        )
    ]


def _throttling(before: Conditions, after: Conditions, seconds: float) -> list[Finding]:
    found = []
    times = growth(before, after, "cgroup_throttled") or 0
    if times:
        share = (growth(before, after, "cgroup_throttled_s") or 0.0) / seconds
        found.append(
            Finding(
                name="cgroup_throttling",
                severity="invalid" if share >= THROTTLED_INVALID else "warning",
                message=f"the CPU quota stopped this container {times:.0f} times, {share:.1%} of "
                "the time",
                hint="use fewer threads than the quota has CPUs, or raise the quota",
            )
        )
    if thermal := growth(before, after, "thermal_throttled"):
        found.append(
            Finding(
                name="thermal_throttling",
                severity="invalid",
                message=f"heat cut the clock {thermal:.0f} times",
                hint="improve the cooling, or let it cool down between trials",
            )
        )
    return found


def _swap(before: Conditions, after: Conditions) -> list[Finding]:
    pages = sum(growth(before, after, n) or 0 for n in ("pswpin", "pswpout"))
    if not pages:
        return []
    return [
        Finding(
            name="swap",
            severity="invalid" if pages >= SWAP_INVALID_PAGES else "warning",
            message=f"{pages:.0f} pages went to or came from swap",
            hint="free memory, take a smaller model, or turn swap off (`swapoff -a`)",
        )
    ]


def _memory(before: Conditions, after: Conditions, seconds: float) -> list[Finding]:
    found = []
    waited = (growth(before, after, "psi_memory_s") or 0.0) / seconds
    if waited >= PRESSURE_WARNING:
        found.append(
            Finding(
                name="memory_pressure",
                severity="invalid" if waited >= PRESSURE_INVALID else "warning",
                message=f"tasks waited for memory {waited:.1%} of the time",
                hint="free memory, or take a smaller model or batch",
            )
        )
    rate = (growth(before, after, "pgmajfault") or 0.0) / seconds
    if rate >= MAJOR_FAULTS_PER_S:
        found.append(
            Finding(
                name="major_faults",
                severity="warning",
                message=f"{rate:.0f} pages a second were read from disk",
                hint="let the model load fully before measuring, or free memory",
            )
        )
    return found


def _frequency(readings: Sequence[Conditions]) -> list[Finding]:
    values = [c.readings["frequency_mhz"].value for c in readings if "frequency_mhz" in c.readings]
    numbers = [v for v in values if isinstance(v, int | float) and v > 0]
    if len(numbers) < 2 or min(numbers) >= numbers[0] * (1 - FREQUENCY_FALL):
        return []
    return [
        Finding(
            name="frequency_drift",
            severity="warning",
            message=f"the clock fell from {numbers[0]:.0f} to {min(numbers):.0f} MHz",
            hint="set the performance governor, turn boost off, watch the temperature",
        )
    ]
