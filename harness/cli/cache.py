"""`armbench cache`: what the program has put into its cache, and making room there."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from harness.cli.output import print_json
from harness.errors import Exit, unknown_name

if TYPE_CHECKING:
    from harness.cache import Entry, Wish


def add(commands: Any) -> None:
    """Add the command with its two parts."""
    cache = commands.add_parser("cache", help="what lies in the cache, and making room there")
    cache.set_defaults(handler=_list, json=False)
    parts = cache.add_subparsers(metavar="PART")
    listing = parts.add_parser("list", help="every entry with its size, age and last use")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(handler=_list)
    prune = parts.add_parser(
        "prune",
        help="remove entries; without a choice only what killed processes have left",
        description="Remove entries of the cache, at once and without a question; what a live "
        "process uses stays. Without a choice only what killed processes have left goes. "
        "Everything that goes is made again when it is needed.",
    )
    prune.add_argument(
        "--older-than", metavar="30d", help="what was not used for so long: 12h, 30d"
    )
    prune.add_argument(
        "--keep-bytes",
        "--max-size",
        dest="keep_bytes",
        metavar="20GB",
        help="the least recently used, until this much is left",
    )
    prune.add_argument(
        "--kind",
        action="append",
        default=[],
        metavar="KIND",
        help="of this kind only; alone: all of it; may be repeated",
    )
    prune.add_argument("--dry-run", action="store_true", help="say what would go, and stop")
    prune.add_argument("--json", action="store_true", help="print JSON")
    prune.set_defaults(handler=_prune)


def _list(arguments: argparse.Namespace) -> Exit:
    from harness import cache, places

    found = cache.entries()
    if arguments.json:
        print_json({"cache": str(places.cache_dir()), "entries": found})
        return Exit.FINE
    from harness.reports.cache import cache_sheet
    from harness.reports.terminal import console, show_sheet

    show_sheet(cache_sheet(found, str(places.cache_dir()), time.time()), console())
    return Exit.FINE


def _wish(arguments: argparse.Namespace) -> Wish:
    from harness import cache
    from harness.units import parse_bytes, parse_duration

    for kind in arguments.kind:
        if kind not in cache.KINDS:
            raise unknown_name("kind of cache entry", kind, cache.KINDS)
    older, most = arguments.older_than, arguments.keep_bytes
    return cache.Wish(
        kinds=arguments.kind,
        older_s=None if older is None else parse_duration(older),
        most_bytes=None if most is None else parse_bytes(most),
    )


def _prune(arguments: argparse.Namespace) -> Exit:
    from harness import cache
    from harness.units import format_bytes

    wish = _wish(arguments)
    gone = cache.chosen(cache.entries(), wish, time.time())
    left: list[Entry] = []
    if not arguments.dry_run:
        gone, left = cache.prune(gone)
    freed = sum(entry.bytes for entry in gone)
    if arguments.json:
        print_json({"dry_run": arguments.dry_run, "freed_bytes": freed, "entries": gone})
        return Exit.FINE
    for entry in gone:
        print(f"{entry.kind}/{entry.name}  {format_bytes(entry.bytes)}")
    for entry in left:
        print(f"left {entry.kind}/{entry.name}: it is in use now", file=sys.stderr)
    done = "would free" if arguments.dry_run else "freed"
    print(f"{done} {format_bytes(freed)} in {len(gone)} entries", file=sys.stderr)
    return Exit.FINE
