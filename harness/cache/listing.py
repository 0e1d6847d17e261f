"""What lies in the cache, by kind, with size, last use, and what it belongs to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from harness import places
from harness.cache import locks
from harness.units import format_bytes

NOTE = "conversion.json"
OTHER = "other"
# folders of the cache, and what is in them
KINDS = {
    "models": "checkpoints with synthetic weights",
    "conversions": "checkpoints converted for an engine",
    "references": "logits that the quality guard compares with",
    "kernels": "our kernels, built for this machine",
    "llamacpp": "what was built of llama.cpp",
    "tables": "results as tables of armbench sql",
    OTHER: "anything else",
}
_DRAFT = re.compile(r"\.(?P<name>.+)\.(?P<pid>[0-9]{1,9})")
_MOST_NOTE = 1 << 20


class ConversionNote(Struct, kw_only=True):
    """What a conversion was made from, and what making it took: conversion.json beside it."""

    engine: str
    dtype: str
    checkpoint: str
    fingerprint: str
    options: dict[str, object]  # those that the conversion depends on
    packages: dict[str, str]
    created: str  # ISO 8601, UTC
    seconds: float
    bytes: int
    peak_rss_bytes: int | None = None  # of the process that converted; None where not readable


class Entry(Struct, kw_only=True):
    """One thing in the cache; instants in seconds since 1970.

    `used` is the last use where that was noted, else the last change. `owner` writes a draft.
    """

    kind: str
    name: str
    path: str
    bytes: int
    changed: float
    used: float
    use_noted: bool = False
    belongs: str | None = None  # None where nothing says so
    owner: int | None = None
    leftover: bool = False  # a draft whose owner is dead
    busy: bool = False  # a live process writes or uses it


def entries(root: Path | None = None, proc: Path = Path("/proc")) -> list[Entry]:
    """Everything below `root`, the cache where none is given, largest first within its kind."""
    folder = root or places.cache_dir()
    opened = files_in_use(folder, proc)
    found = [_entry(kind, path, opened, proc) for kind, path in _paths(folder)]
    order = list(KINDS)
    return sorted(found, key=lambda e: (order.index(e.kind), -e.bytes, e.name))


def _paths(folder: Path) -> Iterator[tuple[str, Path]]:
    try:
        tops = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    for top in tops:
        if top.name == locks.FOLDER:
            continue
        if top.name in KINDS and top.is_dir() and not top.is_symlink():
            yield from ((top.name, path) for path in sorted(top.iterdir()))
        else:
            yield OTHER, top


def _entry(kind: str, path: Path, opened: set[Path], proc: Path) -> Entry:
    size, changed = _size(path)
    draft = _DRAFT.fullmatch(path.name)
    stamp = None if kind == OTHER else _stamp(path)
    left = is_leftover(path, proc)
    used_now = path in opened or any(path in file.parents for file in opened)
    return Entry(
        kind=kind,
        name=path.name,
        path=str(path),
        bytes=size,
        changed=changed,
        used=max(changed, stamp or 0.0),
        use_noted=stamp is not None,
        belongs=_belongs(kind, path),
        owner=int(draft["pid"]) if draft else None,
        leftover=left,
        busy=used_now or (bool(draft) and not left) or (kind != OTHER and locks.is_locked(path)),
    )


def _stamp(path: Path) -> float | None:
    try:
        return locks.lock_file(path).stat().st_mtime
    except OSError:
        return None


def _size(path: Path) -> tuple[int, float]:
    """(bytes, last change) of `path` and everything below it; links are not followed."""
    try:
        about = path.lstat()
    except OSError:
        return 0, 0.0  # gone meanwhile
    if not path.is_dir() or path.is_symlink():
        return about.st_size, about.st_mtime
    total, changed = 0, about.st_mtime
    for folder, _, files in os.walk(path):
        for name in files:
            try:
                inner = (Path(folder) / name).lstat()
            except OSError:
                continue
            total, changed = total + inner.st_size, max(changed, inner.st_mtime)
    return total, changed


def is_leftover(path: Path, proc: Path = Path("/proc")) -> bool:
    """Whether `path` is a draft that nobody writes any more.

    The lock is asked as well as the process: a cache may be shared with a container, whose
    processes have other numbers.
    """
    draft = _DRAFT.fullmatch(path.name)
    if draft is None:
        return False
    return not (proc / draft["pid"]).exists() and not locks.is_locked(path.with_name(draft["name"]))


def read_note(folder: Path) -> ConversionNote | None:
    """The note beside a conversion; None where there is none, as older ones have none."""
    path = folder / NOTE
    try:
        if path.stat().st_size > _MOST_NOTE:
            return None
        return msgspec.json.decode(path.read_bytes(), type=ConversionNote)
    except (OSError, msgspec.DecodeError):
        return None


def _belongs(kind: str, path: Path) -> str | None:
    if kind == "conversions" and (note := read_note(path)):
        peak = f", {format_bytes(note.peak_rss_bytes)} of memory" if note.peak_rss_bytes else ""
        return f"{note.checkpoint} for {note.engine} {note.dtype}{peak}"
    if kind == "models" and not path.name.startswith("."):
        return path.name.rpartition("-")[0] or None
    return None


def files_in_use(folder: Path, proc: Path = Path("/proc")) -> set[Path]:
    """Files below `folder` that a process of this user has open or mapped."""
    place = str(folder.resolve()) + "/"
    found: set[str] = set()
    for process in proc.glob("[0-9]*"):
        try:
            found |= {str(link.readlink()) for link in (process / "fd").iterdir()}
        except OSError:
            pass  # another user's, or it ended
        try:
            lines = (process / "maps").read_text(errors="replace").splitlines()
            found |= {line[line.index("/") :] for line in lines if "/" in line}
        except OSError:
            pass
    inside = {Path(name).relative_to(folder.resolve()) for name in found if name.startswith(place)}
    return {folder / name for name in inside if name.parts[0] != locks.FOLDER}
