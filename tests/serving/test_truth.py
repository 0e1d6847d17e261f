"""The truth server keeps its schedule and its log, and our client's records agree with it."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.load.bodies import Bodies
from harness.load.senders import Ran, Senders
from harness.records.load import Planned, Target
from tests.serving import truth
from tests.serving.truth import TruthServer

CLOCKS_NS = 100_000  # the kernel stamps by another clock, whose distance is itself measured

pytestmark = pytest.mark.skipif(truth.compiler() is None, reason="no C compiler")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return truth.build(tmp_path_factory.mktemp("truth"))


@pytest.fixture
def server(program: Path, tmp_path: Path) -> Iterator[TruthServer]:
    with TruthServer(program, tmp_path / "log", ttft_ms=5, itl_ms=1, jitter=0.2) as running:
        yield running


def faulty(program: Path, tmp_path: Path, **options: object) -> TruthServer:
    return TruthServer(program, tmp_path / "log", ttft_ms=1, itl_ms=0.5, **options)


def ask(
    connection: http.client.HTTPConnection, path: str = "/v1/completions", **members: object
) -> http.client.HTTPResponse:
    body = json.dumps({"prompt": "a b", "stream": True, **members})
    connection.request("POST", path, body, {"X-Request-Id": str(members.get("key", "one"))})
    return connection.getresponse()


def connect(server: TruthServer) -> closing[http.client.HTTPConnection]:
    return closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10))


def events(response: http.client.HTTPResponse) -> list[dict[str, object]]:
    """The JSON of every event, after a check that the stream ended as it should."""
    lines = [line for line in response.read().decode().split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_every_token_asked_for_is_sent_and_logged_on_one_connection(server: TruthServer) -> None:
    usage = {"stream_options": {"include_usage": True}}
    with connect(server) as connection:
        assert len(events(ask(connection, max_tokens=7))) == 7
        *tokens, last = events(ask(connection, max_tokens=3, key="two", **usage))
    assert [token["choices"][0]["finish_reason"] for token in tokens] == [None, None, "length"]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3
    first, second = server.stop()
    assert (first.key, len(first.sent_ns), first.finish) == ("one", 7, "done")
    assert (second.key, len(second.sent_ns), second.id) == ("two", 3, 1)


def test_a_chat_begins_with_its_role_which_is_no_token(server: TruthServer) -> None:
    with connect(server) as connection:
        path = "/v1/chat/completions"
        role, *tokens = events(ask(connection, path, max_completion_tokens=4))
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {token["choices"][0]["delta"]["content"] for token in tokens} == {" the"}
    (logged,) = server.stop()
    assert len(tokens) == len(logged.sent_ns) == 4


def test_the_log_puts_arrival_before_reading_and_sends_before_what_a_client_sees(
    server: TruthServer,
) -> None:
    began = time.monotonic_ns()
    seen = []
    with connect(server) as connection, ask(connection, max_tokens=20) as response:
        while line := response.readline():
            if line.startswith(b"data: {"):
                seen.append(time.monotonic_ns())
    (logged,) = server.stop()
    assert began < logged.start_ns <= logged.received_ns <= logged.sent_ns[0]
    assert all(sent < got for sent, got in zip(logged.sent_ns, seen, strict=True))
    assert all(a <= b for a, b in zip(logged.sent_ns, logged.returned_ns, strict=True))
    assert logged.sent_ns == sorted(logged.sent_ns)
    assert logged.ttft_s >= 0.004


def test_models_health_and_unknown_paths_are_answered(server: TruthServer) -> None:
    with connect(server) as connection:
        for path, status in (("/v1/models", 200), ("/health", 200), ("/v1/nothing", 404)):
            connection.request("GET", path)
            response = connection.getresponse()
            assert isinstance(json.loads(response.read()), dict)
            assert response.status == status
    assert server.stop() == []


def test_every_second_request_is_refused_as_asked_for(program: Path, tmp_path: Path) -> None:
    with faulty(program, tmp_path, fault=429, every=2) as server:
        with connect(server) as connection:
            assert len(events(ask(connection, max_tokens=2))) == 2
            refused = ask(connection)
            refused.read()
            assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
            assert len(events(ask(connection, max_tokens=2))) == 2
        assert [request.finish for request in server.stop()] == ["done", "429", "done"]


def test_a_reset_comes_in_mid_stream(program: Path, tmp_path: Path) -> None:
    with faulty(program, tmp_path, fault="reset") as server:
        with (
            connect(server) as connection,
            ask(connection, max_tokens=10) as response,
            pytest.raises((ConnectionResetError, http.client.IncompleteRead)),
        ):
            response.read()
        (logged,) = server.stop()
    assert (logged.finish, len(logged.sent_ns)) == ("reset", 5)


def test_an_endless_stream_goes_on_past_what_was_asked_for(program: Path, tmp_path: Path) -> None:
    with faulty(program, tmp_path, fault="endless") as server:
        with connect(server) as connection, ask(connection, max_tokens=2) as response:
            for _ in range(40):
                assert response.readline()
        assert len(server.stop()[0].sent_ns) > 2


def test_a_stall_holds_up_every_stream(program: Path, tmp_path: Path) -> None:
    with faulty(program, tmp_path, stall_ms=50, stall_every=5) as server:
        with connect(server) as connection:
            events(ask(connection, max_tokens=10))
        sent = server.stop()[0].sent_ns
    assert sent[5] - sent[4] >= 50_000_000
    assert min(b - a for a, b in itertools.pairwise(sent)) < 50_000_000


def offered(server: TruthServer, requests: int, hold: tuple[float, float] | None = None) -> Ran:
    target = Target(url=server.url, endpoint="completions", model="truth")
    planned = [
        Planned(id=n, due_ns=n * 5_000_000, input_tokens=8, output_tokens=1 + n % 9, seed=n)
        for n in range(requests)
    ]
    with Senders(target, cpus=sorted(os.sched_getaffinity(0))[:1], hold=hold) as senders:
        return senders.run(planned, Bodies(target))


@pytest.mark.parametrize("hold", [None, (0.010, 0.020)], ids=["free", "held up"])
def test_our_client_says_of_each_request_what_the_log_says(
    server: TruthServer, hold: tuple[float, float] | None
) -> None:
    ran = offered(server, 60, hold)
    log = {sent.key: sent for sent in server.stop()}
    assert [record.id for record in ran.records] == list(range(60))
    assert set(log) == {f"{ran.tag}-{record.id}" for record in ran.records}
    late = []
    for record in ran.records:
        sent = log[f"{ran.tag}-{record.id}"]
        assert (record.error, record.finish) == (None, "length")
        assert len(record.token_ns) == len(sent.sent_ns) == 1 + record.id % 9
        assert record.due_ns <= record.sent_ns <= sent.received_ns
        late += [seen - true for seen, true in zip(record.token_ns, sent.sent_ns, strict=True)]
    assert min(late) >= -CLOCKS_NS
    assert statistics.median(late) < 5_000_000
    assert ran.client.reads > 0


def test_a_stall_of_the_server_is_in_our_records_and_in_nobody_elses(
    program: Path, tmp_path: Path
) -> None:
    with faulty(program, tmp_path, stall_ms=100, stall_every=30) as server:
        ran = offered(server, 20)
        log = {sent.key: sent for sent in server.stop()}
    for record in ran.records:
        sent = log[f"{ran.tag}-{record.id}"]
        ours = record.token_ns[-1] - record.sent_ns
        assert ours >= sent.sent_ns[-1] - sent.start_ns - 2 * CLOCKS_NS


def test_faults_of_the_server_are_faults_in_our_records(program: Path, tmp_path: Path) -> None:
    with faulty(program, tmp_path, fault="reset", every=3) as server:
        ran = offered(server, 30)
        log = {sent.key: sent for sent in server.stop()}
    assert len(ran.records) == 30
    for record in ran.records:
        sent = log[f"{ran.tag}-{record.id}"]
        assert (record.finish == "error") == (sent.finish == "reset")
        assert len(record.token_ns) == len(sent.sent_ns)
