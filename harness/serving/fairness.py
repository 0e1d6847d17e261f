"""Whose request is next: queues that are fair between clients, first come first served within one.

Virtual token counters as in Sheng et al., Fairness in Serving Large Language Models (OSDI 2024),
Algorithm 2: each client's counter grows by what it was given, and the waiting client with the
lowest goes first. A client that comes back is lifted to those who wait, so that it has saved up
nothing while it was away.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

INPUT_WEIGHT = 1  # weights of that paper's evaluation
OUTPUT_WEIGHT = 2
_FORGET_FROM = 1024
T = TypeVar("T")


class FairQueue(Generic[T]):
    """Waiting items of each client in order, and what each client was given."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[tuple[int, T]]] = {}  # clients with waiting items only
        self._given: dict[str, int] = {}
        self._last: str | None = None  # the last client that left the queue
        self._arrivals = 0
        self._forget_at = _FORGET_FROM

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def given(self, client: str) -> int:
        """Weighted tokens that count for `client`."""
        return self._given.get(client, 0)

    def push(self, client: str, item: T) -> None:
        """Put `item` behind those of `client`."""
        if client not in self._queues:
            self._given[client] = max(self.given(client), self._level())
            self._queues[client] = deque()
            self._forget()
        self._queues[client].append((self._arrivals, item))
        self._arrivals += 1

    def _level(self) -> int:
        """What a client that comes must have on its counter: the least of those who wait."""
        if self._queues:
            return min(self._given[client] for client in self._queues)
        return self._given.get(self._last, 0) if self._last is not None else 0

    def next(self) -> tuple[str, T] | None:
        """(client, item) whose turn it is; it stays in the queue."""
        if not self._queues:
            return None
        client = min(self._queues, key=lambda c: (self._given[c], self._queues[c][0][0]))
        return client, self._queues[client][0][1]

    def pop(self, client: str) -> T:
        """Take the first item of `client` out."""
        _, item = self._queues[client].popleft()
        self._left(client)
        return item

    def remove(self, client: str, item: T) -> None:
        """Take `item` of `client` out, wherever it stands. Raises ValueError where it is not."""
        queue = self._queues.get(client, deque())
        for index, (_, found) in enumerate(queue):
            if found is item:
                del queue[index]
                return self._left(client)
        raise ValueError(f"{item!r} does not wait")

    def _left(self, client: str) -> None:
        if not self._queues[client]:
            del self._queues[client]
            self._last = client

    def charge(self, client: str, *, inputs: int = 0, outputs: int = 0) -> None:
        """Count tokens that were computed for `client`."""
        if client not in self._given:  # forgotten while its requests ran
            self._given[client] = self._level()
        self._given[client] += INPUT_WEIGHT * inputs + OUTPUT_WEIGHT * outputs

    def _forget(self) -> None:
        """Drop the counters of those who are away and below the level: they would be lifted."""
        if len(self._given) < self._forget_at:
            return
        level = self._level()
        self._given = {
            client: count
            for client, count in self._given.items()
            if client in self._queues or client == self._last or count > level
        }
        self._forget_at = max(_FORGET_FROM, 2 * len(self._given))
