"""Errors a user can meet, and the exit codes the command ends with."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the `armbench` command."""

    FINE = 0
    FAULT = 1
    USER = 2
    REGRESSION = 3
    INCONCLUSIVE = 4
    NOT_COMPARABLE = 5
    INVALID = 6
    INTERRUPTED = 130


EXIT_MEANINGS: dict[Exit, str] = {
    Exit.FINE: "fine",
    Exit.FAULT: "internal fault",
    Exit.USER: "the user can mend it",
    Exit.REGRESSION: "regression",
    Exit.INCONCLUSIVE: "inconclusive: more repeats needed",
    Exit.NOT_COMPARABLE: "not comparable",
    Exit.INVALID: "the run is not valid",
    Exit.INTERRUPTED: "interrupted",
}


class ArmbenchError(Exception):
    """Something the user can mend: what was asked, what was found, and a hint on what to do.

    `exit_code` is what the command ends with.
    """

    exit_code: Exit = Exit.USER

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotComparable(ArmbenchError):
    """Two results answer different questions."""

    exit_code = Exit.NOT_COMPARABLE


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ArmbenchError:
    """The error for a name that is not in a list, with the nearest valid one as hint."""
    names = sorted(known)
    near = get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ArmbenchError(f"unknown {kind} {name!r}", hint=f"{hint}known: {', '.join(names)}")
