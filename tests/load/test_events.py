"""Event streams are read as the WHATWG standard says, however they are cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from harness.load.events import Event, EventStream


def read(data: bytes, cuts: list[int] | None = None) -> list[Event]:
    stream = EventStream()
    edges = [0, *sorted(cuts or []), len(data)]
    return [event for a, b in pairwise(edges) for event in stream.feed(data[a:b])]


def by_the_standard(data: bytes) -> list[tuple[str, str]]:
    """The standard's steps one by one, over decoded text, one character at a time."""
    text = data.decode("utf-8", errors="replace")
    text = text.removeprefix("\ufeff")
    lines: list[str] = []
    line = ""
    at = 0
    while at < len(text):
        if text[at] in "\r\n":
            lines.append(line)
            line = ""
            if text[at : at + 2] == "\r\n":
                at += 1
        else:
            line += text[at]
        at += 1
    events: list[tuple[str, str]] = []
    data_buffer, type_buffer = "", ""
    for line in lines:
        if line == "":
            if data_buffer != "":
                events.append((type_buffer, data_buffer.removesuffix("\n")))
            data_buffer, type_buffer = "", ""
            continue
        if line.startswith(":"):
            continue
        field, colon, value = line.partition(":")
        if colon and value.startswith(" "):
            value = value[1:]
        if field == "event":
            type_buffer = value
        elif field == "data":
            data_buffer += value + "\n"
    return events


PIECES = st.sampled_from(
    [
        *(b"data", b"event", b"id", b"retry", b":", b": ", b" ", b"x", b"{}", b"\xff", b"\0"),
        *(b"\n", b"\r", b"\r\n", b"\n\n", b"\xef\xbb\xbf", b"\xef", b"\xbb"),
        *(b"\xe2\x82\xac", b"\xe2\x82"),
    ]
)
STREAMS = st.one_of(st.lists(PIECES, max_size=40).map(b"".join), st.binary(max_size=200))
CUTS = st.lists(st.integers(0, 400), max_size=12)


@given(STREAMS)
@example(b"\xef\xbb\xbfdata: a\n\n")
@example(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n")
@example(b"data\n\ndata:\n\n:\n\n\revent:x\rdata:a\r\r")
def test_any_bytes_give_what_the_standard_says(data: bytes) -> None:
    found = [(e.name.decode(errors="replace"), e.data.decode(errors="replace")) for e in read(data)]
    assert found == by_the_standard(data)


@given(STREAMS, CUTS)
def test_any_cut_gives_the_same_events(data: bytes, cuts: list[int]) -> None:
    inside = [cut % (len(data) + 1) for cut in cuts]
    assert read(data, inside) == read(data)
    assert read(data, list(range(len(data)))) == read(data)


@given(STREAMS)
def test_the_rest_is_what_a_blank_line_would_have_ended(data: bytes) -> None:
    stream = EventStream()
    events = stream.feed(data)
    rest = stream.rest()
    ended = read(data + b"\n\n")
    assert events + ([rest] if rest is not None else []) == ended or data.endswith(b"\r")


def test_comments_names_and_several_data_lines_are_told_apart() -> None:
    stream = b": ping\n\nevent: delta\ndata: a\ndata:b\nid: 7\n\ndata:  c\n\n"
    assert read(stream) == [Event(b"delta", b"a\nb"), Event(b"", b" c")]


def test_ten_megabytes_in_small_pieces_are_one_event() -> None:
    big = b"x" * (10 << 20)
    data = b"data: " + big + b"\n\n"
    assert read(data, list(range(0, len(data), 1 << 14))) == [Event(b"", big)]
