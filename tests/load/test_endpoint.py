"""Single requests outside the window: what they tell, how long they take, which way they go."""

from __future__ import annotations

import http.server
import time

import pytest

from harness.errors import ArmbenchError
from harness.load.endpoint import Endpoint, parse_proxy, parse_url
from harness.load.route import Route
from harness.load.scrape import fetch_metrics
from tests.load.test_scrape import LLAMA, served

KEY = "sk-0123456789"
Handler = http.server.BaseHTTPRequestHandler


def refuse(handler: Handler) -> None:
    handler.send_response(401)
    handler.end_headers()
    handler.wfile.write(b"x" * 295 + f" wrong key {KEY}".encode())


def drip(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" ")
        time.sleep(0.02)


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"Token token={KEY};v=1", f"a, {KEY}"])
def test_a_key_inside_a_header_value_is_told_to_nobody(header: str) -> None:
    headers = {"Authorization": header}
    said = Route("http://127.0.0.1:1", "chat", headers=headers).redacted(f"no {header}, no {KEY}")
    assert KEY not in said
    with served(refuse) as url, pytest.raises(ArmbenchError) as caught:
        Endpoint(parse_url(url), headers=headers).json("GET", "/v1/models")
    assert "sk-" not in caught.value.message


def test_an_answer_that_drips_does_not_hold_up_a_run() -> None:
    begun = time.monotonic()
    with served(drip) as url, pytest.raises(ArmbenchError, match=r"nothing whole within 0\.3 s"):
        Endpoint(parse_url(url), timeout_s=0.3).ask("GET", "/health")
    assert time.monotonic() - begun < 5


def test_requests_outside_the_window_go_through_the_proxy_too() -> None:
    asked: list[tuple[str, str | None]] = []

    def play(handler: Handler) -> None:
        asked.append((handler.path, handler.headers["Proxy-Authorization"]))
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(LLAMA.encode() if "metrics" in handler.path else b'{"a": 1}')

    far = "http://far.example:81"
    with served(play) as url:
        proxy = parse_proxy(url.replace("://", "://me:pw@"))
        assert Endpoint(parse_url(far), proxy=proxy).json("GET", "/health") == {"a": 1}
        fetch_metrics(f"{far}/metrics", proxy=proxy)
    coded = "Basic bWU6cHc="
    assert asked == [(f"{far}/health", coded), (f"{far}/metrics", coded)]


def test_an_https_endpoint_is_reached_by_a_tunnel() -> None:
    tunnels: list[str] = []

    def connect(handler: Handler) -> None:
        tunnels.append(handler.path)
        handler.send_error(403)

    with served(connect) as url:
        proxy = parse_proxy(url)
        with pytest.raises(ArmbenchError, match="does not answer"):
            Endpoint(parse_url("https://far.example"), proxy=proxy).ask("GET", "/health")
    assert tunnels == ["far.example:443"]
