"""The SMBIOS table as the firmware left it: processor names, DIMM type and speed.

Layout after DMTF DSP0134. The table is untrusted: lengths are checked, strings are cut, and what
does not parse ends the walk quietly. Serial numbers are never read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from harness.machine.tree import LARGE, Tree, clean

TABLE = "sys/firmware/dmi/tables/DMI"
_MAX_RECORDS = 8192
_MIB = 1024 * 1024
_MEMORY_TYPES = {
    0x18: "DDR3",
    0x1A: "DDR4",
    0x1D: "LPDDR3",
    0x1E: "LPDDR4",
    0x20: "HBM",
    0x21: "HBM2",
    0x22: "DDR5",
    0x23: "LPDDR5",
    0x24: "HBM3",
}
# what firmware writes where it has nothing to say
_EMPTY = {
    "",
    "not specified",
    "notspecified",
    "none",
    "(invalid)",
    "unknown",
    "to be filled by o.e.m.",
}


class Record(NamedTuple):
    """One structure: its type, its formatted area, its strings."""

    type: int
    body: bytes
    strings: list[str]

    def number(self, offset: int, size: int) -> int | None:
        """The little-endian integer at `offset`, or None beyond the structure's end."""
        end = offset + size
        return int.from_bytes(self.body[offset:end], "little") if end <= len(self.body) else None

    def string(self, offset: int) -> str | None:
        """The string the byte at `offset` points to; None where empty or a placeholder."""
        index = self.number(offset, 1) or 0
        text = self.strings[index - 1] if 0 < index <= len(self.strings) else ""
        return said(text)


class Processor(NamedTuple):
    """What the firmware calls a processor."""

    manufacturer: str | None
    version: str | None


class Dimm(NamedTuple):
    """A memory device in use: its type, transfers per second in millions, bytes."""

    type: str | None
    mts: int | None
    size_bytes: int | None


class Table(NamedTuple):
    """What is used of an SMBIOS table."""

    processors: list[Processor]
    dimms: list[Dimm]
    ids: dict[str, str]


_IDS = {  # the names of /sys/class/dmi/id: record type, offset of the string's number
    "bios_vendor": (0, 0x04),
    "bios_version": (0, 0x05),
    "sys_vendor": (1, 0x04),
    "product_name": (1, 0x05),
    "product_version": (1, 0x06),
    "product_family": (1, 0x1A),
    "board_vendor": (2, 0x04),
    "board_name": (2, 0x05),
    "chassis_vendor": (3, 0x04),
    "chassis_asset_tag": (3, 0x08),
}


def said(text: str | None) -> str | None:
    """`text` cleaned, or None where the firmware wrote a placeholder."""
    text = clean(text)
    return None if text is None or text.lower() in _EMPTY else text


def read_table(tree: Tree) -> Table | None:
    """The table of this machine, or None where it cannot be read (root only on real servers)."""
    data = tree.data(TABLE, LARGE)
    if not data:
        return None
    records = list(walk(data))
    ids = {}
    for name, (kind, offset) in _IDS.items():
        text = next((r.string(offset) for r in records if r.type == kind), None)
        if text:
            ids[name] = text
    return Table(
        [Processor(r.string(0x07), r.string(0x10)) for r in records if r.type == 4],
        [d for r in records if r.type == 17 and (d := _dimm(r)) is not None],
        ids,
    )


def walk(data: bytes) -> Iterator[Record]:
    """The structures of `data` until the end marker, the first damage or 8192 of them."""
    at = 0
    for _ in range(_MAX_RECORDS):
        if at + 4 > len(data):
            return
        kind, length = data[at], data[at + 1]
        if length < 4 or at + length > len(data) or kind == 127:
            return
        end = data.find(b"\0\0", at + length)
        end = len(data) if end < 0 else end
        strings = data[at + length : end][:65536].split(b"\0")
        yield Record(kind, data[at : at + length], [s[:256].decode("latin-1") for s in strings])
        at = end + 2


def _dimm(record: Record) -> Dimm | None:
    size = record.number(0x0C, 2)
    if not size or size == 0xFFFF:
        return None
    if size == 0x7FFF:
        count = ((record.number(0x1C, 4) or 0) & 0x7FFFFFFF) * _MIB
    else:
        count = (size & 0x7FFF) * (1024 if size & 0x8000 else _MIB)
    mts = _speed(record, 0x20, 0x58) or _speed(record, 0x15, 0x54)
    return Dimm(_MEMORY_TYPES.get(record.number(0x12, 1) or 0), mts, count or None)


def _speed(record: Record, offset: int, extended: int) -> int | None:
    mts = record.number(offset, 2)
    return (record.number(extended, 4) if mts == 0xFFFF else mts) or None
