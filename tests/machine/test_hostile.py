"""No content of /proc, /sys or the DMI table makes detection raise or hang."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.machine.conditions import read_conditions
from harness.machine.detect import detect, machine_slug
from harness.machine.smbios import walk
from harness.machine.tree import Tree, integer, number_list
from harness.records.machine import Machine

from . import trees

SERVER = trees.load("yitian-710-2cpu")
SERVER.firmware = trees.Firmware(manufacturer="Example", version="Example", dimm_gib=1)
LONGEST_S = 5.0  # a hang, not a slow moment of a busy test machine
CPU = "sys/devices/system/cpu"
READ = [
    "proc/cpuinfo",
    "proc/meminfo",
    "proc/stat",
    "proc/vmstat",
    "proc/loadavg",
    "proc/version",
    "proc/pressure/memory",
    "proc/self/cgroup",
    "proc/self/status",
    "proc/sys/abi/sve_default_vector_length",
    "proc/sys/kernel/osrelease",
    "etc/os-release",
    "sys/firmware/dmi/tables/DMI",
    "sys/class/dmi/id/sys_vendor",
    "sys/class/dmi/id/product_name",
    "sys/class/dmi/id/chassis_asset_tag",
    "sys/devices/soc0/soc_id",
    "sys/devices/cpu_core/cpus",
    "sys/devices/cpu_atom/cpus",
    f"{CPU}/online",
    f"{CPU}/cpu0/topology/core_cpus_list",
    f"{CPU}/cpu0/topology/package_cpus_list",
    f"{CPU}/cpu0/cache/index0/level",
    f"{CPU}/cpu0/cache/index2/size",
    f"{CPU}/cpu1/cache/index3/shared_cpu_list",
    f"{CPU}/cpu0/regs/identification/midr_el1",
    f"{CPU}/cpu0/cpufreq/cpuinfo_max_freq",
    f"{CPU}/cpu0/cpufreq/scaling_cur_freq",
    f"{CPU}/cpu0/thermal_throttle/core_throttle_count",
    "sys/devices/system/node/online",
    "sys/devices/system/node/node0/cpulist",
    "sys/devices/system/node/node0/distance",
    "sys/devices/system/node/node0/meminfo",
    "sys/kernel/mm/transparent_hugepage/enabled",
    "sys/kernel/mm/transparent_hugepage/hpage_pmd_size",
    "sys/fs/cgroup/cgroup.controllers",
    "sys/fs/cgroup/cpu.max",
    "sys/fs/cgroup/cpu.stat",
    "sys/fs/cgroup/memory.max",
    "sys/class/thermal/thermal_zone0/temp",
    "sys/class/hwmon/hwmon0/temp1_input",
    "sys/class/powercap/intel-rapl:0/energy_uj",
]
NASTY = [
    b"",
    b"\0" * 4096,
    b"-1\n",
    b"9" * 100_000,
    b"0x" + b"f" * 5000,
    b"0-4294967295\n",
    b"0-8191," * 9000,
    b"3-1\n",
    b"max max\n",
    b"0 0\n",
    b"cpu " + b"1 " * 20_000,
    b"cpu " + b"1" * 60_000 + b"x",
    b"processor\t: 0\n" * 50_000,
    b"processor\t: 99999999999999999999\n",
    b"CPU implementer\t: 0x41\nCPU part\t: 0xzz\n",
    b"a:b:" + b"../" * 2000 + b"etc\n",
    b"\x1b[2J\x1b]0;title\x07 name\n",
    "١٢٣\n".encode(),
    bytes(range(256)) * 64,
]
content = st.one_of(
    st.sampled_from(NASTY),
    st.binary(max_size=2000),
    st.text(max_size=500).map(lambda t: t.encode("utf-8", "replace")),
    st.from_regex(rb"[0-9a-fx,:\- \t\nKMG]{0,200}", fullmatch=True),
)
quiet = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def put(root: Path, path: str, data: bytes) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def survive(root: Path) -> Machine:
    """Detection ends in time, and with a machine that can be written down and read back."""
    start = time.monotonic()
    machine = detect(root)
    read_conditions(root)
    machine_slug(machine)
    assert time.monotonic() - start < LONGEST_S
    assert msgspec.json.decode(msgspec.json.encode(machine), type=Machine) == machine
    return machine


def assert_sound(machine: Machine) -> None:
    topology = machine.topology
    assert topology.cpus >= topology.physical_cores >= topology.packages >= 1
    assert sorted(c for core in topology.cores for c in core) == sorted(
        {c for core in topology.cores for c in core}
    )
    assert machine.cpu.product or "cpu.product" in machine.unknown
    told = [machine.cpu.product, machine.cpu.vendor, machine.cpu.model_name, machine.cloud.instance]
    assert all(t.isprintable() for t in told if t)


@quiet
@given(st.dictionaries(st.sampled_from(READ), content, min_size=1, max_size=6))
def test_damaged_files_leave_a_sound_machine(damage: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = trees.write_tree(Path(folder), SERVER)
        for path, data in damage.items():
            put(root, path, data)
        assert_sound(survive(root))


@quiet
@given(st.dictionaries(st.sampled_from(READ), content, max_size=12))
def test_a_tree_of_nothing_but_damage_leaves_a_sound_machine(damage: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for path, data in damage.items():
            put(Path(folder), path, data)
        assert_sound(survive(Path(folder)))


@pytest.mark.parametrize("data", NASTY)
def test_the_same_damage_everywhere_leaves_a_sound_machine(data: bytes, tmp_path: Path) -> None:
    for path in READ:
        put(tmp_path, path, data)
    assert_sound(survive(tmp_path))


@quiet
@given(st.binary(max_size=4096))
def test_a_damaged_smbios_table_is_walked_to_an_end(data: bytes) -> None:
    assert len(list(walk(data))) <= len(data) // 4 + 1


@quiet
@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_a_table_with_wrong_lengths_names_no_wrong_product(at: int, patch: bytes) -> None:
    table = bytearray(trees.smbios(SERVER))
    table[at : at + len(patch)] = patch
    with tempfile.TemporaryDirectory() as folder:
        root = trees.write_tree(Path(folder), SERVER)
        put(root, "sys/firmware/dmi/tables/DMI", bytes(table))
        assert survive(root).cpu.product == "Alibaba Yitian 710"


def test_a_pipe_in_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    root = trees.write_tree(tmp_path, SERVER)
    for path in ("proc/cpuinfo", "sys/firmware/dmi/tables/DMI", f"{CPU}/online"):
        (root / path).unlink(missing_ok=True)
        os.mkfifo(root / path)
    assert_sound(survive(root))


def test_links_out_of_a_captured_tree_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("Amazon EC2\n")
    root = trees.write_tree(tmp_path / "tree", SERVER)
    vendor = root / "sys/class/dmi/id/sys_vendor"
    vendor.unlink()
    vendor.symlink_to(outside)
    assert Tree(root).line("sys/class/dmi/id/sys_vendor") is None
    assert survive(root).cloud.provider != "aws"
    chassis = root / "sys/devices/virtual/dmi"
    chassis.mkdir(parents=True)
    (chassis / "id").symlink_to(tmp_path)
    assert Tree(root).data("sys/devices/virtual/dmi/id/outside") is None


def test_a_link_that_stays_inside_is_followed(tmp_path: Path) -> None:
    root = trees.write_tree(tmp_path, SERVER)
    real = root / "sys/devices/virtual/dmi/id"
    real.parent.mkdir(parents=True)
    (root / "sys/class/dmi/id").rename(real)
    (root / "sys/class/dmi/id").symlink_to("../../devices/virtual/dmi/id")
    assert survive(root).cloud.provider == "alibaba"


def test_links_in_a_circle_and_folders_in_place_of_files_are_survived(tmp_path: Path) -> None:
    root = trees.write_tree(tmp_path, SERVER)
    (root / "proc/cpuinfo").unlink()
    (root / "proc/cpuinfo").symlink_to("cpuinfo")
    (root / f"{CPU}/online").unlink()
    (root / f"{CPU}/online").mkdir()
    machine = survive(root)
    assert machine.topology.cpus == 2  # the folders of the CPUs are still there
    assert machine.cpu.midr == "0x410fd490"  # and so is the register in sysfs


@given(st.text(max_size=200))
def test_number_lists_never_raise_and_are_ascending(text: str) -> None:
    numbers = number_list(text)
    assert numbers is None or numbers == sorted(set(numbers))
    integer(text)


def test_an_empty_folder_says_what_is_missing(tmp_path: Path) -> None:
    machine = survive(tmp_path)
    assert machine.architecture is None
    for name in ("architecture", "cpu.product", "cpu.features", "memory.total_bytes", "caches"):
        assert machine.unknown[name]
