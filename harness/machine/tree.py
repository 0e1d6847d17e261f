"""Reading a file system that may be this machine's own or a captured one, and is never trusted.

Every read is bounded, never blocks, and never leaves the root: a captured tree may hold pipes,
links to elsewhere or gigabytes of nonsense.
"""

# thousands of reads, and os.path is several times as fast as pathlib
# ruff: noqa: PTH110, PTH114, PTH118, PTH208
from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

SMALL = 64 * 1024  # one value or one table of /proc or /sys
LARGE = 16 * 1024 * 1024  # /proc/cpuinfo of 4096 CPUs, an SMBIOS table
MAX_CPUS = 8192  # the largest NR_CPUS that any Linux architecture allows
MAX_NAMES = 65536

_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")
_INTEGER = re.compile(r"-?(?:0[xX][0-9a-fA-F]{1,16}|\d{1,19})")
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class Tree:
    """A root folder with `proc` and `sys` below it; `live` where it is this machine's own."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = os.path.realpath(root)
        self.live = self.root == os.path.realpath("/")
        self._folders: dict[str, str] = {"": self.root}

    def data(self, path: str, limit: int = SMALL) -> bytes | None:
        """At most `limit` bytes of the file at `path` below the root, or None."""
        try:
            handle = self._open(path)
        except (OSError, ValueError):
            return None
        try:
            return _drain(handle, limit) if stat.S_ISREG(os.fstat(handle).st_mode) else None
        except OSError:
            return None
        finally:
            os.close(handle)

    def text(self, path: str, limit: int = SMALL) -> str | None:
        """The file as text, or None where there is none to read."""
        data = self.data(path, limit)
        return None if data is None else data.decode("utf-8", "replace")

    def line(self, path: str) -> str | None:
        """The first line, printable characters only and at most 256; None where empty."""
        text = self.text(path, 4096)
        return clean(text.split("\n", 1)[0], 256) if text else None

    def number(self, path: str) -> int | None:
        """The integer (decimal, or hex with 0x) the file holds, or None."""
        return integer(self.line(path))

    def cpus(self, path: str) -> list[int] | None:
        """The CPU or node numbers of a kernel list, ascending, or None."""
        text = self.text(path)
        return None if text is None else number_list(text)

    def names(self, path: str) -> list[str]:
        """The names in a folder, sorted; none where it cannot be listed."""
        try:
            return sorted(os.listdir(self._inside(path)))[:MAX_NAMES]
        except (OSError, ValueError):
            return []

    def exists(self, path: str) -> bool:
        try:
            return os.path.exists(self._inside(path))
        except (OSError, ValueError):
            return False

    def why(self, path: str) -> str:
        """Why nothing can be read at `path`, in words."""
        full = os.path.join(self.root, path)
        if not os.path.lexists(full):
            return f"/{path} does not exist"
        if not os.access(full, os.R_OK):
            return f"/{path} is not readable without root"
        return f"/{path} holds nothing usable"

    def _open(self, path: str) -> int:
        if self.live:
            return os.open(os.path.join(self.root, path), _OPEN)
        folder, _, name = path.rpartition("/")
        try:
            return os.open(os.path.join(self._folder(folder), name), _OPEN | _NOFOLLOW)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return os.open(self._inside(path), _OPEN)

    def _folder(self, path: str) -> str:
        """Where a folder below the root really lies; remembered, one look at each level."""
        known = self._folders.get(path)
        if known is None:
            above, _, name = path.rpartition("/")
            known = os.path.join(self._folder(above), name)
            if os.path.islink(known):
                known = self._inside(path)
            self._folders[path] = known
        return known

    def _inside(self, path: str) -> str:
        full = os.path.join(self.root, path)
        if self.live:
            return full
        real = os.path.realpath(full)
        if real != self.root and not real.startswith(self.root + os.sep):
            raise OSError(f"{path} leads outside the captured tree")
        return real


def clean(text: str | None, limit: int = 128) -> str | None:
    """`text` without control characters and outer blanks, cut at `limit`; None where empty."""
    if not text:
        return None
    return "".join(c for c in text[: 4 * limit] if c.isprintable()).strip()[:limit] or None


def integer(text: str | None) -> int | None:
    """The integer in `text`, or None where it holds anything else or over 19 digits."""
    text = (text or "").strip()
    return int(text, 0 if "x" in text.lower() else 10) if _INTEGER.fullmatch(text) else None


def number_list(text: str) -> list[int] | None:
    """Numbers of a kernel list (`0-3,8`), ascending; None where it is malformed or too long."""
    found: set[int] = set()
    budget = 4 * MAX_CPUS  # a hostile list may repeat a wide range thousands of times
    for part in filter(None, (p.strip() for p in text.strip("\x00 \t\n").split(","))):
        match = _RANGE.fullmatch(part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        budget -= high - low + 1
        if high < low or high >= MAX_CPUS or budget < 0:
            return None
        found.update(range(low, high + 1))
    return sorted(found)


def partition(cpus: Iterable[int], groups: dict[int, list[int]]) -> list[list[int]]:
    """`cpus` in disjoint groups: each CPU with those of `groups[cpu]` that are not yet placed.

    A CPU without a group, or one whose group leaves it out, stands alone.
    """
    left, result = dict.fromkeys(cpus), []
    for cpu in list(left):
        if cpu in left:
            group = [c for c in groups.get(cpu, []) if c in left]
            group = group if cpu in group else [cpu]
            result.append(group)
            for member in group:
                del left[member]
    return result


def _drain(handle: int, limit: int) -> bytes:
    parts: list[bytes] = []
    while limit > 0 and (part := os.read(handle, min(limit, 1 << 20))):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)
