"""Everything that tells two environments apart, as flat facts: dotted name -> text.

What is unknown has no fact. Names begin with the room they come from: cpu, topology, caches,
memory, limits, cloud (hardware); kernel, os, software, engine (software); conditions, placement,
client (settings); plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from harness.records.comparison import Difference
from harness.records.machine import Conditions, Machine
from harness.records.run import Case, Result, Trial
from harness.units import format_bytes, format_cpu_list

Kind = Literal["hardware", "software", "settings", "plan"]
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("cpu", "topology", "caches", "memory", "limits", "cloud"), "hardware"),
    **dict.fromkeys(("kernel", "os", "software", "engine", "kernels", "target"), "software"),
    **dict.fromkeys(("conditions", "placement", "client"), "settings"),
    "plan": "plan",
}
# The names of `facts`; beside them one software.NAME for each package.
NAMES = (
    *("cpu.architecture", "cpu.product", "cpu.core", "cpu.vendor", "cpu.midr", "cpu.stepping"),
    *("cpu.sve_bits", "cpu.features", "topology.vcpus", "topology.vcpu"),
    *("topology.physical_cores", "topology.threads_per_core", "topology.packages"),
    *("topology.numa_nodes", "topology.llc_domains", "caches", "memory.total", "memory.page"),
    *("memory.dimm", "memory.peak", "limits.allowed_cpus", "limits.cpu_quota", "limits.memory"),
    *("limits.container", "limits.hypervisor", "cloud.instance", "cloud.region", "kernel", "os"),
    *("software.armbench", "conditions.governor", "conditions.frequency_driver"),
    *("conditions.boost", "conditions.smt", "conditions.numa_balancing", "conditions.thp"),
    *("conditions.clock", "target.server", "target.model", "target.recipe", "target.body"),
    *("client.host", "placement.wish", "placement.cpus", "placement.driver_cpus", "plan.name"),
    *("plan.repeats", "plan.seed", "plan.prompt_set", "plan.prompts"),
)
_SETTINGS = ("governor", "frequency_driver", "boost", "smt", "numa_balancing", "thp")


def facts(result: Result) -> dict[str, str]:
    """What is the same for every case of `result`."""
    found: dict[str, Any] = {
        **_machine(result.machine),
        "kernel": result.machine.kernel,
        "os": result.machine.os,
        "software.armbench": result.armbench,
        **{f"software.{name}": text for name, text in result.software.items()},
        **_conditions(t.before for t in result.trials),
        **_target(result),
        "placement.wish": result.plan.placement,
        "placement.cpus": format_cpu_list(result.plan.cpus),
        "placement.driver_cpus": format_cpu_list(result.plan.driver_cpus),
        "plan.name": result.plan.name,
        "plan.repeats": result.plan.repeats,
        "plan.seed": result.plan.seed,
        "plan.prompt_set": (result.plan.prompt_set_sha256 or "")[:12] or None,
    }
    return _told(found)


def known(name: str) -> bool:
    """Whether `name` is one of `facts`."""
    return name in NAMES or name.startswith("software.")


def _told(found: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in found.items() if value not in (None, "", [])}


def _machine(machine: Machine) -> dict[str, Any]:
    cpu, shape, memory, limits = machine.cpu, machine.topology, machine.memory, machine.limits
    size = None if memory.total_bytes is None else format_bytes(memory.total_bytes)
    limit = None if limits.memory_bytes is None else format_bytes(limits.memory_bytes)
    page = None if memory.page_bytes is None else format_bytes(memory.page_bytes)
    peak = memory.peak_bytes_per_s
    return {
        "cpu.architecture": machine.architecture,
        "cpu.product": cpu.product,
        "cpu.core": cpu.core,
        "cpu.vendor": cpu.vendor,
        "cpu.midr": cpu.midr,
        "cpu.stepping": cpu.stepping,
        "cpu.sve_bits": cpu.sve_bits,
        "cpu.features": " ".join(sorted(cpu.features)),
        "topology.vcpus": shape.cpus,
        "topology.vcpu": shape.vcpu,
        "topology.physical_cores": shape.physical_cores,
        "topology.threads_per_core": shape.threads_per_core,
        "topology.packages": shape.packages,
        "topology.numa_nodes": shape.numa_nodes,
        "topology.llc_domains": len(shape.llc_domains) or None,
        "caches": ", ".join(
            f"L{c.level} {c.type} {format_bytes(c.size_bytes)} ×{c.instances}"
            for c in machine.caches
            if c.size_bytes is not None
        ),
        "memory.total": size,
        "memory.page": page,
        "memory.dimm": " ".join(str(x) for x in (memory.dimm_type, memory.dimm_mts) if x),
        "memory.peak": None if peak is None else f"{peak / 1e9:.4g} GB/s",
        "limits.allowed_cpus": limits.allowed_cpus,
        "limits.cpu_quota": limits.cpu_quota,
        "limits.memory": limit,
        "limits.container": limits.container,
        "limits.hypervisor": limits.hypervisor,
        "cloud.instance": _instance(machine),
        "cloud.region": machine.cloud.region,
    }


def _instance(machine: Machine) -> str | None:
    cloud = machine.cloud
    if cloud.instance is None:
        return None
    return f"{cloud.provider}/{cloud.instance}{' (guess)' if cloud.guess else ''}"


def _conditions(seen: Iterable[Conditions | None]) -> dict[str, str]:
    """Settings as they were before the trials; several values where they changed meanwhile."""
    values: dict[str, set[str]] = {}
    for one in seen:
        for name in _SETTINGS:
            reading = one.readings.get(name) if one else None
            if reading is not None and reading.value is not None:
                values.setdefault(f"conditions.{name}", set()).add(str(reading.value))
        clock = one.readings.get("frequency_mhz") if one else None
        if clock is not None and isinstance(clock.value, int | float):
            # to 100 MHz: the finer digits of a running clock differ from one read to the next
            text = f"{clock.value / 1000:.1f} GHz"
            values.setdefault("conditions.clock", set()).add(text)
    return {name: ", ".join(sorted(texts)) for name, texts in values.items()}


def _target(result: Result) -> dict[str, Any]:
    target = result.target
    if target is None:
        return {}
    return {
        "target.server": target.server,
        "target.model": target.model,
        "target.recipe": target.recipe,
        "target.body": target.body if target.body != "{}" else None,
        "client.host": target.client_host or ("same machine" if target.local else "unknown"),
        "plan.prompts": target.prompts,
    }


def case_facts(result: Result, case: Case) -> dict[str, str]:
    """What belongs to one case: its runtime, the library's kernels, its client."""
    found: dict[str, Any] = {}
    trials = [t for t in result.trials if t.case == case.id]
    for trial in trials[:1]:
        found |= _engine(trial)
        if trial.client is not None:
            found["client.processes"] = trial.client.processes
            found["client.stamps"] = trial.client.stamps
    paths = [p for p in result.paths if p.variant == case.variant]
    for path in paths:
        found |= {f"kernels.{name}": text for name, text in path.facts.items()}
        found["kernels.ran"] = ", ".join(sorted({k.name for k in path.kernels})[:12])
    return _told(found)


