"""The server's own view of what it did: steps, and the instants of each request; bounded."""

from __future__ import annotations

from array import array

from harness.records.load import ServedRequest, ServerSeen, StepsSeen
from harness.wire import Stepped

MAX_STEPS = 400_000  # 48 bytes each
MAX_REQUESTS = 100_000
_COLUMNS = StepsSeen.__struct_fields__


class Journal:
    """Keeps the latest steps and requests since the mark.

    Of each there are two halves that take turns: when one is full the other is emptied, so that at
    least half of the most is there, and never more than it.
    """

    def __init__(self, max_steps: int = MAX_STEPS, max_requests: int = MAX_REQUESTS) -> None:
        self._half_steps, self._half_requests = max_steps // 2, max_requests // 2
        self.mark()

    def mark(self) -> None:
        """Forget everything."""
        self._steps, self._old_steps = _columns(), _columns()
        self._requests: list[ServedRequest] = []
        self._old_requests: list[ServedRequest] = []
        self._forgot = False

    def step(self, s: Stepped, instance: int = 0) -> None:
        """Keep one step of an engine."""
        if len(self._steps[0]) == self._half_steps:
            self._forgot = self._forgot or len(self._old_steps[0]) > 0
            self._old_steps, self._steps = self._steps, _columns()
        values = (s.start_ns, s.end_ns, s.decoding, s.prefill_tokens, s.waiting, instance)
        for column, value in zip(self._steps, values, strict=True):
            column.append(value)

    def request(self, served: ServedRequest) -> None:
        """Keep one request that has ended."""
        if len(self._requests) == self._half_requests:
            self._forgot = self._forgot or len(self._old_requests) > 0
            self._old_requests, self._requests = self._requests, []
        self._requests.append(served)

    def seen(self) -> ServerSeen:
        """All that is kept; `reason` says where the beginning is missing."""
        pairs = zip(self._old_steps, self._steps, strict=True)
        columns = {name: [*a, *b] for name, (a, b) in zip(_COLUMNS, pairs, strict=True)}
        return ServerSeen(
            steps=StepsSeen(**columns),
            requests=[*self._old_requests, *self._requests],
            reason="the log was full: its beginning is missing" if self._forgot else None,
        )


def _columns() -> list[array[int]]:
    return [array("q") for _ in _COLUMNS]
