"""An OpenAI-compatible endpoint outside the window: who it is, and single requests to it."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Timer
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from harness.errors import ArmbenchError
from harness.load.tokens import MOST_TOKENS

MOST_BYTES = 32 * 2**20  # of an answer outside the window
_MOST_SAID = 300  # characters of what a server says in an error
_SECRET_LENGTH = 8  # of a header's value, or a part of one, that may be a key
_PARTS = re.compile(r"[\s=;,]+")
_PATHS = {"completions": "/completions", "chat": "/chat/completions", "responses": "/responses"}


class Address(NamedTuple):
    """Where an endpoint listens. `path` is what comes before `/completions`, such as `/v1`."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"


def parse_url(url: str) -> Address:
    """The address of a base URL such as `http://host:8000` or `https://host/api/v1`.

    A URL without a path means `/v1`. Raises ArmbenchError for anything but http and https, and
    for one with a password, which would end in a result.
    """
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ArmbenchError(f"--target {url!r} is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ArmbenchError(
            f"--target {url!r} is not an http or https URL",
            hint="write it like http://127.0.0.1:8000",
        )
    if parts.username or parts.password or parts.query:
        raise ArmbenchError(
            "--target has a user name, a password or a query, which would be stored",
            hint="give the key in an environment variable, see --key-variable",
        )
    secure = parts.scheme == "https"
    path = parts.path.rstrip("/") or "/v1"
    for known in _PATHS.values():
        path = path.removesuffix(known)
    return Address(secure, parts.hostname, port or (443 if secure else 80), path or "/v1")


def path_of(address: Address, endpoint: str) -> str:
    """The path that requests of kind `endpoint` go to."""
    return address.path + _PATHS[endpoint]


def is_local(host: str) -> bool:
    """Whether `host` is an address of this machine."""
    import psutil

    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    own = {a.address.partition("%")[0] for every in psutil.net_if_addrs().values() for a in every}
    return any(ipaddress.ip_address(str(a)).is_loopback or a in own for a in found)


def tls_context(verify: bool | Path) -> ssl.SSLContext:
    """How certificates are checked: by the system's roots, by those in a file, or not at all."""
    context = ssl.create_default_context(cafile=str(verify) if isinstance(verify, Path) else None)
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def key_from(variable: str) -> str | None:
    """The bearer key in environment variable `variable`, or None.

    Raises ArmbenchError for one that can't stand in a header.
    """
    key = os.environ.get(variable, "").strip()
    if any(ord(c) < 33 or ord(c) > 126 for c in key):
        raise ArmbenchError(f"the key in {variable} has characters that no header may have")
    return key or None


def secrets_in(key: str | None, headers: Mapping[str, str]) -> list[str]:
    """What must not be told, longest first: the key, header values, and parts that may be keys."""
    found = {key} if key else set()
    for value in headers.values():
        parts = [value, *_PARTS.split(value)]
        found |= {part for part in parts if len(part) >= _SECRET_LENGTH}
    return sorted(found, key=len, reverse=True)


def redact(text: str, secrets: Sequence[str]) -> str:
    """`text` without `secrets`: a server may say a key that it refuses."""
    for secret in secrets:
        text = text.replace(secret, "(key)")
    return text


class Proxy(NamedTuple):
    """An http proxy; `login` is the header that it wants, `secrets` what that says."""

    host: str
    port: int
    login: dict[str, str]
    secrets: list[str]


def parse_proxy(text: str) -> Proxy:
    """The proxy of a URL such as `http://user:password@proxy:3128`.

    Raises ArmbenchError for anything but http.
    """
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port or 80
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme != "http" or not parts.hostname:
        raise ArmbenchError("the proxy is not an http URL", hint="write it like http://proxy:3128")
    if not parts.username:
        return Proxy(parts.hostname, port, {}, [])
    password = unquote(parts.password or "")
    coded = base64.b64encode(f"{unquote(parts.username)}:{password}".encode()).decode()
    secrets = {coded, password, parts.password or ""} - {""}
    return Proxy(
        parts.hostname,
        port,
        {"Proxy-Authorization": f"Basic {coded}"},
        sorted(secrets, key=len, reverse=True),
    )


