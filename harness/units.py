"""Numbers with units, as people write and read them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from harness.errors import ArmbenchError

NS_PER_S = 1_000_000_000

_BYTE_UNITS = {
    "": 1,
    "b": 1,
    **{u: 10 ** (3 * (i + 1)) for i, u in enumerate(("kb", "mb", "gb", "tb"))},
    **{u: 2 ** (10 * (i + 1)) for i, u in enumerate(("kib", "mib", "gib", "tib"))},
    **{u: 2 ** (10 * (i + 1)) for i, u in enumerate("kmgt")},
}
_TIME_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def _parse(text: str, units: dict[str, float] | dict[str, int], what: str, example: str) -> float:
    match = _NUMBER.fullmatch(text)
    if match is None or match[2].lower() not in units:
        raise ArmbenchError(f"{text!r} is not {what}", hint=f"write it like {example}")
    return float(match[1]) * units[match[2].lower()]


def parse_duration(text: str) -> float:
    """Seconds in `text` such as `90s`, `1.5h`, `20m` or `30d`; a bare number counts seconds.

    Raises ArmbenchError where `text` is no duration.
    """
    return _parse(text, {"": 1.0, **_TIME_UNITS}, "a duration", "90s, 20m or 1.5h")


def parse_bytes(text: str) -> int:
    """Bytes in `text` such as `24GiB`, `512k` (binary) or `1GB` (decimal).

    Raises ArmbenchError where `text` is no size.
    """
    return int(_parse(text, _BYTE_UNITS, "a size", "24GiB or 512MB"))


def format_bytes(count: float) -> str:
    """`count` bytes in binary units with three significant digits: `1.85 GiB`."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"


def format_duration(seconds: float) -> str:
    """`seconds` as a person says it: `850 ms`, `12.3 s`, `4 min 05 s`, `1 h 20 min`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def parse_cpu_list(text: str) -> list[int]:
    """CPU numbers of a kernel list such as `0-3,8,10-11`, in the order written, each once.

    Raises ArmbenchError where `text` is not such a list, or names over 65,536 CPUs.
    """
    cpus: dict[int, None] = {}
    for part in filter(None, text.strip().split(",")):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        low = int(match[1]) if match else 0
        high = int(match[2] or match[1]) if match else -1
        if high < low or high - low > 65536:
            raise ArmbenchError(f"{text!r} is not a CPU list", hint="write it like 0-3,8")
        cpus.update(dict.fromkeys(range(low, high + 1)))
    return list(cpus)


def format_cpu_list(cpus: Iterable[int]) -> str:
    """The shortest kernel list of `cpus`: `0-3,8`."""
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
