"""Every described server is detected as its `machine.json` says.

`python -m tests.machine.test_machines` writes the expected files anew: look at the difference.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import msgspec
import pytest

from harness.machine.detect import detect
from harness.records.machine import Machine

from . import trees

NAMES = sorted(p.parent.name for p in trees.MACHINES.glob("*/machine.toml"))
# what each stands for, apart from the files: a wrong file cannot make these right
NAMED = {
    "yitian-710-2cpu": "Alibaba Yitian 710",
    "yitian-710-16cpu": "Alibaba Yitian 710",
    "yitian-710-64cpu": "Alibaba Yitian 710",
    "graviton2-16cpu": "AWS Graviton2",
    "graviton3-16cpu": "AWS Graviton3",
    "graviton3e-8cpu": "AWS Graviton3E",
    "graviton4-192cpu-2socket": "AWS Graviton4",
    "graviton5-64cpu-2node": "AWS Graviton5",
    "altra-azure-16cpu": "Ampere Altra",
    "altra-gcp-48cpu": "Ampere Altra",
    "altra-hetzner-16cpu": "Ampere Altra",
    "altra-max-128cpu": "Ampere Altra Max",
    "ampereone-oci-16cpu": "AmpereOne",
    "axion-c4a-16cpu": "Google Axion C4A",
    "axion-n4a-2cpu": "Google Axion N4A",
    "cobalt100-96cpu-2node": "Microsoft Azure Cobalt 100",
    "cobalt200-8cpu": "Microsoft Azure Cobalt 200",
    "grace-72cpu": "NVIDIA Grace",
    "vera-176cpu": "NVIDIA Vera",
    "kunpeng920-128cpu-4node": "Huawei Kunpeng 920",
    "a64fx-48cpu-4node": "Fujitsu A64FX",
    "big-little-8cpu": None,
    "unknown-part-4cpu": None,
    "icelake-alibaba-16cpu": "Intel Xeon Ice Lake SP",
    "sapphire-rapids-16cpu": "Intel Xeon Sapphire Rapids",
    "milan-64cpu-2node": "AMD EPYC Milan",
    "milan-t2d-8cpu": "AMD EPYC Milan",
    "turin-16cpu": "AMD EPYC Turin",
}
NODES = {"2node": 2, "4node": 4, "2socket": 2}


def built(name: str, folder: Path) -> Machine:
    return detect(trees.write_tree(folder, trees.load(name)))


def expected(name: str) -> Machine:
    data = (trees.MACHINES / name / "machine.json").read_bytes()
    return msgspec.json.decode(data, type=Machine)


def test_every_described_server_has_a_claim() -> None:
    assert sorted(NAMED) == NAMES
    assert len(NAMES) >= 16


@pytest.mark.parametrize("name", NAMES)
def test_a_described_server_is_detected_as_expected(name: str, tmp_path: Path) -> None:
    machine = built(name, tmp_path)
    assert machine.cpu.product == NAMED[name]
    assert (machine.cpu.product is None) == ("cpu.product" in machine.unknown)
    assert machine.topology.cpus == int(next(w for w in name.split("-") if "cpu" in w)[:-3])
    assert machine.topology.numa_nodes == next((n for s, n in NODES.items() if s in name), 1)
    assert msgspec.to_builtins(machine) == msgspec.to_builtins(expected(name))


def write(name: str) -> None:
    """Writes the expected file, one line for each part of the machine."""
    with tempfile.TemporaryDirectory() as folder:
        parts = msgspec.to_builtins(built(name, Path(folder)))
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in parts.items())
    (trees.MACHINES / name / "machine.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    for each in NAMES:
        write(each)
