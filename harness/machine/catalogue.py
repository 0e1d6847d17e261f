"""The products of `configs/cpus.toml`, by MIDR part or by x86 family and model."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct, field

from harness.errors import ArmbenchError
from harness.places import config_dir

X86_VENDORS = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD", "HygonGenuine": "Hygon"}


class Row(Struct, forbid_unknown_fields=True, kw_only=True):
    """One product; the head of cpus.toml says what each field means."""

    product: str
    vendor: str
    core: str | None = None
    parts: list[str] = field(default_factory=list)
    family: int | None = None
    models: list[int] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    smbios: list[str] = field(default_factory=list)
    instances: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    only_at: list[str] = field(default_factory=list)
    over_cores: int | None = None  # cores in one package that no sibling reaches
    most_cores: int | None = None
    l2_kib: int | None = None  # only where it tells the product from its siblings
    cores: int | None = None
    clock_ghz: float | None = None
    sve_bits: int | None = None
    memory: str | None = None
    peak_gb_s: float | None = None
    peak_source: str | None = None
    note: str | None = None
    ops: dict[str, int] = field(default_factory=dict)
    ops_source: str | None = None
    ops_unverified: list[str] = field(default_factory=list)


class Catalogue(Struct, forbid_unknown_fields=True, kw_only=True):
    """Everything in cpus.toml; `cpu` holds the products by id."""

    schema: int
    sources: dict[str, str]
    implementers: dict[str, str]
    cores: dict[str, str]
    smt: dict[str, list[str]]
    cpu: dict[str, Row]

    def core_name(self, part: str) -> str | None:
        """The core's name for an `implementer.part` key such as `41.d49`."""
        return self.cores.get(part)

    def implementer(self, part: str) -> str | None:
        return self.implementers.get(part.partition(".")[0])

    def smt_core(self, part: str) -> bool:
        """Whether cores of this part can run several hardware threads."""
        return part in self.smt.get("parts", [])

    def by_part(self, part: str) -> dict[str, Row]:
        return {i: row for i, row in self.cpu.items() if part in row.parts}

    def by_model(self, vendor: str, family: int, model: int, features: list[str]) -> str | None:
        """The id of the x86 product, that with the most fulfilled `needs`; None if not listed."""
        have = set(features)
        fitting = {
            i: row
            for i, row in self.cpu.items()
            if row.vendor == vendor
            and row.family == family
            and model in row.models
            and have.issuperset(row.needs)
        }
        return max(fitting, key=lambda i: len(fitting[i].needs), default=None)

    def width(self, cpu: str, kind: str) -> tuple[int, str] | None:
        """Operations per core and cycle of one type, and where the number is from."""
        row = self.cpu[cpu]
        if kind not in row.ops:
            return None
        name = "unverified" if kind in row.ops_unverified else row.ops_source or "unverified"
        return row.ops[kind], self.sources[name]


def part_key(midr: int) -> str:
    """`implementer.part` of a MIDR, as cpus.toml spells it."""
    return f"{midr >> 24 & 0xFF:02x}.{midr >> 4 & 0xFFF:03x}"


@cache
def catalogue(path: Path | None = None) -> Catalogue:
    """The shipped CPU list, or that in `path`.

    Raises ArmbenchError where the file is missing or malformed.
    """
    path = path or config_dir() / "cpus.toml"
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Catalogue)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as e:
        raise ArmbenchError(
            f"cannot use the CPU list {path}: {e}", hint="reinstall armbench"
        ) from e
