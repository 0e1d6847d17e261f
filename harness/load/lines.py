"""Lines of a file that users bring: bounded, and numbered so that an error can name one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.errors import ArmbenchError

MAX_LINE_BYTES = 1 << 22  # a prompt of a million tokens
MAX_LINES = 2_000_000


def numbered_lines(path: Path, what: str) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line that is not blank, without the end of the line.

    Raises ArmbenchError where the file of a `what` cannot be read, is no text, has an over-long
    line or more lines than `MAX_LINES`.
    """
    if not path.is_file():
        raise ArmbenchError(f"no {what} at {path}", hint="give the path of a file")
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise bad_line(path, number, what, f"longer than {MAX_LINE_BYTES} bytes")
                if number > MAX_LINES:
                    raise ArmbenchError(
                        f"{what} {path} has more than {MAX_LINES} lines",
                        hint="cut it, or ask for fewer requests",
                    )
                if text := _decoded(path, number, what, line):
                    yield number, text
    except OSError as error:
        raise ArmbenchError(f"{what} {path} cannot be read: {error.strerror}") from error


def _decoded(path: Path, number: int, what: str, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise bad_line(path, number, what, "not UTF-8 text") from error


def bad_line(path: Path, number: int, what: str, fault: object) -> ArmbenchError:
    """The error for line `number` of a `what`."""
    return ArmbenchError(f"{what} {path}, line {number}: {fault}")
