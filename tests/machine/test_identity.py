"""The core alone never names a product; what does, and in which order."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from harness.machine.catalogue import catalogue, part_key
from harness.machine.detect import detect, machine_slug
from harness.records.machine import Machine

from . import trees

NITRO = {"sys_vendor": "Amazon EC2"}
GOOGLE = {"sys_vendor": "Google", "product_name": "Google Compute Engine"}
AZURE = {"chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77"}
N1, V1, N2 = "0x413fd0c1", "0x411fd401", "0x410fd490"
V2, V3, N3 = "0x410fd4f1", "0x410fd841", "0x410fd8e0"


def arm(folder: Path, midr: str, **changes: object) -> Machine:
    """A small Arm server that differs from a plain one in `changes`."""
    plain = {"source": "test", "cpus": 4, "features": "fp asimd", "midr": midr, "memory_gib": 8.0}
    server = msgspec.convert({**plain, **changes}, trees.Description)
    return detect(trees.write_tree(folder, server))


@pytest.mark.parametrize(
    ("midr", "dmi", "product"),
    [
        (N1, {"sys_vendor": "Amazon EC2", "product_name": "t4g.xlarge"}, "AWS Graviton2"),
        (N1, {"sys_vendor": "Alibaba Cloud"}, "Ampere Altra"),
        (N1, {"sys_vendor": "QEMU", "chassis_asset_tag": "OracleCloud.com"}, "Ampere Altra"),
        (N1, {"sys_vendor": "Tencent Cloud"}, "Ampere Altra"),
        (N1, {"sys_vendor": "Lenovo"}, "Ampere Altra"),
        (N1, {"sys_vendor": "QEMU", "product_name": "KVM Virtual Machine"}, None),
        ("0x410fd083", NITRO, "AWS Graviton"),
        ("0x410fd083", {"sys_vendor": "Some Maker"}, None),
        (V1, {"sys_vendor": "Amazon EC2", "product_name": "hpc7g.4xlarge"}, "AWS Graviton3E"),
        (V1, {"sys_vendor": "Amazon EC2", "product_name": "r7g.metal"}, "AWS Graviton3"),
        (N2, {"sys_vendor": "Alibaba Cloud"}, "Alibaba Yitian 710"),
        (N2, AZURE, "Microsoft Azure Cobalt 100"),
        (N2, {"sys_vendor": "Microsoft Corporation", "product_name": "Virtual Machine"}, None),
        (N2, {"sys_vendor": "QEMU"}, None),
        (N2, {}, None),
        (V2, NITRO, "AWS Graviton4"),
        (V2, {**NITRO, "product_name": "p6e-gb200.36xlarge"}, "NVIDIA Grace"),
        (V2, GOOGLE, "Google Axion C4A"),
        (V2, AZURE, "NVIDIA Grace"),
        (V2, {"sys_vendor": "NVIDIA", "product_name": "GH200"}, "NVIDIA Grace"),
        (V2, {"sys_vendor": "GIGABYTE", "product_name": "H223-V10"}, "NVIDIA Grace"),
        (V2, {"sys_vendor": "QEMU"}, None),
        (V3, NITRO, "AWS Graviton5"),
        (V3, AZURE, "Microsoft Azure Cobalt 200"),
        (N3, GOOGLE, "Google Axion N4A"),
        (N3, {"sys_vendor": "Some Maker"}, None),
        ("0xc00fac30", {"sys_vendor": "Supermicro"}, "AmpereOne"),
        ("0xc00fac40", {}, "AmpereOne M"),
        ("0x480fd010", {}, "Huawei Kunpeng 920"),
        ("0x480fd020", {"sys_vendor": "Huawei"}, "Huawei Kunpeng 920"),
        ("0x480fd060", {}, "Huawei Kunpeng 950"),
        ("0x461f0010", {}, "Fujitsu A64FX"),
        ("0x460f0030", {}, "Fujitsu MONAKA"),
        ("0x4e0f0100", {}, "NVIDIA Vera"),
        ("0x610f0230", {}, "Apple M1"),
        ("0x410fdff0", NITRO, None),
    ],
)
def test_midr_and_dmi_name_the_product_or_none(
    midr: str, dmi: dict[str, str], product: str | None, tmp_path: Path
) -> None:
    machine = arm(tmp_path, midr, dmi=dmi)
    assert machine.cpu.product == product
    assert machine.cpu.midr == midr
    assert ("cpu.product" in machine.unknown) == (product is None)


@pytest.mark.parametrize(
    ("midr", "version", "product"),
    [
        (V1, "AWS Graviton3E", "AWS Graviton3E"),
        (N1, "Ampere(R) Altra(R) Max Processor", "Ampere Altra Max"),
        (N1, "Ampere(R) Altra(R) Processor", "Ampere Altra"),
        (N2, "Cobalt 100", "Microsoft Azure Cobalt 100"),
        (N3, "Tamar", "Google Axion N4A"),
        ("0x480fd020", "Kunpeng 930-7280", "Kunpeng 930-7280"),
        (V3, "AWS Graviton6", "AWS Graviton6"),
        ("0x410fdff0", "AWS Graviton9", "AWS Graviton9"),
        (N2, "virt-rhel7.6.0", None),
        (N2, "(invalid)", None),
    ],
)
def test_the_firmwares_name_goes_before_dmi(
    midr: str, version: str, product: str | None, tmp_path: Path
) -> None:
    firmware = {"manufacturer": "Maker", "version": version}
    assert arm(tmp_path, midr, firmware=firmware).cpu.product == product


def test_more_than_80_cores_in_a_package_are_altra_max(tmp_path: Path) -> None:
    dmi = {"sys_vendor": "Lenovo"}
    assert arm(tmp_path / "a", N1, cpus=96, dmi=dmi).cpu.product == "Ampere Altra Max"
    two = arm(tmp_path / "b", N1, cpus=160, package_ids=[0, 1], dmi=dmi)
    assert two.cpu.product == "Ampere Altra"


def test_more_cpus_than_any_axion_has_are_not_called_axion(tmp_path: Path) -> None:
    assert arm(tmp_path, V2, cpus=140, dmi=GOOGLE).cpu.product == "NVIDIA Grace"


def test_a_product_with_another_l2_than_the_one_shown_is_not_named(tmp_path: Path) -> None:
    caches = [
        {"level": level, "type": kind, "kib": kib}
        for level, kind, kib in ((1, "Data", 64), (1, "Instruction", 64), (2, "Unified", 2048))
    ]
    assert arm(tmp_path / "a", V2, dmi=GOOGLE, cpus=96, caches=caches).cpu.product is None
    assert arm(tmp_path / "b", V2, dmi=GOOGLE, cpus=72, caches=caches).cpu.product is not None


def test_the_soc_id_tells_grace_without_dmi(tmp_path: Path) -> None:
    assert arm(tmp_path, V2, soc_id="jep106:036b:0241").cpu.product == "NVIDIA Grace"


def test_an_unknown_part_keeps_its_id_and_features(tmp_path: Path) -> None:
    cpu = arm(tmp_path, "0x770fabc2", features="fp asimd sve newthing").cpu
    assert (cpu.midr, cpu.product, cpu.core) == ("0x770fabc2", None, None)
    assert cpu.features == ["fp", "asimd", "sve", "newthing"]


def test_vectors_follow_the_flags_and_not_the_name(tmp_path: Path) -> None:
    """One real Graviton3 guest lists svebf16 without sve: the kernel's word counts."""
    without = arm(tmp_path / "a", V1, features="asimd svebf16", dmi=NITRO, sve_bytes=32)
    assert without.cpu.sve_bits is None
    assert without.unknown["cpu.sve_bits"] == "the kernel lists no sve"
    documented = arm(tmp_path / "b", V3, features="asimd sve", dmi=NITRO)
    assert documented.cpu.sve_bits == 128
    assert documented.cpu.sve_source == "documented for AWS Graviton5"


