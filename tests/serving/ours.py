"""Our own client, driven and read as `rivals` does with the others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.load.bodies import Bodies, default_sampling
from harness.load.senders import Ran, Senders
from harness.records.load import Planned, Target
from harness.records.run import RequestRecord, Result
from tests.serving.rivals import REPOSITORY, Asked, Report, Seen

_DRAIN_S = 30.0
_EVERY_CPU = os.sched_getaffinity(0)  # before a script pins itself


def by_senders(asked: Asked, hold: tuple[float, float] | None = None) -> tuple[Report, Ran]:
    """What the senders say of a constant rate, in a window of their own; `hold` as of Senders."""
    assert asked.rate is not None
    target = Target(
        url=asked.url,
        endpoint="chat" if asked.endpoint == "chat" else "completions",
        model=asked.model,
        sampling=default_sampling("completions"),
        body='{"ignore_eos": true}',
    )
    planned = [
        Planned(
            id=number,
            due_ns=round(number / asked.rate * 1e9),
            input_tokens=asked.input_tokens,
            output_tokens=asked.output_tokens,
            seed=number + 1,
        )
        for number in range(asked.requests)
    ]
    with Senders(target, cpus=[asked.cpu], hold=hold) as senders:
        ran = senders.run(planned, Bodies(target), drain_s=_DRAIN_S)
    begun = [record for record in ran.records if record.token_ns]
    seconds = (max(r.token_ns[-1] for r in begun) - min(r.sent_ns for r in begun)) / 1e9
    seen = seen_of(ran.records, f"{ran.tag}-")
    failed = len(ran.records) - len(seen)
    tok_per_s = sum(one.tokens for one in seen) / seconds
    return Report(seen=seen, failed=failed, tok_per_s=tok_per_s, seconds=seconds), ran


def by_command(asked: Asked, folder: Path) -> Report:
    """What `armbench load` says; its throughput counts the tokens inside its window.

    RuntimeError with the last lines where it gives no result.
    """
    load = (
        ["--concurrency", str(asked.concurrency)]
        if asked.rate is None
        else ["--arrivals", "constant", "--rate", str(asked.rate)]
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "harness", "load", "--target", asked.url, "--json", *load),
            *("--endpoint", asked.endpoint, "--model", asked.model, "--results", str(folder)),
            *("--requests", str(asked.requests), "--client-cpus", str(asked.cpu)),
            *("--input-tokens", str(asked.input_tokens)),
            *("--output-tokens", str(asked.output_tokens)),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, _EVERY_CPU),
    )
    if not done.stdout:
        raise RuntimeError(f"armbench load ended with {done.returncode}:\n{done.stderr[-3000:]}")
    (trial,) = msgspec.json.decode(done.stdout, type=Result).trials
    assert trial.window_ns is not None
    start, end = trial.window_ns
    every = trial.warmup + trial.records
    inside = sum(start <= at < end for record in every for at in record.token_ns)
    seen, seconds = seen_of(trial.records, ""), (end - start) / 1e9
    failed = len(trial.records) - len(seen)
    return Report(seen=seen, failed=failed, tok_per_s=inside / seconds, seconds=seconds)


def seen_of(records: Sequence[RequestRecord], prefix: str) -> list[Seen]:
    """Records of requests that succeeded, in the rivals' form: TTFT from the send.

    `prefix` is what the X-Request-Id has before a record's id.
    """
    return [
        Seen(
            key=f"{prefix}{record.id}",
            ttft_s=(record.token_ns[0] - record.sent_ns) / 1e9,
            tpot_s=_tpot_s(record.token_ns),
            tokens=len(record.token_ns),
            input_tokens=record.input_tokens,
        )
        for record in records
        if record.error is None and record.token_ns
    ]


def _tpot_s(token_ns: Sequence[int]) -> float | None:
    if len(token_ns) < 2:
        return None
    return (token_ns[-1] - token_ns[0]) / 1e9 / (len(token_ns) - 1)
