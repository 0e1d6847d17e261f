"""Schedules on disk: stored as JSONL, read back whole, told apart by a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from harness.errors import ArmbenchError
from harness.load.lines import bad_line, numbered_lines
from harness.records.load import Planned

FORMAT = 1


def digest(planned: Iterable[Planned]) -> str:
    """SHA-256 over the requests as they are stored."""
    total = hashlib.sha256()
    for one in planned:
        total.update(msgspec.json.encode(one) + b"\n")
    return total.hexdigest()


def write(planned: Iterable[Planned], path: Path) -> None:
    """Store a schedule as JSONL: a line with its format, then one for each request.

    Raises ArmbenchError where it cannot be written.
    """
    try:
        with path.open("wb") as file:
            file.write(msgspec.json.encode({"armbench_schedule": FORMAT}) + b"\n")
            file.writelines(msgspec.json.encode(one) + b"\n" for one in planned)
    except OSError as error:
        raise ArmbenchError(f"schedule {path} cannot be written: {error.strerror}") from error


class _Head(Struct):
    armbench_schedule: int


def read(path: Path) -> list[Planned]:
    """The schedule in `path`.

    Raises ArmbenchError, with the number of the line, for a file that is none or of a newer form.
    """
    lines = numbered_lines(path, "schedule")
    found: list[Planned] = []
    number, text = next(lines, (1, ""))
    try:
        head = msgspec.json.decode(text, type=_Head)
        if head.armbench_schedule > FORMAT:
            raise ArmbenchError(
                f"schedule {path} has format {head.armbench_schedule}, this armbench knows up to "
                f"{FORMAT}",
                hint="upgrade armbench to read it",
            )
        for number, text in lines:  # noqa: B007 (an error names the last line)
            found.append(_checked(msgspec.json.decode(text, type=Planned), len(found)))
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise bad_line(path, number, "schedule", error) from error
    if not found:
        raise ArmbenchError(f"schedule {path} has no requests")
    return found


def _checked(one: Planned, place: int) -> Planned:
    if one.id != place:
        raise ValueError(f"id {one.id}, expected {place}")
    if not 0 <= (one.due_ns or 0) < 10**18 or not 0 <= one.think_ns < 10**15:
        raise ValueError("a time out of range")
    if not 0 < one.output_tokens <= 10**7 or not 0 < (one.input_tokens or 1) <= 10**7:
        raise ValueError("a length out of range")
    if not 0 <= one.seed < 2**63 or not 0 <= (one.prefix or 0) < 2**63:
        raise ValueError("a seed out of range")
    if not all(0 <= block < 2**63 for block in one.blocks) or not 0 <= one.turn < 10**6:
        raise ValueError("a block or turn out of range")
    if one.input_tokens is None and one.prompt is None and one.messages is None:
        raise ValueError("neither a prompt nor its length")
    return one
