"""Systems without /proc (macOS, BSD): what psutil and py-cpuinfo know."""

from __future__ import annotations

import os
import platform
from typing import Any

from harness.machine.cloud import provider_of
from harness.records.machine import Cloud, Cpu, Limits, Machine, Memory, Topology
from harness.units import format_cpu_list


def detect_without_proc(instance: str | None) -> Machine:
    """The machine as the two libraries describe it: no NUMA, no caches, no limits."""
    reason = f"{platform.system()} has no /proc and /sys"
    cpus, cores, total = _counts()
    brand, features = _brand()
    online = list(range(cpus))
    per_core = max(1, cpus // cores)
    return Machine(
        architecture=platform.machine(),
        cpu=Cpu(product=brand, model_name=brand, features=features, identified_by="py-cpuinfo"),
        topology=Topology(
            cpus=cpus,
            online=format_cpu_list(online),
            physical_cores=cores,
            threads_per_core=per_core,
            packages=1,
            numa_nodes=1,
            vcpu="hardware thread" if per_core > 1 else "core",
            cores=[online[i : i + per_core] for i in range(0, cpus, per_core)],
            llc_domains=[format_cpu_list(online)],
        ),
        memory=Memory(total_bytes=total),
        limits=Limits(allowed_cpus=format_cpu_list(online)),
        cloud=Cloud(
            provider=provider_of(instance) if instance else None,
            instance=instance,
            source="--instance" if instance else None,
        ),
        kernel=platform.release(),
        os=platform.platform(terse=True),
        unknown=dict.fromkeys(("cpu.midr", "caches", "topology.nodes", "limits", "cloud"), reason),
    )


def _counts() -> tuple[int, int, int | None]:
    """Logical CPUs, physical cores, bytes of memory."""
    logical = os.cpu_count() or 1
    try:
        import psutil
    except ImportError:
        return logical, logical, None
    return logical, psutil.cpu_count(logical=False) or logical, psutil.virtual_memory().total


def _brand() -> tuple[str | None, list[str]]:
    try:
        import cpuinfo
    except ImportError:
        return None, []
    found: dict[str, Any] = cpuinfo.get_cpu_info()
    return found.get("brand_raw"), list(found.get("flags") or [])
