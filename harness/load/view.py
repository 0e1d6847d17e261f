"""The server's own account of a window: our server's journal, or a foreign one's metrics."""

from __future__ import annotations

import msgspec

from harness.errors import ArmbenchError
from harness.load import scrape
from harness.load.endpoint import Endpoint, tls_context
from harness.load.exposition import Samples, delta
from harness.load.offer import View
from harness.records.load import ServerSeen

_DEFAULT_METRICS = "/metrics"


class Nothing:
    """A server that tells nothing, and why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def begin(self) -> None:
        return

    def end(self) -> ServerSeen:
        return ServerSeen(reason=self.reason)


class Journal:
    """Our own server: marked before, read after."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def begin(self) -> None:
        self.endpoint.ask("POST", "/armbench/mark", b"{}")

    def end(self) -> ServerSeen:
        status, body = self.endpoint.ask("GET", "/armbench/log")
        try:
            seen: ServerSeen = msgspec.json.decode(body, type=ServerSeen)
        except msgspec.MsgspecError as error:
            return ServerSeen(reason=f"its log was answered by {status}: {error}")
        return seen


class Scraped:
    """A foreign server: its Prometheus metrics before and after."""

    def __init__(self, endpoint: Endpoint, path: str) -> None:
        self.endpoint, self.path = endpoint, path
        self.before: Samples | None = None
        self.reason: str | None = None

    def _take(self) -> Samples | None:
        address = self.endpoint.address
        context = tls_context(self.endpoint.verify) if address.secure else None
        url = address.origin + self.path
        try:
            return scrape.fetch_metrics(
                url, headers=self.endpoint.headers, context=context, proxy=self.endpoint.proxy
            )
        except ArmbenchError as error:
            self.reason = error.message
            return None

    def begin(self) -> None:
        self.before = self._take()

    def end(self) -> ServerSeen:
        after = self._take()
        if self.before is None or after is None:
            return ServerSeen(reason=self.reason)
        return ServerSeen(metrics=delta(self.before, after))


def choose_view(endpoint: Endpoint, metrics: str | None) -> View:
    """The best account that the server behind `endpoint` gives of itself."""
    if "engine_pid" in endpoint.health():
        return Journal(endpoint)
    found = Scraped(endpoint, metrics or _DEFAULT_METRICS)
    found.begin()
    if found.before is not None:
        return found
    if metrics is not None:
        raise ArmbenchError(f"--metrics {metrics}: {found.reason}")
    return Nothing(f"it publishes no metrics: {found.reason}")
