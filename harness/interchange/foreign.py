"""Another tool's file: read with bounds, taken apart by type, never trusted.

What a reader does not take stays as `extra`, cut to a bearable size and without anything that may
be a secret, an address or a command line.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import ArmbenchError

MAX_BYTES = 256 << 20
MAX_ROWS = 500_000  # lines of a table, values of a file
_MAX_TEXT = 2000
_MAX_ITEMS = 1000
_MAX_DEPTH = 8
_MAX_COUNT = 1 << 53  # whole numbers that every JSON reader has exactly
_SECRET = re.compile(
    r"api.?key|authori[sz]ation|passw|secret|bearer|cookie|header|credential|private.?key|"
    r"(^|auth|access|hf|refresh|session|bearer)_?token$|command|^(base_?)?urls?$|^target$|host"
)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SENSITIVE = re.compile(r"(?i)bearer\s|\b(sk|hf|ghp|gho|nvapi|glpat)[-_][\w-]{8,}|^\w+://")


class ForeignFile:
    """A file as it was read. `name` has no folder: where it lay is nobody's business."""

    def __init__(self, name: str, data: bytes, folder: Path = Path()) -> None:
        self.name = name
        self.folder = folder
        self.data = data
        self.sha256 = hashlib.sha256(data).hexdigest()

    @cached_property
    def documents(self) -> list[Any]:
        """What `documents` gives, decoded once."""
        return documents(self)

    @property
    def text(self) -> str:
        """The file as text; what is not UTF-8 is replaced."""
        return self.data.decode("utf-8-sig", "replace")


def read(path: Path) -> ForeignFile:
    """The file at `path`.

    Raises ArmbenchError where it is missing, no regular file, empty or above 256 MiB.
    """
    try:
        if not path.is_file():
            raise ArmbenchError(f"{path} is not a file", hint="give the file another tool wrote")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ArmbenchError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise ArmbenchError(f"{path} is larger than {MAX_BYTES >> 20} MiB, which is not read")
    if not data.strip():
        raise ArmbenchError(f"{path} is empty")
    return ForeignFile(path.name, data, path.parent.absolute())


def documents(file: ForeignFile) -> list[Any]:
    """The JSON values of a file: one, one a line, or several one after another.

    Raises ArmbenchError where it has none, is cut off, not JSON, nested too deeply, has too many
    values, or a text that no file can hold.
    """
    found = _decoded(file)
    if not found:
        raise ArmbenchError(f"{file.name} has nothing in it")
    if _SURROGATE.search(file.data):
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ArmbenchError(f"{file.name} has a text with half a character: {error}") from error
        except RecursionError as error:
            raise ArmbenchError(f"{file.name} is nested too deeply") from error
    return found


def _decoded(file: ForeignFile) -> list[Any]:
    try:
        return [msgspec.json.decode(file.data)]
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass  # several values, a byte order mark, or Python's NaN and Infinity
    except RecursionError as error:
        raise ArmbenchError(f"{file.name} is nested too deeply") from error
    try:
        lines = [line for line in file.data.split(b"\n", MAX_ROWS + 1) if line.strip()]
        if len(lines) <= MAX_ROWS:
            return [msgspec.json.decode(line) for line in lines]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return list(_values(file))
    except (ValueError, RecursionError) as error:
        raise ArmbenchError(f"{file.name} is cut off or not JSON: {error}") from error


def _values(file: ForeignFile) -> Iterator[Any]:
    text, decoder, at = file.text, json.JSONDecoder(), 0
    for number in range(MAX_ROWS + 1):
        while at < len(text) and text[at].isspace():
            at += 1
        if at >= len(text):
            return
        if number == MAX_ROWS:
            raise ValueError(f"more than {MAX_ROWS} values")
        value, at = decoder.raw_decode(text, at)
        yield value


def table(file: ForeignFile) -> list[dict[str, str]]:
    """The rows of a CSV file by the names in its first line.

    Raises ArmbenchError for a line with more or fewer fields than the first, a name given twice,
    a field above 128 KiB or too many lines.
    """
    try:
        reader = csv.reader(io.StringIO(file.text), strict=True)
        names = [name.strip() for name in next(reader, [])]
        if len(set(names)) != len(names):
            raise ArmbenchError(f"{file.name} has a column twice")
        rows: list[dict[str, str]] = []
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(names) or len(rows) >= MAX_ROWS:
                raise ArmbenchError(
                    f"{file.name} line {reader.line_num} has {len(fields)} fields, not {len(names)}"
                    if len(rows) < MAX_ROWS
                    else f"{file.name} has more than {MAX_ROWS} lines"
                )
            rows.append(dict(zip(names, fields, strict=True)))
    except csv.Error as error:
        raise ArmbenchError(f"{file.name} is not CSV: {error}") from error
    return rows


