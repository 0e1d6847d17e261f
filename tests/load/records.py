"""Request records as a client would have made them, in seconds from the start."""

from __future__ import annotations

from typing import Literal

from harness.records.load import HttpSeen
from harness.records.run import RequestRecord

Finish = Literal["length", "stop", "error", "cancelled", "unfinished"]


def ns(seconds: float) -> int:
    return round(seconds * 1e9)


def request(
    number: int = 0,
    *,
    due: float = 0.0,
    first: float = 0.1,
    gaps: tuple[float, ...] = (0.01, 0.01, 0.01),
    lag: float = 0.0,
    finish: Finish = "length",
    error: str | None = None,
    tokens: bool = True,
    reasoning: int = 0,
    done: float | None = None,
) -> RequestRecord:
    """A request due at `due`, its first token `first` s later, then one token after each gap."""
    at = [due + first]
    for gap in gaps:
        at.append(at[-1] + gap)
    token_ns = [ns(t + 1) for t in at] if tokens else []
    return RequestRecord(
        id=number,
        slot=0,
        due_ns=ns(due + 1),  # the clock does not begin at 0
        sent_ns=ns(due + lag + 1),
        input_tokens=8,
        token_ns=token_ns,
        finish=finish,
        error=error,
        http=HttpSeen(
            chunk_ns=token_ns,
            chunk_tokens=[1] * len(token_ns),
            reasoning_chunks=reasoning,
            done_ns=None if done is None else ns(done + 1),
        ),
    )
