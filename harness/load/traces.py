"""Public traces of LLM serving as lists of requests.

- Azure LLM inference, CSV: TIMESTAMP, ContextTokens, GeneratedTokens. Stamps of 2023 look like
  `2023-11-16 18:17:03.9799600`, those of 2024 have an offset and at times no fraction:
  `2024-05-12 00:00:10+00:00`.
- BurstGPT, CSV: Timestamp (seconds), Model, Request tokens, Response tokens, Total tokens,
  Log Type; since release 2 with Session ID and Elapsed time. Failed requests have no response
  tokens.
- Mooncake, JSONL: timestamp (ms), input_length, output_length, hash_ids (of blocks of 512 tokens,
  each with all before it; the last one may be shorter).

None has text. Requests without input or output tokens are left out, and counted.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from harness.errors import ArmbenchError
from harness.load.lines import bad_line, numbered_lines
from harness.units import NS_PER_S

BLOCK_TOKENS = 512
MOST_TOKENS = 10_000_000  # of one request
_MOST_NS = 10 * 366 * 86400 * NS_PER_S
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Row(NamedTuple):
    """One request. `at_ns` is from the first request; equal leading `blocks` are equal text."""

    at_ns: int
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


class Trace(Struct, frozen=True, kw_only=True):
    """Requests in order of their instants; `left_out` had no tokens of one kind."""

    form: str
    rows: list[Row]
    left_out: int


class _Mooncake(Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int] = []


Parse = Callable[[str], Row]


def read_trace(path: Path, *, most: int | None = None, until_s: float | None = None) -> Trace:
    """The requests of the trace at `path`, in order of their instants.

    Reading ends with the first `most` requests, and with the first one that is `until_s` after the
    file's first: public traces are in order, and some are longer than memory. Raises
    ArmbenchError, with the number of the line, for a file that is no such trace.
    """
    rows: list[Row] = []
    left_out = 0
    form, parse = "", None
    for number, line in numbered_lines(path, "trace"):
        if parse is None:
            form, parse = _form(path, line)
            if form != "Mooncake":
                continue
        row = _parsed(path, number, line, parse)
        if rows and until_s is not None and row.at_ns - rows[0].at_ns >= until_s * NS_PER_S:
            break
        if row.input_tokens and row.output_tokens:
            rows.append(row)
        else:
            left_out += 1
        if most is not None and len(rows) >= most:
            break
    if not rows:
        raise ArmbenchError(
            f"trace {path} has no request with input and output tokens",
            hint="give an Azure LLM inference CSV, a Mooncake JSONL or a BurstGPT CSV",
        )
    return Trace(form=form, rows=_from_zero(path, rows), left_out=left_out)


def _from_zero(path: Path, rows: list[Row]) -> list[Row]:
    rows.sort(key=lambda row: row.at_ns)
    first, last = rows[0].at_ns, rows[-1].at_ns
    if last - first > _MOST_NS:
        raise ArmbenchError(f"trace {path} spans more than ten years")
    return [row._replace(at_ns=row.at_ns - first) for row in rows]


def _form(path: Path, head: str) -> tuple[str, Parse]:
    if head.startswith("{"):
        return "Mooncake", _mooncake
    try:
        names = [name.strip().casefold() for name in _fields(head)]
    except ValueError:
        names = []
    if {"timestamp", "contexttokens", "generatedtokens"} <= set(names):
        return "Azure", _reader(names, ("timestamp", "contexttokens", "generatedtokens"), _stamp)
    if {"timestamp", "request tokens", "response tokens"} <= set(names):
        columns = ("timestamp", "request tokens", "response tokens")
        return "BurstGPT", _reader(names, columns, lambda text: round(float(text) * NS_PER_S))
    raise ArmbenchError(
        f"trace {path} begins with {head[:60]!r}",
        hint="known are Azure LLM inference CSV (TIMESTAMP,ContextTokens,GeneratedTokens), "
        "Mooncake JSONL (timestamp, input_length, output_length) and BurstGPT CSV "
        "(Timestamp,…,Request tokens,Response tokens,…)",
    )


def _parsed(path: Path, number: int, line: str, parse: Parse) -> Row:
    try:
        row = parse(line)
    except (ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise bad_line(path, number, "trace", error) from error
    for name, value in (("input", row.input_tokens), ("output", row.output_tokens)):
        if not 0 <= value <= MOST_TOKENS:
            raise bad_line(path, number, "trace", f"{value} {name} tokens")
    return row


def _fields(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error as error:
        raise ValueError(error) from error


def _reader(names: Sequence[str], columns: Sequence[str], instant: Callable[[str], int]) -> Parse:
    """A parser of CSV lines with the header `names`; `columns` are instant, input and output."""
    at, given, made = (names.index(column) for column in columns)

    def parse(line: str) -> Row:
        fields = _fields(line)
        if len(fields) < len(names):
            raise ValueError(f"{len(fields)} fields, the header has {len(names)}")
        return Row(instant(fields[at]), int(fields[given]), int(fields[made]))

    return parse


def _stamp(text: str) -> int:
    """Nanoseconds of an ISO 8601 stamp, UTC where it has no offset; cut off after microseconds."""
    when = datetime.fromisoformat(text.strip())
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return (when - _EPOCH) // timedelta(microseconds=1) * 1000


def _mooncake(line: str) -> Row:
    row = msgspec.json.decode(line, type=_Mooncake)
    at = round(row.timestamp * 1e6)
    return Row(at, row.input_length, row.output_length, tuple(row.hash_ids))
