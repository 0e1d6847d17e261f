"""Event streams (text/event-stream) as bytes, by the rules of the WHATWG HTML standard.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream. `id` and
`retry` concern reconnection, which a load test never does: they are read over.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\r|\n")


class Event(NamedTuple):
    """One event: its type (empty where none was given) and its data lines joined by LF."""

    name: bytes
    data: bytes


class EventStream:
    """Cuts an event stream into events, whatever pieces it comes in; never raises."""

    def __init__(self) -> None:
        self._begun = False
        self._after_cr = False
        self._partial: list[bytes] = []  # of a line; joined once, however many pieces it has
        self._name = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[Event]:
        """The events that `piece` completes."""
        if not self._begun:
            piece = self._without_mark(piece)
        if self._after_cr and piece:
            self._after_cr = False
            piece = piece.removeprefix(b"\n")
        if not piece:
            return []
        if b"\r" in piece:
            self._after_cr = piece.endswith(b"\r")
            lines = _LINE_END.split(piece)
        else:
            lines = piece.split(b"\n")
        last = lines.pop()
        if lines and self._partial:
            lines[0] = b"".join([*self._partial, lines[0]])
            self._partial.clear()
        if last:
            self._partial.append(last)
        return self._take(lines)

    def rest(self) -> Event | None:
        """What a stream leaves that ends within an event. The standard drops it; ends it here."""
        found = self._take([b"".join([*self._partial]), b""] if self._partial else [b""])
        self._partial.clear()
        return found[0] if found else None

    def _without_mark(self, piece: bytes) -> bytes:
        whole = b"".join([*self._partial, piece])
        self._partial.clear()
        if len(whole) < len(_BOM) and _BOM.startswith(whole):
            self._partial.append(whole)
            return b""
        self._begun = True
        return whole.removeprefix(_BOM)

    def _take(self, lines: list[bytes]) -> list[Event]:
        events: list[Event] = []
        data = self._data
        for line in lines:
            if line[:5] == b"data:":
                data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line:
                if data:
                    events.append(Event(self._name, b"\n".join(data)))
                    data.clear()
                self._name = b""
            elif line == b"data":
                data.append(b"")
            elif line[:6] == b"event:":
                self._name = line[7:] if line[6:7] == b" " else line[6:]
            elif line == b"event":
                self._name = b""
        return events
