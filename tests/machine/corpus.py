"""Turns real guests (lscpu and SMBIOS dumps by others) into trees, in the test run only."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from . import trees

_DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "corpus"
FOLDER = Path(os.environ.get("ARMBENCH_CORPUS", _DEFAULT))
_IDS = {
    "sys_vendor": (1, "Manufacturer"),
    "product_name": (1, "Product Name"),
    "product_version": (1, "Version"),
    "bios_vendor": (0, "Vendor"),
    "bios_version": (0, "Version"),
    "board_vendor": (2, "Manufacturer"),
    "chassis_vendor": (3, "Manufacturer"),
    "chassis_asset_tag": (3, "Asset Tag"),
}


def guests() -> list[str]:
    """The names of the guests, none where there is no corpus."""
    return sorted(p.parent.name for p in FOLDER.glob("*/lscpu.json"))


def described(name: str) -> trees.Description:
    """The guest as a description."""
    lscpu = fields(name)
    dmi = json.loads((FOLDER / name / "dmi.json").read_text())
    threads, count = int(lscpu["Thread(s) per core"]), int(lscpu["CPU(s)"])
    nodes = [v for k, v in lscpu.items() if re.fullmatch(r"NUMA node\d+ CPU.*", k)]
    arm = lscpu["Architecture"] == "aarch64"
    processors = [r["props"] for r in dmi if r["type"] == 4]
    return trees.Description(
        source="corpus",
        cpus=count,
        features=lscpu["Flags"],
        midr=_midr(lscpu) if arm else None,
        vendor=None if arm else lscpu["Vendor ID"],
        family=None if arm else int(lscpu["CPU family"]),
        model=None if arm else int(lscpu["Model"]),
        stepping=None if arm else int(lscpu["Stepping"]),
        model_name=lscpu["Model name"],
        threads_per_core=threads,
        siblings_far=any("," in v for k, v in lscpu.items() if k.startswith("NUMA node0")),
        package_ids=[36 + 1320 * n for n in range(int(lscpu["Socket(s)"]))],
        nodes=nodes,
        caches=_caches(lscpu, count // threads),
        memory_gib=count * gib_per_cpu(name),
        dmi=_ids(dmi),
        firmware=trees.Firmware(
            manufacturer=processors[0]["Manufacturer"],
            version=processors[0]["Version"],
            sockets=len(processors),
        ),
        midr_in_sysfs=False,
    )


def gib_per_cpu(name: str) -> int:
    """GiB per vCPU by the provider's own naming; the dumps name each kind of DIMM only once."""
    general = re.search(r"-(ecs\.g|m9g|Standard_D|c4a-standard|t2a-standard)", name)
    return 4 if general else 2


def fields(name: str) -> dict[str, str]:
    """`lscpu -J` of a guest, flat."""
    rows = json.loads((FOLDER / name / "lscpu.json").read_text())["lscpu"]
    return {row["field"].rstrip(":"): row["data"] for row in rows}


def _midr(lscpu: dict[str, str]) -> str:
    """lscpu prints the core's name and rNpM; the parts of those names are Arm's."""
    parts = {"N1": 0xD0C, "V1": 0xD40, "N2": 0xD49, "V2": 0xD4F, "V3": 0xD84, "N3": 0xD8E}
    part = parts[lscpu["Model name"].rpartition("-")[2]]
    stepping = re.fullmatch(r"r(\d+)p(\d+)", lscpu["Stepping"])
    assert stepping
    return hex(0x41 << 24 | int(stepping[1]) << 20 | 0xF << 16 | part << 4 | int(stepping[2]))


def _caches(lscpu: dict[str, str], cores: int) -> list[trees.CacheLevel]:
    kinds = {
        "L1d": (1, "Data"),
        "L1i": (1, "Instruction"),
        "L2": (2, "Unified"),
        "L3": (3, "Unified"),
    }
    found = []
    for name, (level, kind) in kinds.items():
        match = re.match(r"(\d+) \((\d+) instance", lscpu.get(f"{name} cache", ""))
        if match:
            count = int(match[2])
            size = int(match[1]) // count // 1024
            found.append(trees.CacheLevel(level=level, type=kind, kib=size, shared=cores // count))
    return found


def _ids(dmi: list[dict[str, Any]]) -> dict[str, str]:
    told = {}
    for name, (kind, key) in _IDS.items():
        props: dict[str, Any] = next((r["props"] for r in dmi if r["type"] == kind), {})
        if key in props:
            told[name] = str(props[key])
    return told