class Fields:
    """One object or row, read by type; `where` names it in errors.

    What was never asked for is what `rest` gives.
    """

    def __init__(self, raw: Any, where: str) -> None:
        if not isinstance(raw, Mapping):
            raise ArmbenchError(f"{where} is {_kind(raw)}, expected an object")
        self.raw = raw
        self.where = where
        self._taken: set[str] = set()

    def get(self, key: str) -> Any:
        """The value of `key` as it is, None where there is none."""
        self._taken.add(key)
        return self.raw.get(key)

    def text(self, key: str) -> str | None:
        """A text without control characters, cut at 2,000; None where absent or empty."""
        value = self.get(key)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise self.fault(key, value, "a text")
        return "".join(c for c in value[:_MAX_TEXT] if c.isprintable()).strip() or None

    def number(self, key: str, least: float | None = 0.0) -> float | None:
        """A finite number of at least `least`, also as text; None where absent, null or empty."""
        value = self.get(key)
        if value is None or value == "":
            return None
        found = number(value)
        if found is None or (least is not None and found < least):
            raise self.fault(
                key, value, "a number" if least is None else f"a number from {least:g}"
            )
        return found

    def count(self, key: str, most: int = _MAX_COUNT) -> int | None:
        """A whole number from 0 to `most`, also as text or float; None where absent."""
        value = self.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            found: float | None = value  # exact: nanoseconds since the epoch are no float
        else:
            found = self.number(key)
        if found is None:
            return None
        if found != int(found) or not 0 <= found <= most:
            raise self.fault(key, value, f"a whole number from 0 to {most}")
        return int(found)

    def need(self, key: str) -> float:
        """A number that has to be there. Raises ArmbenchError where it is not."""
        found = self.number(key)
        if found is None:
            raise ArmbenchError(f"{self.where} has no {key}")
        return found

    def need_count(self, key: str, most: int = _MAX_COUNT) -> int:
        """A count that has to be there. Raises ArmbenchError where it is not."""
        found = self.count(key, most)
        if found is None:
            raise ArmbenchError(f"{self.where} has no {key}")
        return found

    def inner(self, key: str) -> Fields:
        """The object under `key`, empty where there is none."""
        value = self.get(key)
        return Fields({} if value is None else value, f"{self.where}: {key}")

    def items(self, key: str) -> list[Any]:
        """The list under `key`, empty where there is none."""
        value = self.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.fault(key, value, "a list")
        return value

    def rest(self) -> dict[str, Any]:
        """Everything that was not taken, fit to be stored."""
        left = {k: v for k, v in self.raw.items() if k not in self._taken}
        found = kept(left)
        assert isinstance(found, dict)
        return found

    def fault(self, key: str, value: Any, expected: str) -> ArmbenchError:
        """The error for a value that is not what it should be."""
        return ArmbenchError(f"{self.where} has {key} = {value!r:.60}, expected {expected}")


def number(value: Any) -> float | None:
    """`value` as a finite float, from a number or a text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _kind(value: Any) -> str:
    names = {type(None): "null", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), "a number")


def kept(value: Any, depth: int = 0) -> Any:
    """`value` fit to be stored: bounded, finite, without secrets, addresses and command lines."""
    if isinstance(value, Mapping) and depth < _MAX_DEPTH:
        pairs = [(str(k)[:200], v) for k, v in list(value.items())[:_MAX_ITEMS]]
        return {k: kept(v, depth + 1) for k, v in pairs if not _SECRET.search(k.lower())}
    if isinstance(value, list) and depth < _MAX_DEPTH:
        return [kept(v, depth + 1) for v in value[:_MAX_ITEMS]]
    if isinstance(value, str):
        return None if _SENSITIVE.search(value) else value[:_MAX_TEXT]
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) <= _MAX_COUNT:
        return value
    return number(value)
