"""How a user wishes threads to be placed: a strategy's name, a CPU list, or a file of lists."""

from __future__ import annotations

import json
import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import ArmbenchError
from harness.machine.tree import MAX_CPUS, number_list
from harness.units import format_cpu_list, parse_cpu_list

# compact fills one last-level-cache domain after the other; spread takes the domains in turn;
# numa gives each instance a whole node.
STRATEGIES = ("compact", "spread", "numa")
_LIST = re.compile(r"[\d,\-\s]*\d[\d,\-\s]*")
_SHAPE = re.compile(r"(\d{1,5})[xX×](\d{1,5})")
_MAX_BYTES = 64 * 1024
_EXAMPLE = 'write it like: instances = ["0-7", "8-15"], and driver = "16" if you like'


class Wish(NamedTuple):
    """`lists` are the CPUs of each instance, in order; None leaves them to the strategy `name`."""

    name: str
    lists: list[list[int]] | None = None
    driver: list[int] | None = None


def parse_wish(text: str) -> Wish:
    """The wish in `text`: `compact`, `spread`, `numa`, `0-15,32-47`, or the path of a file.

    A file is TOML, or JSON by its name, with the key `instances`, a list of CPU lists, and
    perhaps `driver`. Raises ArmbenchError where it is none of these, or the file is malformed.
    """
    text = text.strip()
    if text in STRATEGIES:
        return Wish(text)
    if _LIST.fullmatch(text):
        return Wish(text, [_cpus(text, "placement")])
    path = Path(text)
    if not _is_file(path):
        near = get_close_matches(text.lower(), STRATEGIES, n=1, cutoff=0.5)
        raise ArmbenchError(
            f"placement {text[:200]!r} is no strategy, no CPU list and no file",
            hint=(f"did you mean {near[0]!r}? " if near else "")
            + f"give {', '.join(STRATEGIES)}, a list such as 0-15,32-47, or a file",
        )
    return _from_file(path)


def parse_shape(text: str) -> tuple[int, int]:
    """(instances, threads) in `text` such as `8x16`. Raises ArmbenchError where it is no such."""
    match = _SHAPE.fullmatch(text.strip())
    if match is None:
        raise ArmbenchError(
            f"--plan is {text[:80]!r}", hint="write instances x threads of each, such as 8x16"
        )
    return int(match[1]), int(match[2])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a null byte
        return False


def _from_file(path: Path) -> Wish:
    table = _read(path)
    where = f"placement file {path}"
    if not isinstance(table, dict) or set(table) - {"instances", "driver"}:
        raise ArmbenchError(f"{where} has other keys than instances and driver", hint=_EXAMPLE)
    instances = table.get("instances")
    if not isinstance(instances, list) or not instances:
        raise ArmbenchError(f"{where} lists no instances", hint=_EXAMPLE)
    lists = [_cpus(cpus, f"{where}, instance {n}") for n, cpus in enumerate(instances)]
    seen: set[int] = set()
    for number, cpus in enumerate(lists):
        if twice := seen & set(cpus):
            raise ArmbenchError(
                f"{where}: instance {number} names CPUs {format_cpu_list(twice)}, which another "
                "instance has",
                hint="give every CPU to one instance",
            )
        seen.update(cpus)
    driver = _cpus(table["driver"], f"{where}, driver") if "driver" in table else None
    return Wish(path.name, lists, driver)


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ArmbenchError(f"placement file {path} is larger than 64 KiB", hint=_EXAMPLE)
        text = data.decode()
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ArmbenchError(f"placement file {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also TOML, JSON and Unicode errors
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ArmbenchError(f"placement file {path} is not valid {kind}: {error}") from error


def _cpus(text: object, where: str) -> list[int]:
    if not isinstance(text, str):
        raise ArmbenchError(f"{where} is {str(text)[:80]!r}, no CPU list", hint=_EXAMPLE)
    known = number_list(text)  # bounded, where a hostile list may repeat wide ranges
    if known is None:
        raise ArmbenchError(
            f"{where} is {text[:80]!r}, not a CPU list",
            hint=f"write it like 0-3,8; CPUs are below {MAX_CPUS}",
        )
    if not known:
        raise ArmbenchError(f"{where} names no CPU", hint=_EXAMPLE)
    return parse_cpu_list(text)
