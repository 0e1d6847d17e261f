"""What of the cache may go, and its removal. What a live process uses always stays."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from harness.cache import locks
from harness.cache.listing import OTHER, Entry
from harness.errors import ArmbenchError


class Wish(Struct, kw_only=True):
    """What is to go.

    Of `kinds` (none: all but `other`): what was not used for `older_s`, and then the least recently
    used until `most_bytes` are left. Without both, all of `kinds`; without kinds as well, nothing
    but what killed processes have left, which always goes.
    """

    kinds: Sequence[str] = ()
    older_s: float | None = None
    most_bytes: int | None = None


def chosen(entries: Sequence[Entry], wish: Wish, now: float) -> list[Entry]:
    """Those of `entries` that `wish` lets go, in the order to remove them."""
    # what is not known to be of this program's making goes only where it is named
    ours = [e for e in entries if (e.kind in wish.kinds if wish.kinds else e.kind != OTHER)]
    free = sorted((e for e in ours if not e.busy), key=lambda e: e.used)
    gone = [e for e in free if e.leftover or _unwanted(e, wish, now)]
    if wish.most_bytes is not None:
        left = sum(e.bytes for e in ours) - sum(e.bytes for e in gone)
        for entry in (e for e in free if e not in gone):
            if left <= wish.most_bytes:
                break
            gone.append(entry)
            left -= entry.bytes
    return gone


def _unwanted(entry: Entry, wish: Wish, now: float) -> bool:
    if wish.older_s is not None:
        return now - entry.used >= wish.older_s
    return bool(wish.kinds) and wish.most_bytes is None


def prune(entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Remove `entries`; (removed, left because a process has begun to use them).

    Raises ArmbenchError where the file system refuses.
    """
    removed: list[Entry] = []
    left: list[Entry] = []
    for entry in entries:
        path = Path(entry.path)
        if entry.kind == OTHER:
            _remove(path)
            removed.append(entry)
            continue
        with locks.removing(path) as free:
            if free:
                _remove(path)
            (removed if free else left).append(entry)
    return removed, left


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ArmbenchError(
            f"{error.filename or path} cannot be removed: {error.strerror}",
            hint="see who owns it, or set ARMBENCH_CACHE to a folder of your own",
        ) from error
