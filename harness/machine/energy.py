"""Energy and temperature: RAPL, hwmon (SCMI and BMC drivers too), thermal zones; or why not."""

from __future__ import annotations

import re

from harness.machine.tree import Tree
from harness.records.machine import Reading

POWERCAP = "sys/class/powercap"
HWMON = "sys/class/hwmon"
THERMAL = "sys/class/thermal"
_PACKAGE = re.compile(r"(?:intel-rapl|amd-rapl):\d{1,3}")  # not the parts below a package
_ENERGY = re.compile(r"energy\d{1,3}_input")
_POWER = re.compile(r"power\d{1,3}_(?:input|average)")
_TEMPERATURE = re.compile(r"temp\d{1,3}_input")
_MOST = 64  # sensors looked at: a hostile tree may show thousands


def read_energy(tree: Tree) -> Reading:
    """Joules since some start, of the packages; wraps around. None with the reason."""
    packages = [n for n in tree.names(POWERCAP) if _PACKAGE.fullmatch(n)][:_MOST]
    micro = [tree.number(f"{POWERCAP}/{n}/energy_uj") for n in packages]
    if packages and None not in micro:
        return Reading(value=sum(m or 0 for m in micro) / 1e6, source=f"RAPL: /{POWERCAP}")
    path = _first(tree, _ENERGY)
    if path and (value := tree.number(path)) is not None:
        return Reading(value=value / 1e6, source=f"hwmon {_chip(tree, path)}: /{path}")
    if packages:
        return Reading(reason=f"RAPL: {tree.why(f'{POWERCAP}/{packages[0]}/energy_uj')}")
    if path := _first(tree, _POWER):
        chip = _chip(tree, path)
        return Reading(reason=f"hwmon {chip} shows momentary power (/{path}), no energy counter")
    if tree.exists("dev/ipmi0"):
        return Reading(reason="only a BMC (/dev/ipmi0) could tell it, to ipmitool as root")
    return Reading(reason="neither RAPL nor a hwmon energy sensor (SCMI, BMC) is shown here")


def read_temperature(tree: Tree) -> Reading:
    """The hottest sensor in degrees Celsius, or None with the reason."""
    zones = [n for n in tree.names(THERMAL) if n.startswith("thermal_zone")][:_MOST]
    paths = [f"{THERMAL}/{z}/temp" for z in zones]
    paths += [f"{HWMON}/{c}/{n}" for c, n in _sensors(tree, _TEMPERATURE)]
    values = [(v / 1000, p) for p in paths if (v := tree.number(p)) is not None]
    real = [(v, p) for v, p in values if 0 < v < 150]
    if not real:
        return Reading(reason="no thermal zone and no hwmon temperature is shown here")
    value, path = max(real)
    return Reading(value=value, source=f"/{path}")


def _sensors(tree: Tree, pattern: re.Pattern[str]) -> list[tuple[str, str]]:
    chips = tree.names(HWMON)[:_MOST]
    pairs = ((c, n) for c in chips for n in tree.names(f"{HWMON}/{c}"))
    return [(c, n) for c, n in pairs if pattern.fullmatch(n)][:_MOST]


def _first(tree: Tree, pattern: re.Pattern[str]) -> str | None:
    found = _sensors(tree, pattern)
    return f"{HWMON}/{found[0][0]}/{found[0][1]}" if found else None


def _chip(tree: Tree, path: str) -> str:
    return tree.line(f"{path.rsplit('/', 1)[0]}/name") or "sensor"
