"""The server answers as OpenAI's does, over real sockets, and each answer is the engine's own."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tokenizers import Tokenizer as Library

from harness.errors import ArmbenchError
from harness.records.load import ServerSeen
from harness.serving.process import ServerProcess
from tests.serving.conftest import Running, service_for, serving
from tests.serving.talk import Stream, address, ask, requests_at, stream, text_of, until

Opened = Callable[..., Stream]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
TALK = [{"role": "user", "content": "Hello"}]


def complete(url: str, **members: Any) -> Any:
    answer = ask(url, COMPLETIONS, {"ignore_eos": True, **members})
    assert answer.status == 200, answer.body
    return answer.json


def seen(url: str) -> ServerSeen:
    return msgspec.json.decode(ask(url, "/armbench/log").body, type=ServerSeen)


def test_text_and_its_token_ids_give_the_same_answer(server: Running) -> None:
    by_text = complete(server.url, prompt="Hello", max_tokens=6, return_token_ids=True)
    ids = by_text["prompt_token_ids"]
    by_ids = complete(server.url, prompt=ids, max_tokens=6)
    assert by_text["choices"][0]["text"] == by_ids["choices"][0]["text"]
    assert by_ids["usage"]["prompt_tokens"] == len(ids)
    assert by_ids["usage"]["completion_tokens"] == 6
    assert by_ids["choices"][0]["finish_reason"] == "length"


def test_without_max_tokens_a_completion_has_sixteen(server: Running) -> None:
    assert complete(server.url, prompt="Hello")["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(
    ("path", "prompt"), [(COMPLETIONS, {"prompt": "Hello"}), (CHAT, {"messages": TALK})]
)
def test_a_stream_has_one_event_for_each_token_and_the_text_of_the_whole(
    server: Running, path: str, prompt: dict[str, Any]
) -> None:
    body = {**prompt, "max_tokens": 40, "ignore_eos": True}
    whole = ask(server.url, path, body).json
    options = {"stream_options": {"include_usage": True}, "return_token_ids": True}
    events = stream(server.url, path, {**body, **options})
    *tokens, usage = events
    assert len(tokens) == 40
    assert all(len(event["choices"][0]["token_ids"]) == 1 for event in tokens)
    message = whole["choices"][0]
    assert text_of(tokens) == (message["message"]["content"] if path == CHAT else message["text"])
    assert [event["choices"][0]["finish_reason"] for event in tokens] == [None] * 39 + ["length"]
    assert usage["usage"] == whole["usage"]


def test_a_stream_has_the_text_of_its_tokens_and_no_half_characters(
    server: Running, tiny: Path
) -> None:
    library = Library.from_file(str(tiny / "tokenizer.json"))
    hedgehogs = library.encode("🦔").ids
    body = {"prompt": hedgehogs, "max_tokens": 300, "ignore_eos": True, "return_token_ids": True}
    events = stream(server.url, COMPLETIONS, body)
    ids = [token for event in events for token in event["choices"][0]["token_ids"]]
    assert "" in [event["choices"][0]["text"] for event in events]  # some were held back
    assert text_of(events) == library.decode(ids)


def test_requests_that_share_steps_get_what_they_get_alone(server: Running) -> None:
    def one(seed: int) -> list[int]:
        prompt = [(seed * 7 + i) % 4000 for i in range(1 + seed * 9 % 130)]
        body = {"prompt": prompt, "max_tokens": 10 + seed, "ignore_eos": True}
        events = stream(server.url, COMPLETIONS, {**body, "return_token_ids": True})
        return [token for event in events for token in event["choices"][0]["token_ids"]]

    alone = [one(seed) for seed in range(20)]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(one, range(20)))
    assert together == alone


def test_a_stop_text_ends_the_answer_before_it(server: Running) -> None:
    words = complete(server.url, prompt="Hello", max_tokens=30)["choices"][0]["text"].split(" ")
    stop = words[5]
    events = stream(
        server.url,
        COMPLETIONS,
        {"prompt": "Hello", "max_tokens": 30, "ignore_eos": True, "stop": [stop]},
    )
    assert text_of(events) == " ".join(words).partition(stop)[0]
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    until(lambda: requests_at(server.url) == 0)


def test_a_connection_serves_one_request_after_the_other(server: Running) -> None:
    connection = http.client.HTTPConnection(*address(server.url), timeout=30)
    for key in ("one", "two"):
        connection.request(
            "POST", COMPLETIONS, json.dumps({"prompt": [1, 2]}), {"X-Request-Id": key}
        )
        answer = connection.getresponse()
        assert answer.getheader("X-Request-Id") == key
        assert answer.status == 200
        answer.read()
    connection.close()


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (COMPLETIONS, {"prompt": "x", "model": "other"}, 404, "model_not_found"),
        (COMPLETIONS, {"prompt": "x", "max_tokens": 5000}, 400, "context_length_exceeded"),
        (COMPLETIONS, {"prompt": [1] * 600}, 400, "context_length_exceeded"),
        (COMPLETIONS, {"prompt": "long " * 5000}, 400, "context_length_exceeded"),
        (COMPLETIONS, {"prompt": ""}, 400, None),
        (COMPLETIONS, {"prompt": []}, 400, None),
        (COMPLETIONS, {"prompt": [4096]}, 400, None),
        (COMPLETIONS, {"prompt": "x", "temperature": 1}, 400, "unsupported"),
        (CHAT, {"messages": TALK, "max_completion_tokens": 0}, 400, None),
        (CHAT, {"messages": []}, 400, None),
        (COMPLETIONS, b"{", 400, None),
        ("/v1/nothing", {}, 404, None),
        ("/v1/models", {}, 405, None),
    ],
)
def test_errors_have_openais_form(
    server: Running, path: str, body: Any, status: int, code: str | None
) -> None:
    answer = ask(server.url, path, body)
    error = answer.json["error"]
    assert (answer.status, error["code"]) == (status, code)
    assert error["message"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_413(server: Running, chunked: bool) -> None:
    connection = http.client.HTTPConnection(*address(server.url), timeout=30)
    body: Any = iter([b" " * 100_000] * 30) if chunked else b" " * 3_000_000
    connection.request("POST", COMPLETIONS, body, encode_chunked=chunked)
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())["error"]["code"] == "request_too_large"
    connection.close()


def test_a_body_without_end_is_not_read_to_it(server: Running) -> None:
    with socket.create_connection(address(server.url), timeout=30) as endless:
        endless.sendall(
            f"POST {COMPLETIONS} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        block = b"10000\r\n" + b" " * 65536 + b"\r\n"
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            endless.sendall(block * 1000)


def test_the_model_and_its_context_are_listed(server: Running) -> None:
    [model] = ask(server.url, "/v1/models").json["data"]
    assert (model["id"], model["max_model_len"]) == ("tiny", 512)


def test_health_says_what_runs_where(server: Running) -> None:
    answer = ask(server.url, "/health")
    assert answer.status == 200
    assert answer.json["status"] == "ok"
    assert answer.json["engine_pid"] == server.ready.engine_pid
    assert answer.json["pid"] == server.process.pid


def test_the_log_has_every_step_and_request_since_the_mark(server: Running) -> None:
    complete(server.url, prompt=[1, 2, 3])
    mark = ask(server.url, "/armbench/mark", {}).json["marked_ns"]
    answer = ask(
        server.url,
        COMPLETIONS,
        {"prompt": [5] * 100, "max_tokens": 4, "ignore_eos": True},
        {"X-Request-Id": "mine"},
    )
    assert answer.status == 200
    log = seen(server.url)
    [request] = log.requests
    assert (request.key, request.input_tokens, request.output_tokens) == ("mine", 100, 4)
    assert request.finish == "length"
    steps = log.steps
    assert steps is not None
    assert steps.prefill_tokens == [64, 36, 0, 0, 0]
    assert steps.decoding == [0, 0, 1, 1, 1]
    assert mark <= request.queued_ns <= (request.admitted_ns or 0)
    assert request.admitted_ns == steps.start_ns[0]
    assert request.first_ns == steps.end_ns[1]
    assert request.end_ns == steps.end_ns[-1]


def metrics(url: str) -> dict[str, float]:
    lines = ask(url, "/metrics").body.decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if line.startswith("armbench_")]
    return {name: float(value) for name, value in pairs}


def test_metrics_count_tokens_and_requests(server: Running) -> None:
    before = metrics(server.url)
    complete(server.url, prompt=[1] * 10, max_tokens=5)
    after = metrics(server.url)
    for name, more in (
        ("armbench_prompt_tokens_total", 10),
        ("armbench_generation_tokens_total", 5),
        ('armbench_requests_total{finish="length"}', 1),
        ("armbench_time_to_first_token_seconds_count", 1),
        ("armbench_time_per_output_token_seconds_count", 1),
        ("armbench_request_queue_seconds_count", 1),
    ):
        assert after[name] - before.get(name, 0) == more
    assert after["armbench_requests_running"] == after["armbench_requests_waiting"] == 0
    assert after["armbench_kv_tokens_used"] == 0
    assert after["armbench_kv_tokens"] == 2048


def test_the_engine_reports_while_it_serves(server: Running) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(complete, server.url, prompt=[1], max_tokens=400)
        report = ask(server.url, "/armbench/report").json
        assert report["engine"]["runtime"]["compute"] == 1
        assert report["engine"]["usage"]["user_s"] > 0
        assert report["server_cpu_s"] > 0
        assert running.result()["usage"]["completion_tokens"] == 400


def test_a_client_that_leaves_frees_its_slot(tiny: Path, opened: Opened) -> None:
    with serving(service_for(tiny, slots=1, context=30_000)) as running:
        started = opened(running.url, COMPLETIONS, {"prompt": [1], "max_tokens": 29_000})
        next(started.events())
        waiting = opened(running.url, COMPLETIONS, {"prompt": [2], "max_tokens": 29_000})
        until(lambda: requests_at(running.url) == 2)
        waiting.close()
        started.close()
        until(lambda: requests_at(running.url) == 0)
        assert metrics(running.url)["armbench_kv_tokens_used"] == 0
        assert complete(running.url, prompt=[3], max_tokens=2)["usage"]["completion_tokens"] == 2
        until(lambda: len(seen(running.url).requests) == 3)
        first, second, third = sorted(seen(running.url).requests, key=lambda r: r.input_tokens)
        finishes = sorted(str(r.finish) for r in (first, second, third))
        assert finishes == ["cancelled", "cancelled", "length"]


def test_a_full_queue_is_429_and_other_clients_still_have_room(tiny: Path, opened: Opened) -> None:
    with serving(service_for(tiny, slots=1, context=30_000, max_waiting=1)) as running:
        endless = {"prompt": [1], "max_tokens": 29_000, "ignore_eos": True}
        for _ in range(2):
            opened(running.url, COMPLETIONS, endless)
        until(lambda: requests_at(running.url) == 2)
        answer = ask(running.url, COMPLETIONS, endless)
        assert (answer.status, answer.json["error"]["code"]) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) >= 1
        opened(running.url, COMPLETIONS, {**endless, "user": "somebody else"})
        until(lambda: requests_at(running.url) == 3)
        assert ask(running.url, COMPLETIONS, {**endless, "user": "a third"}).status == 429


def test_a_client_that_does_not_read_is_cut_off_and_holds_up_nobody(
    tiny: Path, opened: Opened
) -> None:
    fast = {"step_s": 0.0}
    with serving(service_for(tiny, options=fast, slots=2, context=32_000)) as running:
        body = {"prompt": [1], "max_tokens": 31_000, "ignore_eos": True}
        idle = opened(running.url, COMPLETIONS, body, receive=4096)
        until(lambda: requests_at(running.url) == 1)
        until(lambda: requests_at(running.url) == 0, 60)
        [cut] = seen(running.url).requests
        assert cut.finish == "cancelled"
        assert 100 < cut.output_tokens < 31_000
        with pytest.raises((ConnectionResetError, http.client.HTTPException)):
            for _ in idle.events():
                pass
        assert complete(running.url, prompt=[3])["usage"]["completion_tokens"] == 16


def test_without_a_tokenizer_ids_are_served_and_text_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(tiny, folder)
    (folder / "tokenizer.json").unlink()
    with serving(service_for(folder)) as running:
        assert "tokenizer.json" in (running.ready.text or "")
        for path, body in ((COMPLETIONS, {"prompt": "text"}), (CHAT, {"messages": TALK})):
            answer = ask(running.url, path, body)
            assert (answer.status, answer.json["error"]["code"]) == (400, "no_tokenizer")
        answer = ask(running.url, COMPLETIONS, {"prompt": [1], "stop": "x"})
        assert answer.json["error"]["param"] == "stop"
        answer = complete(running.url, prompt=[1, 2], max_tokens=3, return_token_ids=True)
        choice = answer["choices"][0]
        assert choice["text"] == "".join(f" {token}" for token in choice["token_ids"])


def test_a_port_that_is_taken_is_the_users_to_mend(tiny: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            ServerProcess(service_for(tiny, port=port)) as process,
            pytest.raises(ArmbenchError, match="can't be listened on"),
        ):
            process.ready(30)


def test_the_engine_stays_on_its_cpus_and_the_server_on_the_drivers(tiny: Path) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    with serving(service_for(tiny)) as running:
        assert os.sched_getaffinity(running.ready.engine_pid) == {cpus[0]}
        assert os.sched_getaffinity(running.ready.pid) == set(cpus)
