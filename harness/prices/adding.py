"""Adding a dated row to the user's own price files."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from msgspec import Struct

from harness.errors import ArmbenchError
from harness.prices.faults import faults
from harness.records.money import Price

_PROVIDER = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_FORM = "write it PROVIDER/SKU, such as aws/c8g.4xlarge"


class Row(Struct, frozen=True, kw_only=True):
    """One instance as the user gave it."""

    name: str
    price: Price
    region: str
    vcpus: int
    memory_gib: float
    cpu: str
    arch: str
    source: str
    term: str = "on-demand"


def add(row: Row, folder: Path) -> Path:
    """Append `row` to `<folder>/<provider>.toml`, which is made where it is missing; the file.

    Nothing is written where the file would have a fault afterwards. Raises ArmbenchError then.
    """
    provider, slash, sku = row.name.partition("/")
    if not (slash and sku and _PROVIDER.fullmatch(provider)):
        raise ArmbenchError(f"instance {row.name!r} names no provider", hint=_FORM)
    file = folder / f"{provider}.toml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = file.read_text() if file.exists() else _head(provider, row.region)
        text = before.rstrip("\n") + "\n\n" + _table(row, sku, before)
        if found := faults(file, text):
            raise ArmbenchError("; ".join(found[:3]), hint="nothing was written")
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        draft.write_text(text)
        draft.replace(file)
    except OSError as error:
        raise ArmbenchError(f"{file} cannot be written: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ArmbenchError(f"{file} is not text: {error}") from error
    return file


def _head(provider: str, region: str) -> str:
    return f'kind = "instances"\nprovider = {_text(provider)}\ndefault_region = {_text(region)}\n'


def _table(row: Row, sku: str, before: str) -> str:
    """The list that holds the row, and its source where the file does not have it yet."""
    key = "s" + hashlib.sha256(row.source.encode()).hexdigest()[:8]
    known = f"[sources.{key}]" in before
    source = "" if known else f"[sources.{key}]\nurl = {_text(row.source)}\n\n"
    return source + (
        f"[[lists]]\nsource = {_text(key)}\nas_of = {row.price.as_of}\n"
        f"regions = [{_text(row.region)}]\ncurrency = {_text(row.price.currency)}\n"
        f'unit = "instance-hour"\nterm = {_text(row.term)}\ninstances = [\n'
        f"  {{ sku = {_text(sku)}, cpu = {_text(row.cpu)}, arch = {_text(row.arch)}, "
        f"vcpus = {row.vcpus}, memory_gib = {row.memory_gib!r}, amount = {row.price.amount!r} }},\n"
        "]\n"
    )


def _text(value: str) -> str:
    """A TOML basic string; JSON's escapes are among TOML's."""
    return json.dumps(value)
