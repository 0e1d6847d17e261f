"""`armbench ceilings`: everything this machine can do at best, by type and thread count, stored."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

import harness
from harness import store
from harness.ceilings.measuring import DEFAULT, SHORT, cache_curve, curves, measure
from harness.errors import ArmbenchError
from harness.machine.limits import available_bytes
from harness.machine.numa import memory_nodes
from harness.records.ceilings import SURVEY_SCHEMA, CacheCurve, Ceilings, Survey
from harness.records.machine import Machine
from harness.units import parse_cpu_list

# A survey is reused for a day, and only while a calibration says that it still holds.
FRESH_S = 24 * 3600
_SCALED = SHORT  # kinds that are measured at every thread count; the rest at the last one only
_MAX_BYTES = 64 * 2**20

Say = Callable[[str], None]


def parse_counts(text: str, most: int) -> list[int]:
    """Thread counts in `text` such as `1,2,4,max`, rising; those above `most` are left out.

    Raises ArmbenchError for anything else, or where none is left.
    """
    counts = set()
    for part in filter(None, (p.strip() for p in text.split(","))):
        if part != "max" and not (part.isascii() and part.isdigit() and int(part) > 0):
            raise ArmbenchError(f"--threads is {text!r}", hint="write it like 1,2,4,max")
        counts.add(most if part == "max" else int(part))
    if not (fitting := sorted(n for n in counts if n <= most)):
        raise ArmbenchError(
            f"--threads {text} is more than the {most} CPUs there are to use",
            hint="lower it, or name more CPUs with --cpus or --placement",
        )
    return fitting


def last_cache_bytes(machine: Machine, cpus: Sequence[int]) -> int | None:
    """Bytes of all last-level caches that `cpus` can use; None where no size is shown."""
    sized = [c for c in machine.caches if c.type != "instruction" and c.size_bytes]
    if not sized:
        return None
    last = max(sized, key=lambda c: c.level)
    place = set(cpus)
    domains = sum(bool(place & set(parse_cpu_list(d))) for d in machine.topology.llc_domains)
    return (last.size_bytes or 0) * max(1, domains)


def private_cache_bytes(machine: Machine) -> int | None:
    """Bytes of the largest cache that each core has for itself; None where no size is shown."""
    threads = machine.topology.threads_per_core or 1
    own = [
        c.size_bytes
        for c in machine.caches
        if c.type != "instruction" and c.size_bytes and c.shared_by <= threads
    ]
    return max(own, default=None)


def measure_on(
    machine: Machine, cpus: Sequence[int], *, which: Sequence[str] | None = None, short: bool
) -> Ceilings:
    """The ceilings of `cpus` of this machine, memory placed as an engine's on them would be."""
    nodes = memory_nodes(machine, cpus)
    return measure(
        cpus,
        features=machine.cpu.features,
        which=which,
        short=short,
        node=nodes[0] if len(nodes) == 1 else None,
        llc_bytes=last_cache_bytes(machine, cpus),
        private_bytes=private_cache_bytes(machine),
        most_bytes=available_bytes(machine.limits) // 2,
    )


def take(
    machine: Machine,
    cpus: Sequence[int],
    counts: Sequence[int],
    *,
    placement: str,
    short: bool,
    say: Say,
) -> Survey:
    """Every kind on the first n of `cpus` for each count n, and the cache curve on the most.

    Where there is no compiler every value is unknown, with the reason.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    survey = Survey(
        schema=SURVEY_SCHEMA,
        armbench=harness.__version__,
        created=now,
        machine=machine,
        placement=placement,
        short=short,
    )
    say("building the kernels, where they are not in the cache")
    for count in counts:
        last = count == counts[-1]
        which = SHORT if short else DEFAULT if last else _SCALED
        say(f"{', '.join(which)} on {count} thread{'' if count == 1 else 's'}")
        survey.ceilings.append(measure_on(machine, cpus[:count], which=which, short=short))
    survey.scaling = curves(survey.ceilings, _SCALED)
    if not short:
        say("reading and latency by working set")
        survey.curve = curve_on(machine, cpus[: counts[-1]])
    return survey


def curve_on(machine: Machine, cpus: Sequence[int]) -> CacheCurve:
    """The cache curve of `cpus`, memory placed as in `measure_on`."""
    nodes = memory_nodes(machine, cpus)
    return cache_curve(
        cpus,
        features=machine.cpu.features,
        node=nodes[0] if len(nodes) == 1 else None,
        most_bytes=available_bytes(machine.limits) // 2,
    )


def save(survey: Survey, path: Path) -> None:
    """Replace `path` by `survey`, as `store.write` does."""
    store.write(msgspec.json.encode(survey), path)


def is_survey(path: Path) -> bool:
    """Whether `path` looks like a file of ceilings rather than a result."""
    try:
        with path.open("rb") as file:
            head = file.read(_MAX_BYTES)
        raw = json.loads(head)
    except (OSError, ValueError, RecursionError):
        return False  # whoever reads it says what is wrong
    return isinstance(raw, dict) and "ceilings" in raw and "plan" not in raw


def load(path: Path) -> Survey:
    """The survey in `path`. Raises ArmbenchError where there is none that can be read."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ArmbenchError(f"{path} is larger than any file of ceilings")
        raw = json.loads(path.read_bytes())
    except OSError as error:
        raise ArmbenchError(f"ceilings {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ArmbenchError(
            f"ceilings {path} are cut off or not JSON: {error}", hint="run `armbench ceilings`"
        ) from error
    number = raw.get("schema") if isinstance(raw, dict) else None
    if not isinstance(number, int) or number > SURVEY_SCHEMA:
        raise ArmbenchError(
            f"ceilings {path} have schema {number!r}, this armbench knows up to {SURVEY_SCHEMA}",
            hint="run `armbench ceilings`, or upgrade armbench",
        )
    try:
        return msgspec.convert(raw, Survey)
    except msgspec.ValidationError as error:
        raise ArmbenchError(f"ceilings {path} do not follow their schema: {error}") from error


def fresh(
    folder: Path, machine: Machine, cpus: str, now: datetime.datetime, *, build: str
) -> Ceilings | None:
    """The newest ceilings in `folder` of the same CPUs and the same kernels, at most a day old."""
    files = sorted((p for p in folder.glob("*.json") if not p.name.startswith(".")), reverse=True)
    for path in files:
        try:
            survey = load(path)
            age = (now - datetime.datetime.fromisoformat(survey.created)).total_seconds()
        except (ArmbenchError, ValueError, TypeError):
            continue  # a file of another version, or a damaged one, is no reason to stop a run
        if not 0 <= age <= FRESH_S or survey.machine.cpu != machine.cpu:
            continue
        for one in survey.ceilings:
            if one.cpus == cpus and one.build == build and one.read_bytes_per_s:
                return one
    return None
