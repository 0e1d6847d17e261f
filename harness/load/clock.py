"""The clocks of a sender: kernel stamps on CLOCK_MONOTONIC, lags, and a timer that is on time."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterable, Sequence

# Further apart than this, the two clocks were read with something in between.
_TIGHT_NS = 5_000
# CLOCK_REALTIME runs beside CLOCK_MONOTONIC (NTP slews both alike) unless somebody sets it.
_STEP_NS = 20_000
_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1


class WallOffset:
    """CLOCK_REALTIME − CLOCK_MONOTONIC, for the kernel stamps packets with the former."""

    def __init__(self) -> None:
        self.steps = 0
        pairs = [_pair() for _ in range(50)]
        self.offset_ns = min(pairs)[1]

    def stepped(self) -> bool:
        """Look again; whether the wall clock has been set since."""
        for _ in range(5):
            width, offset = _pair()
            if width > _TIGHT_NS:
                continue
            if abs(offset - self.offset_ns) <= _STEP_NS:
                return False
            self.offset_ns = offset
            self.steps += 1
            return True
        return False


def _pair() -> tuple[int, int]:
    """(how far apart the clocks were read, offset)."""
    before = time.monotonic_ns()
    wall = time.time_ns()
    after = time.monotonic_ns()
    return after - before, wall - (before + after) // 2


class Lags:
    """Counts of durations by 1.024 µs up to 4 ms and by 1.05 ms up to 4 s; the maximum exactly."""

    BINS = 4096

    def __init__(self) -> None:
        self.fine = [0] * self.BINS
        self.coarse = [0] * self.BINS
        self.most = 0

    def add(self, ns: int) -> None:
        """Count one duration; a negative one is 0."""
        self.most = max(self.most, ns)
        place = ns >> 10
        if place < 0:
            self.fine[0] += 1
        elif place < 4096:
            self.fine[place] += 1
        else:
            place >>= 10
            self.coarse[place if place < 4096 else 4095] += 1

    def merge(self, others: Iterable[tuple[Sequence[int], Sequence[int], int]]) -> None:
        """Add what others counted, as their `columns`."""
        for fine, coarse, most in others:
            self.fine = [a + b for a, b in zip(self.fine, fine, strict=True)]
            self.coarse = [a + b for a, b in zip(self.coarse, coarse, strict=True)]
            self.most = max(self.most, most)

    def columns(self) -> tuple[list[int], list[int], int]:
        """Everything counted."""
        return self.fine, self.coarse, self.most

    def quantile(self, share: float) -> float | None:
        """Seconds that `share` of the durations do not exceed, to the bin; None without any."""
        total = sum(self.fine) + sum(self.coarse)
        if not total:
            return None
        left = share * total
        for counts, width in ((self.fine, 1 << 10), (self.coarse[:-1], 1 << 20)):
            for place, n in enumerate(counts):
                left -= n
                if n and left <= 0:
                    return min((place + 1) * width, self.most) / 1e9
        return self.most / 1e9

    def summary(self) -> tuple[float, float, float] | None:
        """Median, 99th percentile and maximum in seconds; None where nothing was counted."""
        middle, high = self.quantile(0.5), self.quantile(0.99)
        return None if middle is None or high is None else (middle, high, self.most / 1e9)


class _TimerSpec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Timer:
    """A timerfd on CLOCK_MONOTONIC: epoll's own time-out counts in milliseconds.

    Raises OSError where the system has none.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        try:
            create, self._set = library.timerfd_create, library.timerfd_settime
        except AttributeError as error:
            raise OSError("this system has no timerfd") from error
        self._set.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        self._fd: int = create(time.CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = _TimerSpec()
        self._at = ctypes.addressof(self._spec)
        self.armed_ns = 0

    def fileno(self) -> int:
        return self._fd

    def arm(self, at_ns: int) -> None:
        """Become readable at `at_ns`, once. An instant of the past counts as now."""
        if at_ns != self.armed_ns:
            self.armed_ns = at_ns
            self._spec.value_s, self._spec.value_ns = divmod(max(at_ns, 1), 1_000_000_000)
            self._set(self._fd, _TFD_TIMER_ABSTIME, self._at, None)

    def close(self) -> None:
        os.close(self._fd)
