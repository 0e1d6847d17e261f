"""An OpenAI-compatible endpoint outside the window: who it is, and single requests to it."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from harness.errors import ArmbenchError

MOST_BYTES = 32 * 2**20  # of an answer outside the window
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
    ) -> None:
        self.address, self.verify, self.timeout_s = address, verify, timeout_s
        self.headers = dict(headers or {})
        self._server: str | None = None
        if key:
            self.headers["Authorization"] = f"Bearer {key}"

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self.address.host, self.address.port
        if not self.address.secure:
            return http.client.HTTPConnection(host, port, timeout=self.timeout_s)
        context = tls_context(self.verify)
        return http.client.HTTPSConnection(host, port, timeout=self.timeout_s, context=context)

    @property
    def server(self) -> str | None:
        """How the server named itself in its last answer."""
        return self._server

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """(status, body). Raises ArmbenchError where nobody answers in time."""
        connection = self._connection()
        headers = self.headers | ({"Content-Type": "application/json"} if body else {})
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            self._server = answer.getheader("Server")
            return answer.status, answer.read(MOST_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise ArmbenchError(
                f"{self.address.origin} does not answer {method} {path}: {error}",
                hint="is the server running, and is --target right?",
            ) from error
        finally:
            connection.close()

    def json(self, method: str, path: str, body: bytes | None = None) -> Any:
        """The answer as JSON. Raises ArmbenchError for another status than 2xx, or no JSON."""
        status, text = self.ask(method, path, body)
        if not 200 <= status < 300:
            said = text[:300].decode(errors="replace")
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
    return found if isinstance(found, int) and found >= 0 else None
