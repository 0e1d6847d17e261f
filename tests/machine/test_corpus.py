"""Thirty real guests are named right: with the SMBIOS table open, and with it closed."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import pytest

from harness.machine.detect import detect
from harness.machine.smbios import TABLE
from harness.records.machine import Machine

from . import corpus, trees

PRODUCTS = {  # by the provider's family name
    "c6r": ("Ampere Altra", "Neoverse N1"),
    "g7": ("Intel Xeon Ice Lake SP", "Sunny Cove"),
    "g8y": ("Alibaba Yitian 710", "Neoverse N2"),
    "c6a": ("AMD EPYC Milan", "Zen 3"),
    "c6g": ("AWS Graviton2", "Neoverse N1"),
    "c6i": ("Intel Xeon Ice Lake SP", "Sunny Cove"),
    "c7a": ("AMD EPYC Genoa", "Zen 4"),
    "c7g": ("AWS Graviton3", "Neoverse V1"),
    "c7i": ("Intel Xeon Sapphire Rapids", "Golden Cove"),
    "c8a": ("AMD EPYC Turin", "Zen 5"),
    "c8g": ("AWS Graviton4", "Neoverse V2"),
    "m9g": ("AWS Graviton5", "Neoverse V3"),
    "D16ps_v5": ("Ampere Altra", "Neoverse N1"),
    "D96ps_v6": ("Microsoft Azure Cobalt 100", "Neoverse N2"),
    "c4a": ("Google Axion C4A", "Neoverse V2"),
    "t2a": ("Ampere Altra", "Neoverse N1"),
    "cax41": ("Ampere Altra", "Neoverse N1"),
}
PROVIDERS = {
    "alicloud": "alibaba",
    "aws": "aws",
    "azure": "azure",
    "gcp": "gcp",
    "hcloud": "hetzner",
}
HARDWARE_THREADS = {"g7", "c6a", "c6i", "c7i"}

pytestmark = pytest.mark.skipif(
    not corpus.guests(), reason=f"no corpus at {corpus.FOLDER}; set ARMBENCH_CORPUS"
)


def family_of(guest: str) -> str:
    rest = guest.partition("-")[2].removeprefix("ecs.").removeprefix("Standard_")
    return rest.split(".")[0].split("-")[0]


@pytest.fixture(params=corpus.guests() or ["none"])
def guest(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["table open", "table closed"])
def machine(request: pytest.FixtureRequest, guest: str) -> Machine:
    return detected(guest)[str(request.param)]


@cache
def detected(guest: str) -> dict[str, Machine]:
    """The guest with its SMBIOS table readable, and as one without root sees it."""
    with tempfile.TemporaryDirectory() as folder:
        root = trees.write_tree(Path(folder), corpus.described(guest))
        seen = {"table open": detect(root)}
        (root / TABLE).unlink()
        return {**seen, "table closed": detect(root)}


def test_a_real_guest_is_named_right(guest: str, machine: Machine) -> None:
    assert (machine.cpu.product, machine.cpu.core) == PRODUCTS[family_of(guest)]
    assert "cpu.product" not in machine.unknown
    provider, _, instance = guest.partition("-")
    assert machine.cloud.provider == PROVIDERS[provider]
    if provider == "aws":
        assert (machine.cloud.instance, machine.cloud.guess) == (instance, False)


def test_a_guessed_instance_type_is_the_true_one_or_a_candidate(
    guest: str, machine: Machine
) -> None:
    cloud = machine.cloud
    if cloud.instance and cloud.guess:
        assert cloud.instance == guest.partition("-")[2]
    elif cloud.candidates:
        assert guest.partition("-")[2] in cloud.candidates


def test_a_real_guest_keeps_its_shape(guest: str, machine: Machine) -> None:
    lscpu, topology = corpus.fields(guest), machine.topology
    assert machine.architecture == lscpu["Architecture"]
    assert topology.cpus == int(lscpu["CPU(s)"])
    assert topology.threads_per_core == int(lscpu["Thread(s) per core"])
    assert topology.physical_cores * topology.threads_per_core == topology.cpus
    assert topology.packages == int(lscpu["Socket(s)"])
    assert topology.numa_nodes == int(lscpu["NUMA node(s)"])
    threads = family_of(guest) in HARDWARE_THREADS
    assert topology.vcpu == ("hardware thread" if threads else "core")
    assert machine.cpu.features == lscpu["Flags"].split()
    assert (machine.cpu.sve_bits is not None) == ("sve" in lscpu["Flags"].split())


def test_a_guest_without_caches_says_so(guest: str, machine: Machine) -> None:
    shown = "L2 cache" in corpus.fields(guest)
    assert bool(machine.caches) == shown
    assert ("caches" in machine.unknown) != shown
    assert len(machine.topology.llc_domains) >= 1
