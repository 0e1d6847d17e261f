"""The cache of this program: what lies in it, who uses it, and what may go.

KIND/NAME           an entry: a folder or a file
KIND/.NAME.PID      a draft, that process PID is writing or was killed over
locks/KIND/NAME     locked while NAME is written or used; its time is the last use
"""

from __future__ import annotations

from harness.cache.listing import KINDS, NOTE, OTHER, ConversionNote, Entry, entries, is_leftover
from harness.cache.locks import use, writing
from harness.cache.pruning import Wish, chosen, prune

__all__ = [
    "KINDS",
    "NOTE",
    "OTHER",
    "ConversionNote",
    "Entry",
    "Wish",
    "chosen",
    "entries",
    "is_leftover",
    "prune",
    "use",
    "writing",
]
