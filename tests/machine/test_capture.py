"""`scripts/capture-machine` takes what detection needs, and nothing that names the machine."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from harness.machine.conditions import read_conditions
from harness.machine.detect import detect

from . import trees

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "capture-machine"
SECRET = "SECRET"


def capture(root: Path, out: Path) -> str:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--root", root, out], capture_output=True, text=True, check=True
    )
    return done.stderr


@pytest.mark.parametrize("name", ["graviton5-64cpu-2node", "big-little-8cpu", "turin-16cpu"])
def test_a_captured_server_is_detected_like_the_server(name: str, tmp_path: Path) -> None:
    root = trees.write_tree(tmp_path / "server", trees.load(name))
    capture(root, tmp_path / "out")
    assert detect(tmp_path / "out") == detect(root)


def test_nothing_that_names_the_machine_leaves_it(tmp_path: Path) -> None:
    server = trees.load("graviton2-16cpu")
    server.dmi |= dict.fromkeys(("product_serial", "product_uuid", "board_asset_tag"), SECRET)
    server.dmi["chassis_asset_tag"] = SECRET
    server.files = {
        "proc/version": f"Linux version 6.8.0 ({SECRET}@{SECRET})\n",
        "proc/sys/kernel/hostname": SECRET,
        "proc/self/status": f"Name:\t{SECRET}\nCpus_allowed_list:\t0-15\n",
        "etc/hostname": SECRET,
        "etc/os-release": f'PRETTY_NAME="Some Linux"\nBUG_REPORT_URL={SECRET}\n',
    }
    root = trees.write_tree(tmp_path / "server", server)
    with (root / "proc/cpuinfo").open("a") as file:
        file.write(f"Serial\t\t: {SECRET}\n")
    serials = trees.record(1, bytes([1, 2, 0, 3]) + SECRET.encode() * 3, "AWS", "x", SECRET)
    table = root / "sys/firmware/dmi/tables/DMI"
    table.write_bytes(serials + trees.record(11, b"\1", SECRET) + table.read_bytes())
    capture(root, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        assert SECRET not in path.name
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    machine = detect(tmp_path / "out")
    assert machine.cpu.product == "AWS Graviton2"
    assert machine.cpu.identified_by == "MIDR 0x413fd0c1, SMBIOS processor string 'AWS Graviton2'"
    assert (machine.kernel, machine.os) == ("6.8.0", "Some Linux")


def test_this_machine_can_be_captured_packed_and_read_again(tmp_path: Path) -> None:
    packed = tmp_path / "machine.tar.gz"
    capture(Path("/"), packed)
    with tarfile.open(packed) as archive:
        assert {(m.uid, m.uname) for m in archive.getmembers()} == {(0, "")}
        archive.extractall(tmp_path, filter="data")
    here, there = detect(), detect(tmp_path / "machine")
    assert there.cpu == here.cpu
    assert there.caches == here.caches
    assert there.topology == here.topology
    assert read_conditions(tmp_path / "machine").readings["cpu_busy_s"].value is not None


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"exists already" in done.stderr
