"""A server's Prometheus metrics over HTTP: once before the window and once after, never inside."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from threading import Event
from urllib.parse import urlsplit

from harness.errors import ArmbenchError
from harness.load.endpoint import Proxy, connect, watchdog
from harness.load.exposition import Samples, parse
from harness.units import format_bytes, format_duration

TIMEOUT_S = 5.0
MAX_BYTES = 1024 * 1024
_CHUNK = 64 * 1024


def fetch_metrics(
    url: str,
    *,
    timeout_s: float = TIMEOUT_S,
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
    proxy: Proxy | None = None,
) -> Samples:
    """The samples at `url` now. `headers` may hold a key; it is never shown.

    Raises ArmbenchError where there is no answer within `timeout_s`, another status than 200, or
    an answer beyond MAX_BYTES. Redirects are not followed.
    """
    status, body = get(url, timeout_s=timeout_s, headers=headers, context=context, proxy=proxy)
    if status != 200:
        raise ArmbenchError(
            f"{_shown(url)} answered {status} where metrics were asked for",
            hint="turn metrics on in the server, or give the path where it has them",
        )
    return parse(body.decode("utf-8", "replace"))


def get(
    url: str,
    *,
    timeout_s: float = TIMEOUT_S,
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
    proxy: Proxy | None = None,
) -> tuple[int, bytes]:
    """Status and body of a GET of `url`, read within `timeout_s` altogether.

    Raises ArmbenchError where that fails, or where the body is larger than MAX_BYTES.
    """
    connection = _connection(url, timeout_s, context, proxy)
    plainly = proxy if urlsplit(url).scheme == "http" else None
    cut = Event()
    try:
        connection.connect()
        # the socket itself: the connection lets go of it where the answer ends by hanging up
        with watchdog(connection.sock, timeout_s, cut):
            status, body = _ask(connection, url, headers, plainly)
        if cut.is_set():
            raise TimeoutError
    except ArmbenchError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, TimeoutError) or cut.is_set():
            raise ArmbenchError(
                f"{_shown(url)} gave no whole answer within {format_duration(timeout_s)}"
            ) from error
        raise ArmbenchError(f"{_shown(url)} cannot be read: {_why(error)}") from error
    finally:
        connection.close()
    return status, body


def _ask(
    connection: http.client.HTTPConnection,
    url: str,
    headers: Mapping[str, str] | None,
    proxy: Proxy | None,
) -> tuple[int, bytes]:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    plain = {"Accept-Encoding": "identity", "Connection": "close"}
    if proxy is not None:
        target = f"{parts.scheme}://{parts.netloc}{target}"
        plain |= proxy.login
    connection.request("GET", target, headers={**plain, **(headers or {})})
    response = connection.getresponse()
    body = bytearray()
    while part := response.read1(_CHUNK):
        body += part
        if len(body) > MAX_BYTES:
            raise ArmbenchError(f"{_shown(url)} answers more than {format_bytes(MAX_BYTES)}")
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return response.status, bytes(body)


def _connection(
    url: str, timeout_s: float, context: ssl.SSLContext | None, proxy: Proxy | None
) -> http.client.HTTPConnection:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.scheme not in ("http", "https"):
        raise ArmbenchError(f"{url!r:.200} is no URL", hint="write it like http://127.0.0.1:8080")
    if parts.scheme == "https":
        return connect(host, port or 443, timeout_s, context or ssl.create_default_context(), proxy)
    return connect(host, port or 80, timeout_s, None, proxy)


def _shown(url: str) -> str:
    """The URL without what may be a secret in it: user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _why(error: Exception) -> str:
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return "".join(c for c in words if c.isprintable())[:200]
