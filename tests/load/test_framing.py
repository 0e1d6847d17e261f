"""Where an HTTP answer ends, and what was in it when."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.load.framing import Ending, HttpAnswer

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\nX-A: 2\r\n\r\n"
BODY = b"5;why=not\r\nhello\r\n1\r\n!\r\n0\r\nX-Trailer: t\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello!"
UNSIZED = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello!"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


def read(data: bytes, cuts: list[int], *, closed: bool = False) -> tuple[HttpAnswer, bytes]:
    got: list[bytes] = []
    answer = HttpAnswer(lambda piece, at: got.append(piece))
    edges = [0, *sorted(cuts), len(data)]
    for n, (a, b) in enumerate(pairwise(edges)):
        answer.feed(data[a:b], n + 1)
    answer.end(closed=closed)
    return answer, b"".join(got)


@given(st.sampled_from([CHUNKED + BODY, SIZED, EARLY + SIZED]), st.lists(st.integers(0, 120)))
def test_any_cut_gives_the_same_answer(data: bytes, cuts: list[int]) -> None:
    cuts = [cut % (len(data) + 1) for cut in cuts]
    answer, body = read(data, cuts)
    assert (answer.complete, answer.status, body, answer.fault) == (True, 200, b"hello!", None)
    ending = Ending()
    edges = [0, *sorted(cuts), len(data)]
    states = []
    for a, b in pairwise(edges):
        if data[a:b]:
            ending.feed(data[a:b])
            states.append(ending.complete)
    assert states == [False] * (len(states) - 1) + [True]
    assert (ending.reusable, ending.status) == (True, 200)


def test_headers_of_one_name_are_joined_and_trailers_left_out() -> None:
    answer, _ = read(CHUNKED + BODY, [])
    assert answer.headers == {"transfer-encoding": "chunked", "x-a": "1, 2"}


def test_an_answer_without_length_is_whole_when_the_server_hangs_up() -> None:
    assert read(UNSIZED, [50], closed=True)[0].complete
    assert not read(UNSIZED, [50], closed=False)[0].complete


@pytest.mark.parametrize("data", [CHUNKED + BODY[:9], SIZED[:-1], CHUNKED[:-2], b""])
def test_an_answer_that_breaks_off_is_never_whole(data: bytes) -> None:
    assert not read(data, [], closed=True)[0].complete


def test_the_head_has_the_instant_of_the_read_that_ended_it() -> None:
    answer, _ = read(CHUNKED + BODY, [10, len(CHUNKED) - 1])
    assert (answer.started_ns, answer.headers_ns, answer.last_ns) == (1, 3, 3)


@given(st.binary(max_size=100))
def test_bytes_that_are_not_http_are_a_fault_not_an_exception(data: bytes) -> None:
    answer, _ = read(data, [])
    assert not answer.complete


def test_another_protocol_is_a_fault() -> None:
    upgrade = b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\nxx"
    assert read(upgrade, [])[0].fault == "the server changed to another protocol"


def test_a_server_that_closes_is_not_used_again() -> None:
    ending = Ending()
    ending.feed(SIZED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert (ending.complete, ending.reusable) == (True, False)
    ending.close()
    ending.feed(b"nothing happens")
