"""Requests of a streaming client as other tools store them: from relative times to our records."""

from __future__ import annotations

from collections.abc import Sequence

from harness import stats
from harness.errors import ArmbenchError
from harness.records.load import Arrivals, Lengths, ServingLoad
from harness.records.run import LoadPoint, RequestRecord, Trial

ENDPOINT = "openai"  # the engine of a case that is somebody else's server, as in our own loads
# An instant of 0 means "never sent" here, so a load begins one second after it.
ZERO_NS = 1_000_000_000
MAX_TOKENS = 1_000_000  # of one request
LONGEST_S = 1e7  # of a run or a request: 100 days, far from where nanoseconds overflow
_MAX_ALL_TOKENS = 30_000_000
SENT_ONLY = "the file tells when a request was sent, not when it was due"
SPREAD = "the file has the instants of chunks, not of tokens"
ONE_CHUNK = "answers came in one piece: the file has no instant of their last token"
FROM_DUE = ("ttft", "ttfot", "latency", "ntpot", "send_lag", "intended_rate")
BETWEEN_TOKENS = ("itl",)


class Budget:
    """How many output tokens a file may still claim: a hostile one claims without end."""

    def __init__(self) -> None:
        self._left = _MAX_ALL_TOKENS

    def take(self, tokens: float, where: str) -> None:
        """Take off what a run claims, before anything is made of it.

        Raises ArmbenchError where a file claims over 30 million tokens.
        """
        self._left -= int(tokens)
        if self._left < 0:
            raise ArmbenchError(f"{where}: over {_MAX_ALL_TOKENS:,} output tokens are not read")


def token_instants(chunks: Sequence[int], tokens: int) -> list[int]:
    """Instants of `tokens` tokens that came in `chunks`: first and last are exact.

    One token a chunk is exact throughout; else they are laid evenly over the chunks.
    """
    if not chunks or tokens <= 0:
        return []
    if len(chunks) == tokens:
        return list(chunks)
    if tokens == 1:
        return [chunks[0]]
    scale = (len(chunks) - 1) / (tokens - 1)
    found = []
    for n in range(tokens):
        at = n * scale
        low = min(int(at), len(chunks) - 1)
        high = min(low + 1, len(chunks) - 1)
        found.append(chunks[low] + round((at - low) * (chunks[high] - chunks[low])))
    return found


def mark_spread(trial: Trial, records: Sequence[RequestRecord]) -> None:
    """Say which metrics `records` can't tell because tokens were laid over chunks."""
    answered = [r for r in records if r.token_ns]
    if any(len(r.chunk_ns) != len(r.token_ns) for r in answered if r.http):
        trial.unknown |= dict.fromkeys(BETWEEN_TOKENS, SPREAD)
    if any(r.http and len(r.chunk_ns) < 2 <= len(r.token_ns) for r in answered):
        trial.unknown["tpot"] = trial.unknown["latency"] = trial.unknown["ntpot"] = ONE_CHUNK


def mark_sent_only(trial: Trial) -> None:
    """Say that nothing counts from the due time."""
    trial.unknown |= dict.fromkeys(FROM_DUE, SENT_ONLY)


def lengths(values: Sequence[float]) -> Lengths | None:
    """Fixed lengths where all are equal; else None, for the distribution is not told."""
    if values and min(values) == max(values):
        return Lengths(kind="fixed", mean=float(values[0]))
    return None


def load_point(
    *,
    concurrency: int | None,
    arrivals: Arrivals | None,
    requests: int,
    input_tokens: Sequence[float],
    output_tokens: Sequence[float],
    everything_at_once: bool = False,
) -> LoadPoint:
    """The load of a client: open with arrivals, closed with a concurrency, else offline.

    The lengths are those of every request, or one mean each.
    """
    serving = ServingLoad(
        concurrency=concurrency,
        arrivals=arrivals,
        input=lengths(input_tokens),
        output=lengths(output_tokens),
    )
    kind = "open" if arrivals else "offline" if everything_at_once else "closed"
    return LoadPoint(
        kind=kind,  # type: ignore[arg-type]  # one of its three words
        batch=max(1, requests) if kind == "offline" else 1,
        input_tokens=_mean(input_tokens),
        output_tokens=_mean(output_tokens),
        requests=requests,
        serving=None if kind == "offline" else serving,
    )


def _mean(values: Sequence[float]) -> int:
    return round(sum(values) / len(values)) if values else 0


def percentiles(
    name: str, values: dict[str, float | None], samples: int, scale: float = 1.0
) -> dict[str, float]:
    """Figures `name_p50_s`, … of those percentiles that `samples` values can tell.

    `values` are by percentile (`p50`), `scale` brings them to seconds.
    """
    marks = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
    return {
        f"{name}_{mark}_s": value * scale
        for mark, q in marks.items()
        if (value := values.get(mark)) is not None and samples >= stats.NEEDED[q]
    }
