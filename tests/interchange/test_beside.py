"""The machine beside a foreign file: lscpu and DMI through the same detection as a live one."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from harness import interchange
from harness.errors import ArmbenchError
from harness.interchange import Told, lscpu
from harness.records.machine import Machine

from . import made


def cpus(**changes: str) -> dict:
    """`lscpu -J` of a Graviton4 with 16 vCPUs."""
    told = {
        "Architecture": "aarch64",
        "CPU(s)": "16",
        "On-line CPU(s) list": "0-15",
        "Vendor ID": "ARM",
        "Model name": "Neoverse-V2",
        "Thread(s) per core": "1",
        "Socket(s)": "1",
        "Stepping": "r0p1",
        "CPU max MHz": "2800.0000",
        "Flags": "fp asimd asimddp sve sve2 i8mm bf16",
        "L1d cache": "1 MiB (16 instances)",
        "L2 cache": "33554432 (16 instances)",
        "L3 cache": "36 MiB (1 instance)",
        "NUMA node(s)": "1",
        "NUMA node0 CPU(s)": "0-15",
    } | {key.replace("_", " "): value for key, value in changes.items()}
    return {"lscpu": [{"field": f"{name}:", "data": text} for name, text in told.items()]}


DMI = [
    {
        "type": 1,
        "name": "System Information",
        "props": {
            "Manufacturer": "Amazon EC2",
            "Product Name": "c8g.4xlarge",
            "Serial Number": "ec2-serial-1",
            "UUID": "ec2-uuid-1",
        },
    },
    {"type": 2, "props": {"Manufacturer": "Amazon EC2", "Asset Tag": "i-0abc"}},
    {"type": 4, "props": {"Manufacturer": "AWS", "Version": "AWS Graviton4"}},
    {"type": 17, "props": {"Size": 34359738368, "Type": "DDR5", "Speed": 5600000000}},
]


def test_lscpu_and_dmi_are_detected_like_a_live_machine() -> None:
    found = lscpu.machine(cpus(), DMI, kernel="6.8.0")
    assert (found.cpu.product, found.cpu.core) == ("AWS Graviton4", "Neoverse V2")
    assert found.cpu.midr == "0x410fd4f1"
    assert (found.cloud.provider, found.cloud.instance) == ("aws", "c8g.4xlarge")
    assert (found.topology.cpus, found.topology.physical_cores) == (16, 16)
    assert found.topology.vcpu == "core"
    sizes = {(c.level, c.type): (c.size_bytes, c.shared_by) for c in found.caches}
    assert sizes[2, "unified"] == (2 << 20, 1)
    assert sizes[3, "unified"] == (36 << 20, 16)
    assert found.cpu.clusters[0].max_mhz == 2800
    assert found.memory.dimm_mts == 5600
    assert found.kernel == "6.8.0"
    assert "memory.total_bytes" in found.unknown


def test_no_serial_number_and_no_asset_tag_is_taken() -> None:
    text = msgspec.json.encode(lscpu.machine(cpus(), DMI)).decode()
    assert "serial-1" not in text
    assert "uuid-1" not in text
    assert "i-0abc" not in text


def test_hardware_threads_share_cores_as_the_memory_nodes_show() -> None:
    smt = {
        "Architecture": "x86_64",
        "Vendor ID": "GenuineIntel",
        "CPU family": "6",
        "Model": "143",
        "Model name": "Intel(R) Xeon(R) Platinum 8488C",
        "Stepping": "8",
        "Thread(s) per core": "2",
        "Flags": "lm avx512f hypervisor",
    }
    far = lscpu.machine(cpus(**smt))
    assert far.topology.cores[0] == [0, 8]
    assert "topology.cores" in far.unknown
    nodes = {"NUMA node(s)": "2", "NUMA node0 CPU(s)": "0-7", "NUMA node1 CPU(s)": "8-15"}
    near = lscpu.machine(cpus(**smt, **nodes))
    assert near.topology.cores[0] == [0, 1]
    assert near.topology.vcpu == "hardware thread"
    apart = {"NUMA node0 CPU(s)": "0-3,8-11", "NUMA node1 CPU(s)": "4-7,12-15"}
    two = lscpu.machine(cpus(**smt, **nodes | apart, **{"Socket(s)": "2"}))
    assert two.topology.cores[0] == [0, 8]
    assert two.topology.package_cpus == ["0-3,8-11", "4-7,12-15"]


def test_an_old_lscpu_gives_the_cache_of_one_core() -> None:
    found = lscpu.machine(cpus(**{"L2 cache": "2048K"}))
    assert {c.size_bytes for c in found.caches if c.level == 2} == {2 << 20}


def test_a_core_that_lscpu_does_not_know_is_told_by_the_dmi_signature() -> None:
    signature = "Implementor 0x41, Variant 0x0, Architecture 15, Part 0xd49, Revision 0"
    dmi = [{"type": 4, "props": {"Signature": signature}}]
    found = lscpu.machine(cpus(**{"Model name": "", "Vendor ID": ""}), dmi)
    assert found.cpu.core == "Neoverse N2"


def test_nested_output_of_a_newer_lscpu_is_read() -> None:
    flat = cpus()["lscpu"]
    nested = {"lscpu": [{"field": "x", "data": None, "children": flat}]}
    assert lscpu.machine(nested).topology.cpus == 16


@pytest.mark.parametrize("count", ["", "0", "-4", "1e9", "999999999", "many"])
def test_a_number_of_cpus_that_can_not_be_is_refused(count: str) -> None:
    with pytest.raises(ArmbenchError, match="CPUs"):
        lscpu.machine(cpus(**{"CPU(s)": count}))


def imported(tmp_path: Path, *beside: object, told: Told | None = None) -> Machine:
    row = made.put(tmp_path, "b.jsonl", made.lines([made.llama_row()]))
    paths = [made.put(tmp_path, f"beside{n}", value) for n, value in enumerate(beside)]
    return interchange.read([row], beside_paths=paths, told=told)[0].machine


def test_a_machine_of_our_own_detection_goes_before_lscpu(tmp_path: Path) -> None:
    own = lscpu.machine(cpus(), DMI)
    own.cpu.product = "as detected"
    found = imported(tmp_path, cpus(), json.loads(msgspec.json.encode(own)))
    assert found.cpu.product == "as detected"


def test_the_user_names_the_instance(tmp_path: Path) -> None:
    row = made.put(tmp_path, "b.jsonl", made.lines([made.llama_row()]))
    (found,) = interchange.read([row], told=Told(instance="aws/c8g.4xlarge"))
    assert (found.machine.cloud.provider, found.machine.cloud.instance) == ("aws", "c8g.4xlarge")
    assert found.price is not None
    assert found.price.sku == "c8g.4xlarge"
    assert "cloud.instance" not in found.machine.unknown


def test_bandwidth_beside_it_is_kept_but_is_no_ceiling(tmp_path: Path) -> None:
    row = made.put(tmp_path, "b.jsonl", made.lines([made.llama_row()]))
    csv = "size_kb,operation,bandwidth_mb_s,latency_ns,threads,iterations,elapsed_s\n"
    bench = made.put(
        tmp_path, "m.csv", csv + "32,read,1000,0,16,9,0.1\n262144,latency,0,120.5,1,9,1\n"
    )
    (found,) = interchange.read([row], beside_paths=[bench])
    assert found.ceilings == []
    assert found.extra["membench"] == [
        {
            "operation": "read",
            "thread_bytes": 32768,
            "threads": 16,
            "bytes_per_s": 1000 * 2**20,
            "latency_s": None,
        },
        {
            "operation": "latency",
            "thread_bytes": 268435456,
            "threads": 1,
            "bytes_per_s": None,
            "latency_s": pytest.approx(120.5e-9),
        },
    ]


def test_a_file_that_tells_nothing_of_a_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArmbenchError, match="nothing of a machine"):
        imported(tmp_path, {"a": 1})
    with pytest.raises(ArmbenchError, match="DMI dump alone"):
        imported(tmp_path, DMI)
