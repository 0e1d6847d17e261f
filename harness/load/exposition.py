"""Prometheus text as a server publishes it: untrusted, read line by line, bounded.

Source: "Exposition formats" of the Prometheus documentation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field

MAX_SERIES = 500
_MAX_LINE = 1024
_MAX_LINES = 10_000  # vLLM has about 1,500, most of them buckets
_MAX_NAME = 256
_TYPE = re.compile(r"#\s+TYPE\s+(\S+)\s+(\w+)")
_ENDINGS = ("_total", "_sum", "_count")
_NOT_KEPT = ("_bucket", "_created")
# Parts of a family that only ever rise, by the kind of the family.
_RISING = {
    "counter": ("", "_total"),
    "histogram": ("_sum", "_count"),
    "summary": ("_sum", "_count"),
}


class Samples(Struct, kw_only=True):
    """One look at a server's metrics: what only rises, and what stands at a value.

    Names carry their labels: `vllm:prompt_tokens_total{engine="0"}`. Histogram buckets and times
    of creation are not kept. `left_out` counts lines that could not be read, values that are no
    number, and series beyond the first MAX_SERIES.
    """

    counters: dict[str, float] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    left_out: int = 0


def parse(text: str) -> Samples:
    """The samples in `text`; never raises."""
    kinds: dict[str, str] = {}
    found = Samples()
    lines = text.splitlines()
    for line in lines[:_MAX_LINES]:
        if len(line) > _MAX_LINE:
            found.left_out += 1
        elif line.lstrip().startswith("#"):
            if (match := _TYPE.match(line.strip())) and len(kinds) < 2 * MAX_SERIES:
                kinds[match[1]] = match[2]
        elif line.strip():
            _take(found, line, kinds)
    found.left_out += max(0, len(lines) - _MAX_LINES)
    return found


def _take(found: Samples, line: str, kinds: Mapping[str, str]) -> None:
    """Put one sample line where it belongs."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        (family,) = text_string_to_metric_families(line)
        sample = family.samples[0]
        value = float(sample.value)
    except (ValueError, IndexError, KeyError, OverflowError):
        found.left_out += 1
        return
    name = series_name(sample.name, sample.labels)
    place = _place(sample.name, kinds)
    if place is None:
        return
    held = found.counters if place == "counters" else found.gauges
    full = len(found.counters) + len(found.gauges) >= MAX_SERIES and name not in held
    if full or name is None or not math.isfinite(value):
        found.left_out += 1
        return
    held[name] = value


def _place(name: str, kinds: Mapping[str, str]) -> str | None:
    """Counters or gauges; None for what is not kept."""
    if name.endswith(_NOT_KEPT):
        return None
    ending = next((e for e in _ENDINGS if name.endswith(e)), "")
    for family, rest in ((name, ""), (name.removesuffix(ending), ending)):
        if family in kinds:
            return "counters" if rest in _RISING.get(kinds[family], ()) else "gauges"
    return "counters" if ending == "_total" else "gauges"


def series_name(name: str, labels: Mapping[str, str]) -> str | None:
    """`name` with its labels sorted; None where that is too long or not printable."""
    inner = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    joined = f"{name}{{{inner}}}" if inner else name
    return joined if len(joined) <= _MAX_NAME and joined.isprintable() else None


def delta(before: Samples, after: Samples) -> dict[str, float]:
    """How much each counter rose from `before` to `after`, and the last value of each gauge.

    A counter that is new began at 0, as Prometheus clients make a series when it is first used.
    One that fell was started anew in between: it is left out, see `fallen`.
    """
    risen = {
        name: value - before.counters.get(name, 0.0)
        for name, value in after.counters.items()
        if value >= before.counters.get(name, 0.0)
    }
    return risen | after.gauges


def fallen(before: Samples, after: Samples) -> list[str]:
    """Counters that fell or went away: the server, or a part of it, was started anew."""
    return sorted(
        name
        for name, value in before.counters.items()
        if after.counters.get(name, -math.inf) < value
    )


def by_meaning(
    metrics: Mapping[str, float], meaning: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """What `metrics` say in our words; a meaning none of whose series is there is left out.

    The series of a meaning are added up, over all their labels.
    """
    bare: dict[str, float] = {}
    for name, value in metrics.items():
        base = name.partition("{")[0]
        bare[base] = bare.get(base, 0.0) + value
    told = {}
    for word, names in meaning.items():
        values = [bare[name] for name in names if name in bare]
        if len(values) == len(names):
            told[word] = math.fsum(values)
    return told


def nearest(
    metrics: Iterable[str], meanings: Mapping[str, Mapping[str, Sequence[str]]]
) -> str | None:
    """The server of `meanings` whose series are most among `metrics`; None where none is."""
    bases = {name.partition("{")[0] for name in metrics}
    hits = {
        server: sum(1 for names in meaning.values() for name in names if name in bases)
        for server, meaning in meanings.items()
    }
    best = max(hits, key=lambda server: hits[server], default=None)
    return best if best is not None and hits[best] else None
