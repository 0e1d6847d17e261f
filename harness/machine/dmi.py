"""DMI ids: who made this machine, as `/sys/class/dmi/id` shows it to everyone."""

from __future__ import annotations

from harness.machine.smbios import Table, said
from harness.machine.tree import Tree

FOLDERS = ("sys/class/dmi/id", "sys/devices/virtual/dmi/id")
# serial numbers and UUIDs are left alone; the asset tag tells Azure, OCI and Huawei Cloud
NAMES = (
    "sys_vendor",
    "product_name",
    "product_version",
    "product_family",
    "board_vendor",
    "board_name",
    "bios_vendor",
    "bios_version",
    "chassis_vendor",
    "chassis_asset_tag",
)


def read_ids(tree: Tree, table: Table | None) -> dict[str, str]:
    """The ids by sysfs name; from the SMBIOS table where sysfs has none."""
    for folder in FOLDERS:
        found = {n: t for n in NAMES if (t := said(tree.line(f"{folder}/{n}")))}
        if found:
            return {**(table.ids if table else {}), **found}
    return dict(table.ids) if table else {}


def soc_id(tree: Tree) -> str | None:
    """The SoC's JEP-106 maker and id (`jep106:036b:0241`), where the firmware tells it."""
    return tree.line("sys/devices/soc0/soc_id")