def test_the_register_in_sysfs_replaces_a_cpuinfo_without_ids(tmp_path: Path) -> None:
    server = trees.load("yitian-710-2cpu")
    root = trees.write_tree(tmp_path, server)
    (root / "proc/cpuinfo").write_text("processor\t: 0\n\nprocessor\t: 1\n")
    assert detect(root).cpu.product == "Alibaba Yitian 710"


def test_an_instance_type_from_the_user_wins_and_names_the_provider(tmp_path: Path) -> None:
    root = trees.write_tree(tmp_path, trees.load("yitian-710-16cpu"))
    cloud = detect(root, instance="ecs.g8y.4xlarge").cloud
    assert (cloud.instance, cloud.guess, cloud.source) == ("ecs.g8y.4xlarge", False, "--instance")
    (root / "sys/class/dmi/id/sys_vendor").unlink()
    assert detect(root, instance="aws/c8g.4xlarge").cloud.provider == "aws"
    assert detect(root, instance="Standard_D16ps_v6").cloud.provider == "azure"


def test_a_guess_is_called_one_and_ambiguity_lists_the_candidates(tmp_path: Path) -> None:
    server = trees.load("yitian-710-16cpu")
    guessed = detect(trees.write_tree(tmp_path / "a", server)).cloud
    assert (guessed.instance, guessed.guess) == ("ecs.g8y.4xlarge", True)
    server.memory_gib = 0  # nothing tells c8y, g8y and r8y apart
    root = trees.write_tree(tmp_path / "b", server)
    for path in root.glob("sys/devices/system/node/node*/meminfo"):
        path.unlink()
    machine = detect(root)
    assert machine.cloud.instance is None
    assert {"ecs.c8y.4xlarge", "ecs.g8y.4xlarge"} <= set(machine.cloud.candidates)
    assert "--instance" in machine.unknown["cloud.instance"]


