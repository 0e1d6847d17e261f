"""One request on its way, and the record that its bytes and stamps come to."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import Literal

from harness.load.agenda import Job
from harness.load.answers import Answer, decoded, error_in
from harness.load.framing import Ending
from harness.load.tokens import Counted, instants
from harness.records.load import Endpoint, HttpSeen
from harness.records.run import RequestRecord

MOST_ERROR_TEXT = 300
SLICE = 16  # pieces that a digest reads before it lets others work
_LENGTH = {"length", "max_tokens", "max_output_tokens", "max_length", "incomplete"}
Finish = Literal["length", "stop", "error", "cancelled", "unfinished"]


class Exchange:
    """A request from the instant it is due; `pieces` of the answer with the `stamps` of each.

    `sent_ns` is None where nothing was sent. `error` is the client's own: what the server says is
    read from the pieces afterwards. `closed` says that the server hung up.
    """

    __slots__ = (
        "closed", "connect_s", "connection", "done_ns", "ending", "error", "finish", "job",
        "notes", "pieces", "retried", "sent_ns", "stamps", "tls_s", "waited",
    )  # fmt: skip

    def __init__(self, job: Job) -> None:
        self.job = job
        self.sent_ns: int | None = None
        self.done_ns: int | None = None
        self.connection = 0
        self.waited = False  # for a connection of its own
        self.connect_s: float | None = None
        self.tls_s: float | None = None
        self.ending: Ending | None = None
        self.pieces: list[bytes] = []
        self.stamps: list[int] = []
        self.closed = False
        self.error: str | None = None
        self.finish: Finish | None = None
        self.retried = False
        self.notes: list[str] = []


class Digested:
    """What a digest comes to: the record, counts for `ClientSeen`, and the answer for later turns.

    `merged` counts token events that have the stamp of the one before.
    """

    def __init__(self, record: RequestRecord, answer: Answer, counted: Counted) -> None:
        self.record = record
        self.events = answer.events
        self.token_events = len(counted.chunk_ns)
        self.merged = _repeats(counted.chunk_ns)
        self.text = answer.text
        self.ids = answer.ids


def digest(
    exchange: Exchange, endpoint: Endpoint, sender: int, redacted: Callable[[str], str]
) -> Digested:
    """Everything that `exchange` says, read at once."""
    steps = digesting(exchange, endpoint, sender, redacted)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def digesting(
    exchange: Exchange, endpoint: Endpoint, sender: int, redacted: Callable[[str], str]
) -> Generator[None, None, Digested]:
    """`digest` in slices of some 0.1 ms, as a generator that returns it."""
    answer = Answer(endpoint)
    for place, (piece, stamp) in enumerate(zip(exchange.pieces, exchange.stamps, strict=True)):
        answer.feed(piece, stamp)
        if place % SLICE == SLICE - 1:
            yield
    answer.end(closed=exchange.closed)
    counted = answer.counted()
    return Digested(_record(exchange, answer, counted, sender, redacted), answer, counted)


def _record(
    exchange: Exchange,
    answer: Answer,
    counted: Counted,
    sender: int,
    redacted: Callable[[str], str],
) -> RequestRecord:
    planned = exchange.job.planned
    usage = answer.usage
    error = _error(exchange, answer, sum(counted.chunk_tokens))
    finish = exchange.finish or ("error" if error else _finish(answer.finish))
    given_up = exchange.done_ns if exchange.done_ns is not None else time.monotonic_ns()
    told = usage.input if usage else None
    token_ns = instants(counted.chunk_ns, counted.chunk_tokens)
    one_by_one = bool(token_ns) and token_ns == counted.chunk_ns
    return RequestRecord(
        id=planned.id,
        slot=exchange.job.slot,
        due_ns=exchange.job.due_ns,
        sent_ns=exchange.sent_ns if exchange.sent_ns is not None else given_up,
        input_tokens=told if told is not None else planned.input_tokens or 0,
        started_ns=answer.http.started_ns,
        token_ns=token_ns,
        finish=finish,
        output_sha256=_digest(answer.text),
        error=shortened(redacted(error)) if error else None,
        asked_input=planned.input_tokens,
        asked_output=planned.output_tokens,
        http=HttpSeen(
            status=answer.http.status,
            sender=sender,
            connection=exchange.connection,
            connect_s=exchange.connect_s,
            tls_s=exchange.tls_s,
            headers_ns=answer.http.headers_ns,
            done_ns=exchange.done_ns if answer.http.complete else None,
            chunk_ns=None if one_by_one else counted.chunk_ns,
            chunk_tokens=[] if one_by_one else counted.chunk_tokens,
            tokens_by=counted.by,
            reasoning_chunks=counted.reasoning,
            usage_input=told,
            usage_output=usage.output if usage else None,
            usage_cached=usage.cached if usage else None,
            usage_reasoning=usage.reasoning if usage else None,
            finish_reason=shortened(redacted(answer.finish)) if answer.finish else None,
            retry_after_s=retry_after_s(answer.http.headers),
            notes=[shortened(redacted(note)) for note in _notes(exchange, answer)],
        ),
    )


def _error(exchange: Exchange, answer: Answer, tokens: int) -> str | None:
    """What went wrong, the first cause first; None where nothing did."""
    http = answer.http
    so_far = f", {tokens} tokens so far" if tokens else ""
    if http.status is not None and http.status >= 300:
        return f"HTTP {http.status}: {_said_of_error(answer)}".removesuffix(": ")
    unsent = "never sent: " if exchange.sent_ns is None else ""
    why = answer.error or http.fault or exchange.error
    if why is not None:
        return f"{unsent}{why}{so_far}"
    if not http.complete:
        return f"the server hung up within the answer{so_far}"
    if not answer.done and answer.finish is None and answer.usage is None:
        return f"the stream ended without a word on its end{so_far}"
    return None


def _said_of_error(answer: Answer) -> str:
    message = decoded(answer.raw)
    if isinstance(message, dict):
        said = error_in(message) or message.get("detail") or message.get("message")
        if said:
            return str(said)
    if answer.http.status is not None and answer.http.status < 400:
        return f"to {answer.http.headers.get('location')}, not followed"
    return answer.raw.decode(errors="replace")


def _finish(reason: str | None) -> Finish:
    return "length" if reason in _LENGTH else "stop"


def _notes(exchange: Exchange, answer: Answer) -> list[str]:
    notes = exchange.notes + answer.notes
    if exchange.waited and exchange.sent_ns is not None:
        notes.append("waited for a new connection, for none was idle")
    if answer.streamed and answer.http.status == 200 and answer.http.complete:
        if not answer.done and answer.error is None:
            notes.append("the stream ended without [DONE]")
        if answer.finish is None and answer.error is None:
            notes.append("no finish reason")
    coding = answer.http.headers.get("content-encoding", "identity")
    if coding != "identity":
        notes.append(f"the answer is packed with {coding}, which was not asked for")
    return notes


def never_sent(job: Job, finish: Finish, error: str, at_ns: int, sender: int) -> RequestRecord:
    """The record of a request that was due but never went out; it was given up at `at_ns`."""
    planned = job.planned
    return RequestRecord(
        id=planned.id,
        slot=job.slot,
        due_ns=job.due_ns,
        sent_ns=0,
        input_tokens=planned.input_tokens or 0,
        finish=finish,
        error=f"never sent: {error}",
        asked_input=planned.input_tokens,
        asked_output=planned.output_tokens,
        http=HttpSeen(sender=sender, done_ns=at_ns),
    )


def shortened(text: str) -> str:
    """`text` on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= MOST_ERROR_TEXT else line[: MOST_ERROR_TEXT - 1] + "…"


def retry_after_s(headers: dict[str, str]) -> float | None:
    """Seconds that the server asks to wait: RFC 9110, 10.2.3, as a number or as a date."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(text)
        given = headers.get("date")
        now = parsedate_to_datetime(given) if given else datetime.now(UTC)
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError):
        return None


def _digest(text: str) -> str | None:
    """SHA-256 of the visible text, None without any."""
    data = text.encode(errors="surrogatepass")
    return hashlib.sha256(data).hexdigest() if data else None


def _repeats(instants_ns: list[int]) -> int:
    return sum(a == b for a, b in pairwise(instants_ns))
