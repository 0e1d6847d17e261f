"""Metrics of foreign servers: read from untrusted text, compared, and put into our words."""

from __future__ import annotations

import http.server
import math
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from harness.errors import ArmbenchError
from harness.load import scrape
from harness.load.exposition import (
    MAX_SERIES,
    Samples,
    by_meaning,
    delta,
    fallen,
    parse,
    series_name,
)
from harness.load.recipes import OWN, in_our_words, read_recipe
from harness.load.scrape import fetch_metrics
from harness.records.load import ServeSetting
from harness.serving.meters import Meters

# As llama-server (b1-0c1e570) and vLLM 0.33 write them, shortened.
LLAMA = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 256
# TYPE llamacpp:prompt_tokens_cached_total counter
llamacpp:prompt_tokens_cached_total 64
# TYPE llamacpp:prompt_seconds_total counter
llamacpp:prompt_seconds_total 3.92962
# TYPE llamacpp:n_tokens_max counter
llamacpp:n_tokens_max 111
# TYPE llamacpp:predicted_tokens_seconds gauge
llamacpp:predicted_tokens_seconds 20.1287
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 2
"""
VLLM = """\
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="a/b"} 100.0
vllm:prompt_tokens_total{engine="1",model_name="a/b"} 20.0
# TYPE vllm:prompt_tokens_created gauge
vllm:prompt_tokens_created{engine="0",model_name="a/b"} 1.7953e+09
# TYPE vllm:request_queue_time_seconds histogram
vllm:request_queue_time_seconds_bucket{engine="0",le="0.3",model_name="a/b"} 7.0
vllm:request_queue_time_seconds_bucket{engine="0",le="+Inf",model_name="a/b"} 8.0
vllm:request_queue_time_seconds_count{engine="0",model_name="a/b"} 8.0
vllm:request_queue_time_seconds_sum{engine="0",model_name="a/b"} 1.5
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a/b"} 3.0
"""


def test_counters_rise_and_gauges_stand() -> None:
    found = parse(LLAMA)
    assert found.counters == {
        "llamacpp:prompt_tokens_total": 256.0,
        "llamacpp:prompt_tokens_cached_total": 64.0,
        "llamacpp:prompt_seconds_total": 3.92962,
        "llamacpp:n_tokens_max": 111.0,
    }
    assert found.gauges == {
        "llamacpp:predicted_tokens_seconds": 20.1287,
        "llamacpp:requests_deferred": 2.0,
    }
    assert found.left_out == 0


def test_of_a_histogram_only_sum_and_count_are_kept() -> None:
    found = parse(VLLM)
    assert sorted(found.counters) == [
        'vllm:prompt_tokens_total{engine="0",model_name="a/b"}',
        'vllm:prompt_tokens_total{engine="1",model_name="a/b"}',
        'vllm:request_queue_time_seconds_count{engine="0",model_name="a/b"}',
        'vllm:request_queue_time_seconds_sum{engine="0",model_name="a/b"}',
    ]
    assert list(found.gauges) == ['vllm:num_requests_running{engine="0",model_name="a/b"}']


def test_what_the_client_library_writes_is_read_back() -> None:
    registry = CollectorRegistry()
    Counter("asked", "d", ["who"], registry=registry).labels('a "b" \\ c').inc(3)
    Gauge("held", "d", registry=registry).set(-1.5)
    Histogram("took_seconds", "d", registry=registry).observe(0.25)
    found = parse(generate_latest(registry).decode())
    assert found.counters == {
        'asked_total{who="a "b" \\ c"}': 3.0,
        "took_seconds_count": 1.0,
        "took_seconds_sum": 0.25,
    }
    assert found.gauges == {"held": -1.5}
    assert found.left_out == 0


def test_a_bad_line_costs_itself_only() -> None:
    text = (
        'good_total 1\nbad{unclosed="x 2\nworse\nnan_total NaN\n' + "9" * 5000 + "\nlast_total 2\n"
    )
    found = parse(text)
    assert found.counters == {"good_total": 1.0, "last_total": 2.0}
    assert found.left_out == 4


def test_series_are_bounded_in_number_and_in_name() -> None:
    many = parse("".join(f'x_total{{i="{i}"}} 1\n' for i in range(MAX_SERIES + 7)))
    assert len(many.counters) == MAX_SERIES
    assert many.left_out == 7
    odd = parse(f'y_total{{i="{"z" * 300}"}} 1\ny_total{{i="\x1b[31m"}} 1\n')
    assert odd.counters == {}
    assert odd.left_out == 2


def test_a_delta_is_the_rise_of_counters_and_the_last_of_gauges() -> None:
    before = Samples(counters={"a": 5.0, "b": 1.0}, gauges={"g": 9.0})
    after = Samples(counters={"a": 7.5, "b": 1.0, "new": 2.0}, gauges={"g": 4.0})
    assert delta(before, after) == {"a": 2.5, "b": 0.0, "new": 2.0, "g": 4.0}
    assert fallen(before, after) == []


def test_a_counter_that_fell_is_left_out_and_named() -> None:
    before = Samples(counters={"a": 5.0, "gone": 1.0, "b": 1.0})
    after = Samples(counters={"a": 2.0, "b": 3.0})
    assert delta(before, after) == {"b": 2.0}
    assert fallen(before, after) == ["a", "gone"]


def test_meanings_add_series_and_labels_up() -> None:
    vllm = read_recipe("vllm").metrics
    llama = read_recipe("llama-server").metrics
    assert vllm is not None
    assert llama is not None
    found = by_meaning(delta(Samples(), parse(VLLM)), vllm.meaning)
    assert found == {"prefill_tokens": 120.0, "queue_s": 1.5, "running": 3.0}
    found = by_meaning(delta(Samples(), parse(LLAMA)), llama.meaning)
    assert found["cache_tokens_asked"] == 320.0
    assert found["cache_tokens_hit"] == 64.0
    assert found["waiting"] == 2.0
    assert "decode_s" not in found


def test_a_server_is_known_by_its_metrics() -> None:
    vllm = in_our_words(delta(Samples(), parse(VLLM)))
    assert vllm == ("vllm", {"prefill_tokens": 120.0, "queue_s": 1.5, "running": 3.0})
    llama = in_our_words(delta(Samples(), parse(LLAMA)))
    assert llama is not None
    assert llama[0] == "llama-server"
    assert in_our_words({"go_goroutines": 3.0}) is None


def test_the_metrics_of_our_own_server_have_all_their_words() -> None:
    meters = Meters(ServeSetting(slots=2, context=64, chunk=16, kv_tokens=128))
    own = in_our_words(delta(Samples(), parse(meters.text().decode())))
    assert own == ("armbench", dict.fromkeys(OWN, 0.0))


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    found = parse(text)
    assert all(math.isfinite(v) for v in [*found.counters.values(), *found.gauges.values()])


NAMES = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,20}", fullmatch=True)
LINES = st.one_of(
    st.builds("{} {}".format, NAMES, st.floats()),
    st.builds('{}{{{}="{}"}} {}'.format, NAMES, NAMES, st.text(), st.integers()),
    st.builds("# TYPE {} {}".format, NAMES, st.sampled_from(["counter", "histogram", "odd", ""])),
    st.text(alphabet=' #{}"\\=,\tTYPE_totalx1', max_size=40),
)


@given(st.lists(LINES, max_size=20))
def test_lines_that_look_like_metrics_can_be_read(lines: list[str]) -> None:
    found = parse("\n".join(lines))
    assert len(found.counters) + len(found.gauges) <= MAX_SERIES
    assert all(name.isprintable() for name in found.counters)


COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2**50).map(float))


@given(COUNTS, COUNTS)
def test_a_delta_never_falls_below_zero(before: dict[str, float], after: dict[str, float]) -> None:
    first, last = Samples(counters=before), Samples(counters=after)
    risen = delta(first, last)
    assert all(value >= 0 for value in risen.values())
    assert set(risen) == set(after) - set(fallen(first, last))


@given(NAMES, st.dictionaries(NAMES, st.text(max_size=20), max_size=3))
def test_a_series_is_named_alike_whatever_the_order_of_its_labels(
    name: str, labels: dict[str, str]
) -> None:
    assert series_name(name, labels) == series_name(name, dict(reversed(labels.items())))


Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextmanager
def served(answer: Answer) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                answer(self)
            except OSError:
                pass  # the client has had enough

        do_CONNECT = do_GET

        def log_message(self, *_: object) -> None:
            pass

    class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def whole(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(LLAMA.encode() + handler.headers.get("X-Key", "").encode())


def test_metrics_are_fetched_over_http() -> None:
    with served(whole) as url:
        assert fetch_metrics(f"{url}/metrics") == parse(LLAMA)
        assert fetch_metrics(f"{url}/metrics", headers={"X-Key": "more_total 1"}).counters[
            "more_total"
        ]


def test_an_answer_that_drips_is_cut_off() -> None:
    def drip(handler: http.server.BaseHTTPRequestHandler) -> None:
        while True:
            handler.wfile.write(b"H")
            time.sleep(0.02)

    with served(drip) as url, pytest.raises(ArmbenchError, match="no whole answer within 300 ms"):
        fetch_metrics(url, timeout_s=0.3)


def test_a_body_that_drips_is_cut_off() -> None:
    def drip(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"a_total 1\n")
            time.sleep(0.02)

    with served(drip) as url, pytest.raises(ArmbenchError, match="no whole answer within 300 ms"):
        fetch_metrics(url, timeout_s=0.3)


def test_an_endless_answer_is_refused_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def flood(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"a_total 1\n" * 1000)

    monkeypatch.setattr(scrape, "MAX_BYTES", 100_000)
    with served(flood) as url, pytest.raises(ArmbenchError, match=r"more than 97\.7 KiB"):
        fetch_metrics(url)


def test_an_answer_cut_short_is_an_error() -> None:
    def short(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"a_total 1\n")

    with served(short) as url, pytest.raises(ArmbenchError, match="cannot be read"):
        fetch_metrics(url)


def test_another_status_and_no_server_are_named_without_secrets() -> None:
    def missing(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_error(404)

    with served(missing) as url:
        host = url.removeprefix("http://")
        with pytest.raises(ArmbenchError, match="answered 404") as error:
            fetch_metrics(f"http://user:secret@{host}/metrics?key=secret")
    assert "secret" not in error.value.message
    with pytest.raises(ArmbenchError, match="cannot be read"):
        fetch_metrics(url)
    for odd in ("ftp://x", "http://", "http://x:99999", "http://[x"):
        with pytest.raises(ArmbenchError, match="is no URL"):
            fetch_metrics(odd)