def test_slugs_are_folder_names_without_guesses(tmp_path: Path) -> None:
    aws = detect(trees.write_tree(tmp_path / "a", trees.load("graviton4-192cpu-2socket")))
    assert machine_slug(aws) == "aws-c8g.48xlarge"
    ali = detect(trees.write_tree(tmp_path / "b", trees.load("yitian-710-2cpu")))
    assert machine_slug(ali) == "alibaba-yitian-710-2cpu"


def test_every_row_of_the_cpu_list_is_findable_and_has_sources() -> None:
    known = catalogue()
    for cpu, row in known.cpu.items():
        assert bool(row.parts) != bool(row.models), cpu
        for kind in row.ops:
            width = known.width(cpu, kind)
            assert width
            assert width[0] > 0
        assert set(row.ops_unverified) <= set(row.ops)
        assert bool(row.peak_gb_s) == bool(row.peak_source)
        for part in row.parts:
            assert known.implementer(part), part
    assert part_key(int(N2, 16)) == "41.d49"
    assert known.width("yitian710", "int8_mmla") == (128, known.sources["llvm-n2"])
    assert known.width("altra", "bf16") is None


def test_a_hypervisors_cpu_model_is_marked_as_one(tmp_path: Path) -> None:
    server = trees.Description(
        source="test", cpus=2, features="lm", vendor="GenuineIntel", family=6, model=85,
        stepping=4, model_name="Intel Xeon Processor (Skylake, IBRS, no TSX)",
    )  # fmt: skip
    assert "hypervisor" in (detect(trees.write_tree(tmp_path, server)).cpu.note or "")


@pytest.mark.parametrize(
    ("vendor", "family", "model", "flags", "product"),
    [
        ("GenuineIntel", 6, 85, "lm avx512f", "Intel Xeon Skylake SP"),
        ("GenuineIntel", 6, 85, "lm avx512_vnni", "Intel Xeon Cascade Lake"),
        ("GenuineIntel", 6, 207, "lm amx_tile", "Intel Xeon Emerald Rapids"),
        ("GenuineIntel", 6, 173, "lm amx_tile", "Intel Xeon Granite Rapids"),
        ("AuthenticAMD", 25, 17, "lm", "AMD EPYC Genoa"),
        ("AuthenticAMD", 25, 160, "lm", "AMD EPYC Bergamo or Siena"),
        ("AuthenticAMD", 26, 17, "lm", "AMD EPYC Turin Dense"),
        ("AuthenticAMD", 99, 1, "lm", "Some Processor"),
    ],
)
def test_x86_is_named_by_family_model_and_flags(
    vendor: str, family: int, model: int, flags: str, product: str, tmp_path: Path
) -> None:
    server = trees.Description(
        source="test", cpus=2, features=flags, vendor=vendor, family=family, model=model,
        stepping=1, model_name="Some Processor",
    )  # fmt: skip
    machine = detect(trees.write_tree(tmp_path, server))
    assert (machine.cpu.product, machine.architecture) == (product, "x86_64")
    assert machine.cpu.midr is None
