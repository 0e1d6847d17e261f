"""Topology and limits: the quirks that guests and containers show."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from harness.errors import ArmbenchError
from harness.machine.conditions import read_conditions
from harness.machine.detect import detect
from harness.machine.elsewhere import detect_without_proc
from harness.records.machine import Machine
from harness.units import parse_cpu_list

from . import trees

CPU = "sys/devices/system/cpu"


def tree(folder: Path, name: str = "yitian-710-16cpu") -> Path:
    return trees.write_tree(folder, trees.load(name))


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_offline_cpus_are_left_out_everywhere(tmp_path: Path) -> None:
    root = tree(tmp_path)
    put(root, f"{CPU}/online", "0-3,8\n")
    topology = detect(root).topology
    assert (topology.cpus, topology.online) == (5, "0-3,8")
    assert topology.cores == [[0], [1], [2], [3], [8]]
    assert topology.llc_domains == ["0-3,8"]
    assert topology.nodes[0].cpus == "0-3,8"


def test_package_ids_that_are_table_offsets_or_missing_do_not_matter(tmp_path: Path) -> None:
    root = tree(tmp_path, "graviton4-192cpu-2socket")
    assert detect(root).topology.packages == 2
    for path in root.glob(f"{CPU}/cpu*/topology/physical_package_id"):
        path.write_text("-1\n")
    assert detect(root).topology.packages == 2


def test_without_topology_folders_an_x86_cpuinfo_tells_cores_and_packages(tmp_path: Path) -> None:
    blocks = [
        f"processor\t: {n}\nvendor_id\t: GenuineIntel\nphysical id\t: {n % 4 // 2}\n"
        f"core id\t\t: {n % 2}\nflags\t\t: lm\n"
        for n in range(8)
    ]
    put(tmp_path, "proc/cpuinfo", "\n".join(blocks))
    topology = detect(tmp_path).topology
    assert (topology.cpus, topology.physical_cores, topology.packages) == (8, 4, 2)
    assert topology.cores[0] == [0, 4]
    assert topology.vcpu == "hardware thread"


def test_an_l2_that_cores_share_is_the_last_level_where_there_is_no_l3(tmp_path: Path) -> None:
    server = trees.load("graviton2-16cpu")
    server.caches = [
        trees.CacheLevel(level=1, type="Data", kib=32),
        trees.CacheLevel(level=2, type="Unified", kib=2048, shared=2),
    ]
    topology = detect(trees.write_tree(tmp_path, server)).topology
    assert topology.llc_domains[:2] == ["0-1", "2-3"]


def test_ids_without_lists_are_enough(tmp_path: Path) -> None:
    root = tree(tmp_path, "sapphire-rapids-16cpu")
    for path in root.glob(f"{CPU}/cpu*/topology/*_list"):
        path.unlink()
    for cpu in range(16):
        put(root, f"{CPU}/cpu{cpu}/topology/core_id", f"{cpu % 8}\n")
    topology = detect(root).topology
    assert (topology.physical_cores, topology.threads_per_core, topology.packages) == (8, 2, 1)


def test_a_system_without_proc_is_described_by_the_libraries() -> None:
    machine = detect_without_proc("c8g.4xlarge")
    assert machine.topology.cpus == psutil.cpu_count()
    assert machine.memory.total_bytes == psutil.virtual_memory().total
    assert machine.cloud.provider == "aws"
    assert machine.unknown["topology.nodes"]


def test_a_hidden_sibling_is_admitted_where_the_cloud_is_not_known(tmp_path: Path) -> None:
    root = tree(tmp_path, "milan-t2d-8cpu")
    assert detect(root).topology.vcpu == "core"  # GCP shows siblings where there are any
    for path in (root / "sys/class/dmi/id").iterdir():
        path.unlink()
    machine = detect(root)
    assert machine.topology.vcpu is None
    assert "may hide" in machine.unknown["topology.vcpu"]


def test_quota_and_memory_limit_of_cgroup_v2_are_the_tightest_on_the_way_up(tmp_path: Path) -> None:
    root = tree(tmp_path)
    put(root, "proc/self/cgroup", "0::/a/b\n")
    put(root, "sys/fs/cgroup/cgroup.controllers", "cpu memory\n")
    put(root, "sys/fs/cgroup/a/cpu.max", "250000 100000\n")
    put(root, "sys/fs/cgroup/a/b/cpu.max", "max 100000\n")
    put(root, "sys/fs/cgroup/a/b/memory.max", "1073741824\n")
    put(root, "sys/fs/cgroup/memory.max", "max\n")
    put(root, "sys/fs/cgroup/cpuset.cpus.effective", "0-7\n")
    put(root, "proc/self/status", "Cpus_allowed_list:\t4-15\n")
    limits = detect(root).limits
    assert (limits.cgroup, limits.cpu_quota, limits.memory_bytes) == ("v2", 2.5, 1 << 30)
    assert limits.allowed_cpus == "4-7"


def test_inside_a_partition_the_affinity_alone_says_what_is_allowed(tmp_path: Path) -> None:
    root = tree(tmp_path)
    put(root, "proc/self/cgroup", "0::/isolated\n")
    put(root, "sys/fs/cgroup/cgroup.controllers", "cpu cpuset\n")
    put(root, "sys/fs/cgroup/cpuset.cpus.effective", "0-7\n")
    put(root, "proc/self/status", "Cpus_allowed_list:\t8-15\n")
    assert detect(root).limits.allowed_cpus == "8-15"


def test_throttling_is_counted_where_the_quota_is(tmp_path: Path) -> None:
    stat = "nr_periods 9\nnr_throttled {}\nthrottled_usec 3000000\n"
    v2 = tree(tmp_path / "v2")
    put(v2, "proc/self/cgroup", "0::/a/b\n")
    put(v2, "sys/fs/cgroup/cgroup.controllers", "cpu\n")
    put(v2, "sys/fs/cgroup/a/cpu.max", "250000 100000\n")
    put(v2, "sys/fs/cgroup/a/cpu.stat", stat.format(50))
    put(v2, "sys/fs/cgroup/a/b/cpu.max", "max 100000\n")
    put(v2, "sys/fs/cgroup/a/b/cpu.stat", stat.format(0))
    v1 = tree(tmp_path / "v1")
    put(v1, "proc/self/cgroup", "3:cpu,cpuacct:/docker/abc\n")
    put(v1, "sys/fs/cgroup/cpu/cpu.stat", stat.format(7))
    for root, count in ((v2, 50), (v1, 7)):
        readings = read_conditions(root).readings
        assert readings["cgroup_throttled"].value == count


def test_quota_of_cgroup_v1_is_read_and_its_no_limit_is_none(tmp_path: Path) -> None:
    root = tree(tmp_path)
    put(root, "proc/self/cgroup", "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n")
    put(root, "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us", "400000\n")
    put(root, "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us", "100000\n")
    put(root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    put(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    limits = detect(root).limits
    assert (limits.cgroup, limits.cpu_quota, limits.memory_bytes) == ("v1", 4.0, None)
    assert limits.container == "docker"


def test_a_page_of_64_kib_is_told_by_the_huge_page(tmp_path: Path) -> None:
    assert detect(tree(tmp_path, "a64fx-48cpu-4node")).memory.page_bytes == 65536


def test_bandwidth_uses_the_dimms_that_smbios_shows(tmp_path: Path) -> None:
    memory = detect(tree(tmp_path, "turin-16cpu")).memory
    assert (memory.dimm_type, memory.dimm_mts) == ("DDR5", 6400)
    assert memory.peak_bytes_per_s == 12 * 6400e6 * 8
    assert "SMBIOS" in (memory.peak_source or "")


def test_a_root_that_is_no_folder_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ArmbenchError) as error:
        detect(tmp_path / "nothing")
    assert error.value.hint


@pytest.fixture(scope="module")
def here() -> Machine:
    return detect()


def test_this_machine_agrees_with_psutil_and_the_runtime(here: Machine) -> None:
    assert here.architecture == os.uname().machine
    assert here.topology.cpus == psutil.cpu_count()
    assert here.topology.physical_cores == (psutil.cpu_count(logical=False) or here.topology.cpus)
    assert here.memory.total_bytes == psutil.virtual_memory().total
    assert here.memory.page_bytes == os.sysconf("SC_PAGE_SIZE")
    assert set(parse_cpu_list(here.limits.allowed_cpus)) <= os.sched_getaffinity(0)


def test_detection_is_quick(here: Machine) -> None:
    """`armbench machine` has 0.4 s for everything; the best of three leaves other work out."""
    times = []
    for _ in range(3):
        start = time.process_time()
        detect()
        times.append(time.process_time() - start)
    assert min(times) < 0.15
