"""Huge pages below what an engine allocates: `huge_pages` of the engines that glibc serves.

glibc's malloc then asks for them with `madvise` (tunable glibc.malloc.hugetlb = 1, from glibc 2.35
on; The GNU C Library, Memory Allocation Tunables). It reads the variable once, when a process
starts. How many came of it stands in a trial's conditions (`thp_bytes`).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

from harness.errors import ArmbenchError
from harness.machine.memory import THP, chosen
from harness.machine.tree import Tree

HELP = "memory of malloc in transparent huge pages, as glibc asks for them with madvise"
_TUNABLES = "GLIBC_TUNABLES"
_WANTED = "glibc.malloc.hugetlb=1"
_SINCE = (2, 35)


def environment(
    options: Mapping[str, Any], present: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The variable that asks for them, with what `present` holds of it already."""
    if not options["huge_pages"]:
        return {}
    others = present.get(_TUNABLES, "").split(":")
    kept = [one for one in others if one and not one.startswith("glibc.malloc.hugetlb=")]
    return {_TUNABLES: ":".join([*kept, _WANTED])}


def check(engine: str, options: Mapping[str, Any], tree: Tree | None = None) -> None:
    """Raise ArmbenchError where `options` ask for huge pages that this machine does not give."""
    if not options["huge_pages"]:
        return
    name, version = platform.libc_ver()
    number = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if name != "glibc" or number < _SINCE:
        raise ArmbenchError(
            f"huge_pages of {engine} needs glibc 2.35 or newer; found: {name} {version}".rstrip(
                ": "
            ),
            hint="leave it off here",
        )
    state = chosen(tree or Tree(), f"{THP}/enabled")
    if state not in ("always", "madvise"):
        raise ArmbenchError(
            f"huge_pages of {engine} needs transparent huge pages, and /{THP}/enabled says "
            f"{state or 'nothing'}",
            hint=f"as root: echo madvise > /{THP}/enabled",
        )
