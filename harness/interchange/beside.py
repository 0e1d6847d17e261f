"""Files beside a foreign result that tell of its machine: what it is, and what was measured of it.

Known by content: `armbench machine --json`, `lscpu -J`, a DMI dump, a file that names the instance
(`vendor`, `instance`), and sc-membench's CSV (github.com/SpareCores/sc-membench: `size_kb` is the
buffer of each thread, MB/s are 2^20 bytes, summed over threads), which is kept as it is: a ceiling
is what our own kernels measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

from harness.errors import ArmbenchError
from harness.interchange import lscpu
from harness.interchange.foreign import Fields, ForeignFile, table
from harness.machine.tree import clean
from harness.records.machine import Machine

MEMBENCH = "membench"
_PROVIDERS = {"alicloud": "alibaba", "hcloud": "hetzner"}  # as others name them


class Beside(Struct, kw_only=True):
    """What the files tell; `instance` as the price list spells it, `aws/c8g.4xlarge`."""

    machine: Machine | None = None
    instance: str | None = None
    extra: dict[str, object] = field(default_factory=dict)


def read(files: Sequence[ForeignFile]) -> Beside:
    """What `files` tell of one machine.

    Raises ArmbenchError for a file that is none of the known ones, or a DMI dump without `lscpu`.
    """
    found = Beside()
    cpus: Any = None
    dmi: Any = None
    kernel: str | None = None
    for file in files:
        if _is_membench(file):
            found.extra[MEMBENCH] = _membench(file)
            continue
        value = file.documents[0]
        if lscpu.is_lscpu(value):
            cpus = value
        elif lscpu.is_dmi(value):
            dmi = value
        elif isinstance(value, dict) and {"cpu", "topology"} <= set(value):
            found.machine = _machine(value, file)
        elif isinstance(value, dict) and "instance" in value:
            found.instance, kernel = _meta(Fields(value, file.name))
        else:
            raise ArmbenchError(
                f"{file.name} tells nothing of a machine that is known here",
                hint="give `lscpu -J`, a DMI dump as JSON, or `armbench machine --json`",
            )
    if cpus is not None and found.machine is None:
        found.machine = lscpu.machine(cpus, dmi, kernel=kernel)
    elif dmi is not None and found.machine is None:
        raise ArmbenchError("a DMI dump alone does not tell the CPUs", hint="give `lscpu -J` too")
    return found


def _machine(value: Any, file: ForeignFile) -> Machine:
    try:
        return msgspec.convert(value, Machine)
    except msgspec.ValidationError as error:
        raise ArmbenchError(f"{file.name} is not as `armbench machine --json`: {error}") from error


def _meta(fields: Fields) -> tuple[str | None, str | None]:
    """(instance, kernel) of a file that names them."""
    vendor = fields.text("vendor") or fields.text("provider")
    instance = fields.text("instance")
    ran = fields.inner("llama_bench")
    kernel = clean(fields.text("kernel") or ran.text("kernel"))
    if instance is None or vendor is None:
        return instance, kernel
    return f"{_PROVIDERS.get(vendor, vendor)}/{instance}", kernel


def _is_membench(file: ForeignFile) -> bool:
    return file.data[:200].lstrip(b"\xef\xbb\xbf").startswith(b"size_kb,operation,")


def _membench(file: ForeignFile) -> list[dict[str, float | str | None]]:
    """Bandwidth and latency by working set of one thread, in bytes, bytes per second, seconds."""
    rows: list[dict[str, float | str | None]] = []
    for number, raw in enumerate(table(file), 2):
        row = Fields(raw, f"{file.name} line {number}")
        operation = row.text("operation")
        latency = operation == "latency"
        rows.append(
            {
                "operation": operation,
                "thread_bytes": row.need("size_kb") * 1024,
                "threads": row.need("threads"),
                "bytes_per_s": None if latency else row.need("bandwidth_mb_s") * 2**20,
                "latency_s": row.need("latency_ns") / 1e9 if latency else None,
            }
        )
    return rows
