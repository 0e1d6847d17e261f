"""What a machine is (`Machine`) and what state it is in (`Conditions`).

An unknown value is None, and `unknown` gives the reason under the field's dotted name
(`"cpu.product"`). CPU sets are kernel lists (`"0-3,8"`). Sizes are bytes. No serials, no
addresses, no host names.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field


class Cluster(Struct, kw_only=True):
    """Cores of one kind: the same MIDR (Arm) or the same family and model (x86)."""

    cpus: str
    core: str | None = None
    midr: str | None = None
    max_mhz: float | None = None


class Cpu(Struct, kw_only=True):
    """The processor. `midr` is the whole register as hex (`0x410fd490`), Arm only."""

    product: str | None = None
    id: str | None = None  # row of configs/cpus.toml
    core: str | None = None
    vendor: str | None = None
    midr: str | None = None
    family: int | None = None
    model: int | None = None
    stepping: int | None = None
    model_name: str | None = None  # as the kernel or the firmware spells it
    features: list[str] = field(default_factory=list)
    sve_bits: int | None = None
    sve_source: str | None = None
    note: str | None = None  # what our list says about this product
    identified_by: str | None = None
    clusters: list[Cluster] = field(default_factory=list)


class NumaNode(Struct, kw_only=True):
    """One memory node; `distances` to every node in order of their ids."""

    id: int
    cpus: str
    memory_bytes: int | None = None
    distances: list[int] = field(default_factory=list)


class Topology(Struct, kw_only=True):
    """Cores and how they hang together.

    `cores` lists each physical core as its hardware threads, online CPUs only; `vcpu` says what one
    of this shape's CPUs is: `core` or `hardware thread`. `numa_nodes` counts the nodes with CPUs;
    `nodes` has those with memory only (CXL, a GPU's) as well. `package_cpus` is empty where the
    kernel does not tell which CPU is in which package.
    """

    cpus: int
    online: str
    physical_cores: int
    threads_per_core: int
    packages: int
    numa_nodes: int
    vcpu: str | None = None
    cores: list[list[int]] = field(default_factory=list)
    llc_domains: list[str] = field(default_factory=list)
    package_cpus: list[str] = field(default_factory=list)
    nodes: list[NumaNode] = field(default_factory=list)


class Cache(Struct, kw_only=True):
    """All caches of one level and type; `size_bytes` is that of one instance."""

    level: int
    type: str  # data, instruction, unified
    size_bytes: int | None
    instances: int
    shared_by: int  # CPUs that share one instance
    line_bytes: int | None = None
    ways: int | None = None


class Memory(Struct, kw_only=True):
    total_bytes: int | None = None
    page_bytes: int | None = None
    thp: str | None = None  # always, madvise, never
    huge_pages: dict[str, int] = field(default_factory=dict)  # page size in bytes -> pages
    dimm_type: str | None = None
    dimm_mts: int | None = None
    peak_bytes_per_s: float | None = None
    peak_source: str | None = None


class Limits(Struct, kw_only=True):
    """What this process may use, which may be less than what exists."""

    allowed_cpus: str
    cpu_quota: float | None = None  # CPUs' worth of time, from the cgroup
    memory_bytes: int | None = None  # cgroup limit
    cgroup: str | None = None  # v1, v2
    container: str | None = None
    hypervisor: str | None = None
    locked_memory_bytes: int | None = None


class Cloud(Struct, kw_only=True):
    """Where the machine is rented; `guess` is true where the type was inferred, not read."""

    provider: str | None = None
    instance: str | None = None
    region: str | None = None
    source: str | None = None
    guess: bool = False
    candidates: list[str] = field(default_factory=list)


class Machine(Struct, kw_only=True):
    """What does not change between runs."""

    architecture: str | None
    cpu: Cpu
    topology: Topology
    memory: Memory
    limits: Limits
    cloud: Cloud
    caches: list[Cache] = field(default_factory=list)
    kernel: str | None = None
    os: str | None = None
    unknown: dict[str, str] = field(default_factory=dict)


class Reading(Struct, kw_only=True):
    """One value of the machine's state with its source, or None with the reason."""

    value: float | str | None = None
    source: str | None = None
    reason: str | None = None


class Finding(Struct, kw_only=True):
    """Something that disturbs, or disturbed, a measurement; `invalid` means: do not believe it."""

    name: str
    severity: Literal["invalid", "warning"]
    message: str
    hint: str | None = None


class Conditions(Struct, kw_only=True):
    """What may change: taken before and after every trial, by name of the reading."""

    at_ns: int  # CLOCK_MONOTONIC
    readings: dict[str, Reading] = field(default_factory=dict)
