"""Cloud instances and their list prices."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import date

from msgspec.structs import replace

from harness.errors import ArmbenchError, unknown_name
from harness.prices.files import files, in_force, unknown
from harness.prices.tables import ANY_REGION, InstanceFile, rented
from harness.records.machine import Cloud
from harness.records.money import InstancePrice, Price, Term

_SIZE = re.compile(r"([1-9]\d{0,3}):([1-9]\d{0,5}(?:\.\d{1,3})?)", re.ASCII)


def providers() -> list[str]:
    """The clouds with instance prices, by name."""
    return sorted({file.provider for file in files(InstanceFile)})


def instances(provider: str | None = None) -> list[InstancePrice]:
    """Every priced instance of fixed size, of one provider or of all: each region and each date.

    Flexible shapes (OCI) have no fixed size and are left out: ask `instance_price` for one.
    Raises ArmbenchError for an unknown provider or a price file that cannot be read.
    """
    if provider is not None and provider not in (known := providers()):
        raise unknown_name("price provider", provider, known)
    return [row for file in files(InstanceFile, provider) for row in file.rows()]


def instance_price(
    name: str, *, region: str | None = None, on: date | None = None, term: Term = "on-demand"
) -> InstancePrice:
    """The list price of one instance, such as `aws/c8g.4xlarge`, or a sku alone if it is unique.

    A flexible OCI shape is written `oci/VM.Standard.A1.Flex:4:24` (OCPUs, GiB). `region` defaults
    to the provider's (`default_region` in its file: us-east-1, eastus, us-central1, cn-hangzhou),
    or to the only region with a price. The newest row not later than `on` (default: the newest)
    counts, of those of `term`. Raises ArmbenchError for an unknown name, provider, region or
    term, for a name that two providers share, and for a date before the first row.
    """
    head, slash, tail = name.strip().partition("/")
    provider, sku = (head.lower(), tail) if slash else (None, head)
    known = instances(provider)
    rows = [row for row in known if row.sku.casefold() == sku.casefold()] + _shapes(provider, sku)
    if not rows:
        asked = f"{provider}/{sku}" if slash else sku
        names = {row.name if slash else row.sku for row in known}
        raise unknown("instance", asked, names, "`armbench prices`")
    owners = sorted({row.provider for row in rows})
    if len(owners) > 1:
        raise ArmbenchError(
            f"{len(owners)} providers have an instance {sku!r}: {', '.join(owners)}",
            hint=f"write {owners[0]}/{sku}",
        )
    rows = _of_term(rows, term)
    return in_force(_in_region(rows, region), lambda row: row.price.as_of, on, rows[0].name)


def cloud_price(cloud: Cloud, *, term: Term = "on-demand") -> Price:
    """The list price of the instance that `cloud` names, in its region where that is known.

    Where no row has that region, the price of the provider's usual one, which says so. Raises
    ArmbenchError as `instance_price` does.
    """
    name = f"{cloud.provider}/{cloud.instance}" if cloud.provider else str(cloud.instance)
    if cloud.region:
        with suppress(ArmbenchError):
            return instance_price(name, region=cloud.region, term=term).price
    found = instance_price(name, term=term).price
    if not cloud.region or found.region == ANY_REGION:
        return found
    told = f"of {found.region}: none is known in {cloud.region}, where the machine is"
    return replace(found, flag=f"{found.flag}; {told}" if found.flag else told)


def in_force_instances(
    provider: str | None = None, *, region: str | None = None, on: date | None = None
) -> list[InstancePrice]:
    """The newest row not later than `on` of each instance and term in each region.

    Without a `region` those of each provider's default one (and of `any`). Raises ArmbenchError as
    `instances` does, and for a region in which nothing is priced.
    """
    homes = {file.provider: file.default_region for file in files(InstanceFile, provider)}
    newest: dict[tuple[str, str, str], InstancePrice] = {}
    every = instances(provider)
    for row in sorted(every, key=lambda row: row.price.as_of):
        if row.region not in (region or homes[row.provider], ANY_REGION):
            continue
        if on is None or row.price.as_of <= on:
            newest[row.name, row.region, row.price.term] = row
    if region is not None and region not in (known := {row.region for row in every}):
        raise unknown_name("region of a price", region, known)
    return list(newest.values())


def _shapes(provider: str | None, name: str) -> list[InstancePrice]:
    """Prices of a flexible shape written `shape:ocpus:GiB`; none where the shape is unknown.

    Raises ArmbenchError where the size is missing or is no size.
    """
    sku, _, size = name.partition(":")
    match = _SIZE.fullmatch(size)
    found = []
    for file in files(InstanceFile, provider):
        for items in file.lists:
            for shape in items.shapes:
                if shape.sku.casefold() != sku.casefold():
                    continue
                if match is None:
                    raise ArmbenchError(
                        f"{name!r}: {shape.sku} is a flexible shape, its price needs a size",
                        hint="give OCPUs and GiB of memory, "
                        f"such as {file.provider}/{shape.sku}:4:24",
                    )
                ocpus, memory = int(match[1]), float(match[2])
                amount = ocpus * shape.per_ocpu + memory * shape.per_gib
                price = file.price(items, shape, f"{shape.sku}:{ocpus}:{memory:g}", amount)
                vcpus = ocpus * shape.vcpus_per_ocpu if shape.vcpus_per_ocpu else None
                found += [rented(shape, price, region, vcpus, memory) for region in items.regions]
    return found


def _of_term(rows: list[InstancePrice], term: Term) -> list[InstancePrice]:
    found = [row for row in rows if row.price.term == term]
    if not found:
        known = ", ".join(sorted({row.price.term for row in rows}))
        raise ArmbenchError(
            f"no {term} price of {rows[0].name}",
            hint=f"known: {known}; add yours with `armbench prices add`, or give it with --price",
        )
    return found


def _in_region(rows: list[InstancePrice], region: str | None) -> list[InstancePrice]:
    priced = {row.region for row in rows}
    if region is not None:
        wanted = {region, ANY_REGION}
    else:
        own = [file.default_region for file in files(InstanceFile, rows[0].provider)]
        default = next((each for each in reversed(own) if each in priced), None)  # the user's wins
        wanted = {default} if default else priced
    found = [row for row in rows if row.region in wanted]
    if not found:
        raise ArmbenchError(
            f"no price of {rows[0].name} in region {region!r}",
            hint=f"there is one in {', '.join(sorted(priced))}; or give your own with --price",
        )
    if region is None and len(wanted) > 1:
        raise ArmbenchError(
            f"{rows[0].name} has prices in {', '.join(sorted(wanted))}", hint="say which region"
        )
    return found
