"""Reading of many results, which can take half a minute: how far it is, on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from harness import store
from harness.records.run import Result
from harness.reports.terminal import console

_PATIENCE_S = 2.0
_BETWEEN_S = {True: 0.1, False: 10.0}  # between two words: on a terminal, elsewhere


class Reading:
    """Reads results, and says on stderr how many when that takes long; a context manager."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.out = console(stderr=True)
        self.count = 0
        self._clock = clock
        self._next = clock() + _PATIENCE_S

    def __enter__(self) -> Reading:
        return self

    def __call__(self, path: Path) -> Result:
        """The result in `path`. Raises ArmbenchError as `store.load` does."""
        found = store.load(path)
        self.count += 1
        if self._clock() >= self._next:
            self._next = self._clock() + _BETWEEN_S[self.out.is_terminal]
            text = f"reading results: {self.count} so far"
            self.out.print(text, end="\r" if self.out.is_terminal else "\n")
        return found

    def __exit__(self, *_: object) -> None:
        if self.out.is_terminal:
            self.out.print(" " * 40, end="\r")
