"""Drives one engine process through warm-up and one trial of a load point."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from harness import wire
from harness.engine_process import EngineProcess
from harness.load.prompts import digest, prompts
from harness.records.run import LoadPoint, RequestRecord

# Warm-up ends when two neighbours agree this well in prefill time and in decode step time.
STABLE_RATIO = 1.10
STABLE_SLACK_S = 0.001  # differences below this are the scheduler's, not the engine's
WARMUP_MOST = 5
WARMUP_TOKENS = 9
WARMUP_LIMIT_S = 30.0


def send(
    process: EngineProcess,
    batch: Sequence[Sequence[int]],
    output_tokens: int,
    *,
    first_id: int,
    timeout_s: float | None,
    due_ns: int | None = None,
    instance: int = 0,
) -> list[RequestRecord]:
    """One batch of prompts, due now or at `due_ns`, run to its end: one record for each row."""
    due = time.monotonic_ns() if due_ns is None else due_ns
    request = wire.Generate([list(row) for row in batch], output_tokens)
    sent = time.monotonic_ns()
    done = process.ask(request, wire.Generated, timeout_s)
    return records(done, batch, due_ns=due, sent_ns=sent, first_id=first_id, instance=instance)


def records(
    done: wire.Generated,
    batch: Sequence[Sequence[int]],
    *,
    due_ns: int,
    sent_ns: int,
    first_id: int,
    instance: int = 0,
) -> list[RequestRecord]:
    """What became of a batch: one record for each row."""
    return [
        RequestRecord(
            id=first_id + slot,
            slot=slot,
            due_ns=due_ns,
            sent_ns=sent_ns,
            input_tokens=len(row),
            started_ns=done.started_ns,
            token_ns=done.token_ns,
            output_sha256=digest(done.tokens[slot]),
            instance=instance,
        )
        for slot, row in enumerate(batch)
    ]


def phases(record: RequestRecord) -> tuple[float, float]:
    """(prefill seconds, median decode step seconds) of one request."""
    start = record.started_ns or record.sent_ns
    gaps = [b - a for a, b in zip(record.token_ns, record.token_ns[1:], strict=False)]
    return (record.token_ns[0] - start) / 1e9, statistics.median(gaps or [0]) / 1e9


def agree(a: float, b: float) -> bool:
    """Whether two times of one warm-up are near enough to call it stable."""
    return abs(a - b) <= max(STABLE_SLACK_S, (STABLE_RATIO - 1) * min(a, b))


def warm_up(
    process: EngineProcess,
    load: LoadPoint,
    *,
    seed: int,
    vocabulary: int,
    timeout_s: float | None,
    instance: int = 0,
) -> tuple[list[RequestRecord], bool]:
    """Requests of `load`'s shape with short outputs until stable: (records, became stable).

    At most `WARMUP_MOST` and, after the first two, at most `WARMUP_LIMIT_S`.
    """
    made: list[RequestRecord] = []
    seen: list[tuple[float, float]] = []
    start = time.monotonic()
    batches = prompts(
        load,
        seed=seed,
        repeat=-1,
        vocabulary=vocabulary,
        requests=WARMUP_MOST,
        instance=instance,
    )
    for number, batch in enumerate(batches):
        tokens = min(WARMUP_TOKENS, load.output_tokens)
        done = send(
            process,
            batch,
            tokens,
            first_id=number * load.batch,
            timeout_s=timeout_s,
            instance=instance,
        )
        made += done
        seen.append(phases(done[0]))
        if len(seen) > 1:
            if all(agree(a, b) for a, b in zip(seen[-1], seen[-2], strict=True)):
                return made, True
            if time.monotonic() - start > WARMUP_LIMIT_S:
                break
    return made, False


def run_load(
    process: EngineProcess,
    load: LoadPoint,
    *,
    seed: int,
    repeat: int,
    vocabulary: int,
    timeout_s: float | None,
) -> list[RequestRecord]:
    """The requests of one trial: the next batch is due when the last one ended."""
    made: list[RequestRecord] = []
    for batch in prompts(load, seed=seed, repeat=repeat, vocabulary=vocabulary):
        made += send(process, batch, load.output_tokens, first_id=len(made), timeout_s=timeout_s)
    return made
