"""The machine's state while something runs: read at intervals, from a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from harness.machine.conditions import read_conditions
from harness.records.machine import Conditions

MOST = 64  # readings kept of one interval; beyond it every second one goes, and so on


class During:
    """Reads the conditions every `interval_s` between enter and exit, into `readings`.

    A long interval keeps at most `MOST` of them, evenly spread.
    """

    def __init__(
        self,
        *,
        interval_s: float = 2.0,
        root: Path = Path("/"),
        read: Callable[[Path], Conditions] = read_conditions,
    ) -> None:
        self.readings: list[Conditions] = []
        self.interval_s = interval_s
        self._root, self._read = root, read
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="conditions", daemon=True)

    def __enter__(self) -> During:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._stop.wait(self.interval_s):
            self.take()

    def take(self) -> None:
        """One reading now; at `MOST` every second one is dropped and the pace halved."""
        self.readings.append(self._read(self._root))
        if len(self.readings) >= MOST:
            self.readings = self.readings[1::2]
            self.interval_s *= 2
