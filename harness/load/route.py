"""The way to an endpoint: address, TLS, proxy, and the head of each request."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import ArmbenchError
from harness.load.endpoint import (
    Address,
    parse_proxy,
    parse_url,
    path_of,
    redact,
    secrets_in,
    tls_context,
)
from harness.records.load import Endpoint

CONNECT_TIMEOUT_S = 10.0


class Route:
    """Everything that requests to one endpoint have in common.

    `address` is what sockets connect to: the proxy's where there is one. `tunnel` is what opens
    the way through it to an https endpoint. Raises ArmbenchError for what cannot be a URL, a
    header or a certificate file.
    """

    def __init__(
        self,
        url: str,
        endpoint: Endpoint,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        verify: bool | str = True,
        proxy: str | None = None,
    ) -> None:
        self.target = parse_url(url)
        own = dict(headers or {})
        self.secrets = secrets_in(key, own)
        self.context = _context(verify) if self.target.secure else None
        self.host = self.target.host
        self.port = self.target.port
        self.tunnel: bytes | None = None
        path = path_of(self.target, endpoint)
        common = {
            "Host": _authority(self.target),
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": "armbench",
        }
        if key:
            common["Authorization"] = f"Bearer {key}"
        if proxy:
            path = self._through(proxy, path, common)
        self._start = f"POST {path} HTTP/1.1\r\n"
        self._lines = _header_lines(common, own)
        self.address: tuple[int, Any] | None = None

    def request(self, body: bytes, request_id: str) -> bytes:
        """One request as it goes over the wire."""
        head = (
            f"{self._start}{self._lines}X-Request-Id: {request_id}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode("latin-1") + body

    def redacted(self, text: str) -> str:
        """`text` without what must not be stored."""
        return redact(text, self.secrets)

    def find(self) -> None:
        """Choose the first address of the host that takes a connection.

        Raises ArmbenchError where none does.
        """
        where = f"{self.host}:{self.port}"
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ArmbenchError(
                f"{self.host!r} is not known: {error.strerror}", hint="check --target"
            ) from None
        fault: OSError | None = None
        for family, _, _, _, address in found:
            try:
                with socket.socket(family, socket.SOCK_STREAM) as probe:
                    probe.settimeout(CONNECT_TIMEOUT_S)
                    probe.connect(address)
                self.address = family, address
                return
            except OSError as error:
                fault = error
        raise ArmbenchError(
            f"no connection to {where}: {fault}", hint="is the server up, and the port right?"
        )

    def _through(self, proxy: str, path: str, common: dict[str, str]) -> str:
        """Go through `proxy`: the path to ask it for."""
        self.host, self.port, login, secrets = parse_proxy(proxy)
        self.secrets += secrets
        if not self.target.secure:
            common.update(login)
            return self.target.origin + path
        where = f"{_bracketed(self.target.host)}:{self.target.port}"
        lines = _header_lines({"Host": where, **login}, {})
        self.tunnel = f"CONNECT {where} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
        return path


def _context(verify: bool | str) -> ssl.SSLContext:
    try:
        context = tls_context(Path(verify) if isinstance(verify, str) else verify)
    except (OSError, ssl.SSLError) as error:
        raise ArmbenchError(f"the certificates in {verify} cannot be read: {error}") from None
    context.set_alpn_protocols(["http/1.1"])
    return context


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _authority(target: Address) -> str:
    usual = 443 if target.secure else 80
    host = _bracketed(target.host)
    return host if target.port == usual else f"{host}:{target.port}"


def _header_lines(common: Mapping[str, str], own: Mapping[str, str]) -> str:
    """Header lines; those of `own` replace common ones of the same name."""
    replaced = {name.lower() for name in own}
    lines = []
    for name, value in [
        *((k, v) for k, v in common.items() if k.lower() not in replaced),
        *own.items(),
    ]:
        plain = name.isascii() and all(c == "\t" or " " <= c <= "\xff" for c in f"{name}{value}")
        if not plain or ":" in name or not name:
            raise ArmbenchError(f"header {name!r} cannot be sent", hint="write it like Name: value")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines)