def _engine(trial: Trial) -> dict[str, Any]:
    """What the engine told of itself; a float is a measurement, such as the seconds to start."""
    found: dict[str, Any] = {
        f"engine.{name}": value
        for name, value in trial.engine_facts.items()
        if isinstance(value, str | int)
    }
    proof = trial.proofs[0]
    runtime = proof.runtime if proof else None
    if runtime is not None:
        found["engine.runtime"] = runtime.runtime
        found["engine.compute_threads"] = runtime.compute
        found["engine.library"] = runtime.library
    return found


def kind(name: str) -> Kind:
    """Which sort of thing the fact `name` is; another tool's own counts as a setting."""
    return _KINDS.get(name.partition(".")[0], "settings")


def differences(a: Mapping[str, str], b: Mapping[str, str]) -> list[Difference]:
    """Every fact that is not the same on both sides, hardware first."""
    found = []
    for name in dict.fromkeys([*a, *b]):
        left, right = a.get(name), b.get(name)
        if left == right:
            continue
        if name == "cpu.features" and left and right:
            left, right = _only(left, right)
        found.append(Difference(name=name, kind=kind(name), a=left, b=right))
    ranks: list[Kind] = ["hardware", "software", "settings", "plan"]
    return sorted(found, key=lambda d: ranks.index(d.kind))


def _only(a: str, b: str) -> tuple[str | None, str | None]:
    """What each of two lists of words has alone."""
    left, right = set(a.split()), set(b.split())
    texts = [" ".join(sorted(x)) or None for x in (left - right, right - left)]
    return texts[0], texts[1]