class Endpoint:
    """Single requests, each on a connection of its own. Never used inside a window."""

    def __init__(
        self,
        address: Address,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        verify: bool | Path = True,
        timeout_s: float = 60.0,
        proxy: Proxy | None = None,
    ) -> None:
        self.address, self.verify, self.timeout_s = address, verify, timeout_s
        self.headers = dict(headers or {})
        self.proxy = proxy
        self._secrets = secrets_in(key, self.headers) + (proxy.secrets if proxy else [])
        self._server: str | None = None
        if key:
            self.headers["Authorization"] = f"Bearer {key}"

    @property
    def server(self) -> str | None:
        """How the server named itself in its last answer."""
        return self._server

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """(status, body). Raises ArmbenchError where there is no whole answer in time."""
        context = tls_context(self.verify) if self.address.secure else None
        connection = connect(
            self.address.host, self.address.port, self.timeout_s, context, self.proxy
        )
        headers = self.headers | ({"Content-Type": "application/json"} if body else {})
        cut = Event()
        try:
            where = path
            if self.proxy is not None and context is None:
                headers |= self.proxy.login
                where = self.address.origin + path
            connection.connect()
            with watchdog(connection.sock, self.timeout_s, cut):
                connection.request(method, where, body, headers)
                answer = connection.getresponse()
                self._server = answer.getheader("Server")
                found = answer.status, answer.read(MOST_BYTES)
            if cut.is_set():
                raise TimeoutError
            return found
        except (OSError, http.client.HTTPException) as error:
            late = cut.is_set() or isinstance(error, TimeoutError)
            why = f"nothing whole within {self.timeout_s:g} s" if late else str(error)
            raise ArmbenchError(
                f"{self.address.origin} does not answer {method} {path}: "
                f"{redact(why, self._secrets)[:_MOST_SAID]}",
                hint="is the server running, and is --target right?",
            ) from error
        finally:
            connection.close()

    def json(self, method: str, path: str, body: bytes | None = None) -> Any:
        """The answer as JSON. Raises ArmbenchError for another status than 2xx, or no JSON."""
        status, text = self.ask(method, path, body)
        if not 200 <= status < 300:
            said = redact(text.decode(errors="replace"), self._secrets)[:_MOST_SAID]
            hint = "give the key in the variable of --key-variable" if status == 401 else None
            raise ArmbenchError(f"{method} {path} was answered by {status}: {said}", hint=hint)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArmbenchError(f"{method} {path} was not answered by JSON: {error}") from error

    def models(self) -> list[str]:
        """The models it says it serves; none where it does not tell."""
        try:
            listed = self.json("GET", f"{self.address.path}/models")
        except ArmbenchError as error:
            if "does not answer" in error.message:
                raise
            return []
        rows = listed.get("data") if isinstance(listed, dict) else None
        names = [row.get("id") for row in rows or [] if isinstance(row, dict)]
        return [name for name in names if isinstance(name, str)]

    def health(self) -> dict[str, Any]:
        """What its /health says, where that is a JSON object; else nothing."""
        try:
            told = self.json("GET", "/health")
        except ArmbenchError:
            return {}
        return told if isinstance(told, dict) else {}


def usage_input(answer: Any) -> int | None:
    """The input tokens that an answer's usage counts."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return None
    found = usage.get("prompt_tokens", usage.get("input_tokens"))
    return found if isinstance(found, int) and 0 <= found <= MOST_TOKENS else None


def connect(
    host: str,
    port: int,
    timeout_s: float,
    context: ssl.SSLContext | None,
    proxy: Proxy | None,
) -> http.client.HTTPConnection:
    """A connection, not yet open, to an http endpoint or, with a `context`, an https one."""
    there = (proxy.host, proxy.port) if proxy else (host, port)
    if context is None:
        return http.client.HTTPConnection(*there, timeout=timeout_s)
    secured = http.client.HTTPSConnection(*there, timeout=timeout_s, context=context)
    if proxy is not None:
        secured.set_tunnel(host, port, proxy.login)
    return secured


@contextmanager
def watchdog(open_socket: socket.socket, timeout_s: float, cut: Event) -> Iterator[None]:
    """Shuts the socket after `timeout_s` and sets `cut`: its own limit restarts with every byte."""

    def shut() -> None:
        cut.set()
        try:
            open_socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed meanwhile

    timer = Timer(timeout_s, shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
