"""Finding and reading price files: the shipped ones, and those of `ARMBENCH_PRICES` in addition.

The user's files are not trusted: they are limited in size and number and checked before any row
of theirs is used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from harness.errors import ArmbenchError
from harness.places import config_dir
from harness.prices.faults import faults
from harness.prices.tables import (
    ApiFile,
    CurrencyFile,
    HostedFile,
    InstanceFile,
    parse,
)

MAX_FILE_BYTES = 1 << 20
MAX_FILES = 100

F = TypeVar("F", InstanceFile, ApiFile, CurrencyFile, HostedFile)
T = TypeVar("T")


def _user_dir() -> Path | None:
    own = os.environ.get("ARMBENCH_PRICES")
    return Path(own) if own else None


def _folders() -> list[Path]:
    own = _user_dir()
    return [config_dir() / "prices", *([own] if own else [])]


def _paths(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ArmbenchError(
            f"no folder of prices at {folder}", hint="set ARMBENCH_PRICES to a folder of TOML files"
        )
    paths = sorted(folder.glob("*.toml"))
    if len(paths) > MAX_FILES:
        raise ArmbenchError(f"{folder} has {len(paths)} price files, at most {MAX_FILES} are read")
    return paths


def _text(path: Path) -> str:
    if not path.is_file():
        raise ArmbenchError(f"{path}: not a regular file")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise ArmbenchError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        return raw.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ArmbenchError(f"{path}: cannot be read as text: {error}") from error


def _head(text: str, key: str) -> str | None:
    """A top-level string of a file, found without parsing it."""
    match = re.search(rf"""^{key}\s*=\s*["']([^"']*)["']""", text, re.MULTILINE)
    return match[1] if match else None


def files(kind: type[F], provider: str | None = None) -> Iterator[F]:
    """The files of one kind (and one provider), the shipped ones first; no others are parsed.

    Raises ArmbenchError where a file cannot be read, is not of the right form, or, if it is the
    user's, has any fault that `check` names.
    """
    user = _user_dir()
    for folder in _folders():
        for path in _paths(folder):
            text = _text(path)
            if folder == user and (found := faults(path, text)):
                raise ArmbenchError(
                    "; ".join(found[:3]), hint="mend the file or unset ARMBENCH_PRICES"
                )
            if _head(text, "kind") not in {kind.__struct_config__.tag, None}:
                continue
            if provider is not None and _head(text, "provider") not in {provider, None}:
                continue
            file = parse(path, text)
            if isinstance(file, kind):
                yield file


def check(*folders: Path) -> list[str]:
    """What is wrong in the price files of `folders` (default: the shipped ones and the user's).

    One line per fault; what a row admits with a flag is none. Checked: form and unknown fields,
    amounts above zero, unit and currency, sources, dates, sizes, rows given twice, and a price per
    vCPU that differs by over 2 % from its family's median.
    """
    found: list[str] = []
    priced: set[str] = set()
    named: dict[str, Path] = {}
    for folder in folders or _folders():
        for path in _checked(_paths, folder, found) or []:
            text = _checked(_text, path, found)
            if text is None:
                continue
            found += (wrong := faults(path, text))
            file = None if wrong else parse(path, text)
            if isinstance(file, ApiFile):
                priced |= file.series()
            elif isinstance(file, HostedFile):
                named |= {near.series: path for row in file.models for near in row.nearest}
    return found + [f"{named[one]}: no price of {one!r}" for one in sorted(named.keys() - priced)]


def _checked(read: Callable[[Path], T], path: Path, found: list[str]) -> T | None:
    try:
        return read(path)
    except ArmbenchError as error:
        found.append(error.message)
        return None


def in_force(rows: Iterable[T], when: Callable[[T], date], on: date | None, name: str) -> T:
    """The newest row not later than `on`; of equal dates the last one, which is the user's own.

    Raises ArmbenchError where the first row is later.
    """
    every = sorted(rows, key=when)
    past = [row for row in every if on is None or when(row) <= on]
    if not past:
        raise ArmbenchError(
            f"no price of {name} on or before {on}",
            hint=f"the first known one is of {when(every[0])}",
        )
    return past[-1]


def unknown(kind: str, name: str, known: Iterable[str], where: str) -> ArmbenchError:
    """The error for a name that is not in a long list, with the nearest valid ones."""
    names = {each.casefold(): each for each in known}
    near = [names[each] for each in get_close_matches(name.casefold(), names, n=3, cutoff=0.6)]
    found = f"did you mean {' or '.join(near)}? " if near else ""
    return ArmbenchError(
        f"unknown {kind} {name!r}", hint=f"{found}{len(names)} are known, see {where}"
    )
