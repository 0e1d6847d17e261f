"""Which cloud and which instance type, offline: by DMI, then by the price catalogue as a guess."""

from __future__ import annotations

import re
from typing import NamedTuple

from harness.errors import ArmbenchError
from harness.records.machine import Cloud

AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"  # the same on every Azure guest
_AWS_TYPE = re.compile(r"[a-z][a-z0-9-]{0,20}\.[a-z0-9-]{1,20}")
_GIB = 1024**3
# a guest's MemTotal is what the kernel has left of the nominal memory
_LEAST_SHARE, _MOST_SHARE = 0.85, 1.005


class _Sign(NamedTuple):
    """A provider, and the start of the DMI id that shows it."""

    provider: str
    id: str
    start: str


_SIGNS = (
    _Sign("aws", "sys_vendor", "Amazon EC2"),
    _Sign("aws", "bios_vendor", "Amazon EC2"),
    _Sign("aws", "bios_version", "4.11.amazon"),
    _Sign("aws", "bios_version", "4.2.amazon"),
    _Sign("alibaba", "sys_vendor", "Alibaba Cloud"),
    _Sign("azure", "chassis_asset_tag", AZURE_TAG),
    _Sign("gcp", "product_name", "Google Compute Engine"),
    _Sign("oci", "chassis_asset_tag", "OracleCloud.com"),
    _Sign("huawei", "chassis_asset_tag", "HUAWEICLOUD"),
    _Sign("huawei", "sys_vendor", "Huawei Cloud"),
    _Sign("hetzner", "sys_vendor", "Hetzner"),
    _Sign("tencent", "sys_vendor", "Tencent Cloud"),
    _Sign("scaleway", "sys_vendor", "Scaleway"),
    _Sign("upcloud", "sys_vendor", "UpCloud"),
    _Sign("vultr", "sys_vendor", "Vultr"),
    _Sign("digitalocean", "sys_vendor", "DigitalOcean"),
    _Sign("linode", "sys_vendor", "Linode"),
    _Sign("linode", "sys_vendor", "Akamai"),
    _Sign("exoscale", "sys_vendor", "Exoscale"),
)
# how each provider spells an instance type, for `--instance` where DMI names no provider
_SPELLINGS = (
    ("alibaba", re.compile(r"ecs\.[a-z0-9.-]+")),
    ("azure", re.compile(r"(?i)standard_[a-z0-9_-]+")),
    ("oci", re.compile(r"(?i)(vm|bm)\.[a-z0-9.-]+")),
    ("hetzner", re.compile(r"(?i)c(ax|px|cx|x)\d{2}")),
    ("gcp", re.compile(r"[a-z]\d[a-z]?-[a-z]+(-\d+)?")),
    ("aws", re.compile(r"[a-z][a-z0-9-]+\.[a-z0-9-]+")),
)


def read_cloud(ids: dict[str, str], instance: str | None, unknown: dict[str, str]) -> Cloud:
    """Provider and type as DMI tells them; `instance` is what the user says and wins."""
    cloud = Cloud()
    sign = next((s for s in _SIGNS if ids.get(s.id, "").startswith(s.start)), None)
    if sign:
        cloud.provider, cloud.source = sign.provider, f"DMI {sign.id} {ids[sign.id]!r}"
    else:
        unknown["cloud.provider"] = _no_provider(ids)
    name = ids.get("product_name", "")
    if cloud.provider == "aws" and _AWS_TYPE.fullmatch(name):
        cloud.instance, cloud.source = name, f"DMI product_name {name!r}"
    if instance:
        head, slash, tail = instance.partition("/")  # aws/c8g.4xlarge, as the price list names it
        cloud.instance, cloud.source = tail if slash else instance, "--instance"
        cloud.provider = head if slash else cloud.provider or provider_of(instance)
        if cloud.provider:
            unknown.pop("cloud.provider", None)
    return cloud


def provider_of(instance: str) -> str | None:
    """The provider whose spelling an instance type has, or None."""
    return next((p for p, spelling in _SPELLINGS if spelling.fullmatch(instance)), None)


def _no_provider(ids: dict[str, str]) -> str:
    if not ids:
        return "there are no DMI ids to read"
    vendor = ids.get("sys_vendor") or ids.get("bios_vendor")
    return f"DMI names {vendor!r}, which is no cloud we know"


def guess_instance(
    cloud: Cloud, cpu: str | None, vcpus: int, memory: int | None, unknown: dict[str, str]
) -> None:
    """Completes `cloud` from the price catalogue: a guess, called one, with its candidates."""
    if cloud.instance:
        return
    if cloud.provider is None:
        unknown["cloud.instance"] = unknown.get("cloud.provider", "the provider is unknown")
        return
    rows = _catalogue(cloud.provider)
    found = [
        r.sku
        for r in rows
        if r.vcpus == vcpus and _fits(r.memory_gib, memory) and _same(r.cpu, cpu)
    ]
    cloud.candidates = sorted(set(found))
    asked = "--instance or --imds says it"
    if len(cloud.candidates) == 1:
        cloud.instance, cloud.guess = cloud.candidates[0], True
        cloud.source = f"guess: {vcpus} vCPU, memory and CPU fit one row of the price catalogue"
    elif cloud.candidates:
        fit = ", ".join(cloud.candidates)
        unknown["cloud.instance"] = f"DMI does not tell it; {fit} fit: {asked}"
    else:
        unknown["cloud.instance"] = f"DMI does not tell it, nor does the price catalogue: {asked}"


class _Priced(NamedTuple):
    sku: str
    vcpus: int | None
    memory_gib: float | None
    cpu: str | None


def _catalogue(provider: str) -> list[_Priced]:
    """The instance types of a provider that have a price here; none where no file names it."""
    from harness.prices import instances  # read only where DMI does not tell the type

    try:
        rows = instances(provider)
    except ArmbenchError:
        return []
    return [_Priced(r.sku, r.vcpus, r.memory_gib, r.cpu) for r in rows]


def _fits(memory_gib: float | None, total: int | None) -> bool:
    if memory_gib is None or total is None:
        return True
    return _LEAST_SHARE <= total / (memory_gib * _GIB) <= _MOST_SHARE


def _same(priced: str | None, cpu: str | None) -> bool:
    """A catalogue may name several CPUs for a type: `sapphire_rapids/emerald`."""
    if priced is None or cpu is None:
        return priced is None
    return any(cpu == p or cpu.startswith(p + "_") for p in priced.split("/"))
