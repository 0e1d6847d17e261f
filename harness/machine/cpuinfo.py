"""`/proc/cpuinfo`: which CPUs there are, of what kind, with what features.

On Arm it has no model name, only the parts of the MIDR; on x86 family, model and the name.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from harness.machine.tree import LARGE, MAX_CPUS, Tree, clean, integer

_WANTED = {
    "cpu implementer": "implementer",
    "cpu variant": "variant",
    "cpu part": "part",
    "cpu revision": "revision",
    "cpu architecture": "architecture",
    "features": "features",
    "flags": "features",
    "vendor_id": "vendor",
    "cpu family": "family",
    "model": "model",
    "model name": "model_name",
    "stepping": "stepping",
    "physical id": "package",
    "core id": "core",
    "isa": "isa",
}
_FEATURE = re.compile(r"[a-z0-9_.]{1,40}")
_SIDES = ("implementer", "variant", "part", "revision", "features", "architecture")


class Processor(NamedTuple):
    """One logical CPU: its number and the fields that identify it, as the kernel wrote them."""

    cpu: int
    fields: dict[str, str]

    @property
    def midr(self) -> int | None:
        """The main id register, put together from its four parts."""
        values = [integer(self.fields.get(k)) for k in ("implementer", "variant", "part")]
        if values[0] is None or values[2] is None:
            return None
        revision = integer(self.fields.get("revision")) or 0
        implementer, variant, part = (v or 0 for v in values)
        return (
            (implementer & 0xFF) << 24
            | (variant & 0xF) << 20
            | 0xF << 16
            | (part & 0xFFF) << 4
            | (revision & 0xF)
        )


def read_processors(tree: Tree) -> list[Processor]:
    """Every CPU of `/proc/cpuinfo` in its order, none where it cannot be read."""
    found: list[Processor] = []
    shared: dict[str, str] = {}
    current = shared
    for line in (tree.text("proc/cpuinfo", LARGE) or "").split("\n"):
        name, colon, value = line.partition(":")
        if not colon:
            continue
        key, value = name.strip().lower(), value.strip()
        if key == "processor" and value.isdecimal():
            if len(found) >= MAX_CPUS:
                break
            current = {}
            found.append(Processor(int(value[:9]), current))
        elif key in _WANTED:
            current.setdefault(_WANTED[key], value)
            shared.setdefault(_WANTED[key], value)
    return [_completed(p, shared) for p in found]


def _completed(processor: Processor, shared: dict[str, str]) -> Processor:
    """Old arm64 kernels write the id once for all CPUs, below the last of them."""
    if "implementer" not in processor.fields and "implementer" in shared:
        for key in _SIDES:
            if key in shared:
                processor.fields.setdefault(key, shared[key])
    return processor


def architecture_of(processors: list[Processor]) -> str | None:
    """The architecture that a cpuinfo was written on, in uname's spelling, or None."""
    fields = processors[0].fields if processors else {}
    if "implementer" in fields:
        eight = (integer(fields.get("architecture")) or 8) >= 8
        return "aarch64" if eight and "asimd" in fields.get("features", "asimd") else "armv7l"
    if "vendor" in fields and "features" in fields:
        return "x86_64" if " lm " in f" {fields['features']} " else "i686"
    return "riscv64" if fields.get("isa", "").startswith("rv64") else None


# Flags of CPUs that multiply bfloat16 in one instruction, best first.
BFLOAT16 = ("amx_bf16", "avx512_bf16", "svebf16", "bf16")


def features_of(processors: list[Processor]) -> list[str]:
    """The features that every CPU has, in the kernel's spelling and order."""
    spellings = list(dict.fromkeys(p.fields.get("features", "") for p in processors))[:64]
    lists = [[f for f in s.split()[:1024] if _FEATURE.fullmatch(f)] for s in spellings]
    if not lists:
        return []
    common = set(lists[0]).intersection(*lists[1:])
    return list(dict.fromkeys(f for f in lists[0] if f in common))


def model_name_of(processors: list[Processor]) -> str | None:
    """The marketing name the kernel prints; on Arm servers there is none."""
    return clean(processors[0].fields.get("model_name")) if processors else None
