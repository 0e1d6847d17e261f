"""Schedules: the requests of a trial as a list, made before it from a recorded seed."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from harness.errors import ArmbenchError
from harness.load import lengths
from harness.load.arrivals import due_times
from harness.load.given import Given, read_prompts
from harness.load.seeds import derived
from harness.load.traces import Row, read_trace
from harness.records.load import Arrivals, Lengths, Planned, ServingLoad, Sharing
from harness.records.run import LoadPoint
from harness.units import NS_PER_S

_CHUNK = 1024


class Size(NamedTuple):
    """What one request asks for, before it has a place in the schedule."""

    input_tokens: int | None
    output_tokens: int
    row: Row | None = None
    given: Given | None = None


def make(load: LoadPoint, *, seed: int, repeat: int) -> list[Planned]:
    """The requests of one trial of `load`, in the order of their ids.

    The same arguments make the same list; another `repeat` has other arrivals and prompts. Raises
    ArmbenchError for a load that can't be made, and ValueError for a closed loop that ends by
    time: how many requests it takes is not known before (see `stream`).
    """
    if not load.requests and load.kind != "open":
        raise ValueError("a closed loop that ends by time has no list of requests: use stream")
    return list(stream(load, seed=seed, repeat=repeat))


def stream(load: LoadPoint, *, seed: int, repeat: int) -> Iterator[Planned]:
    """As `make`, one by one; without end for a closed loop that ends by time."""
    serving = load.serving or ServingLoad()
    _check(load, serving)
    rows = _trace_rows(load, serving)
    sizes = _sizes(load, serving, rows, derived(seed, repeat, "lengths"))
    starts = _starts(load, serving, rows, derived(seed, repeat, "arrivals"))
    rng = random.Random(derived(seed, repeat, "groups"))
    turns = serving.sharing.turns
    planned = (
        one
        for number, due in enumerate(starts)
        for one in _conversation(
            number,
            due,
            list(itertools.islice(sizes, turns)),
            serving.sharing,
            (seed, repeat, rng.randrange(serving.sharing.groups)),
        )
    )
    yield from itertools.islice(planned, load.requests or None)


def _check(load: LoadPoint, serving: ServingLoad) -> None:
    kinds = {serving.input and serving.input.kind, serving.output and serving.output.kind}
    traced = serving.arrivals is not None and serving.arrivals.process == "trace"
    if "trace" in kinds and not traced:
        raise ArmbenchError(
            "lengths of a trace without its arrivals", hint="give --arrivals trace --trace FILE"
        )
    if traced and serving.sharing.turns > 1:
        raise ArmbenchError(
            "a trace has no conversations to make turns of", hint="leave --turns out"
        )
    if load.kind == "open" and serving.arrivals is None:
        raise ArmbenchError("an open loop without arrivals", hint="give --arrivals and --rate")
    if "prompts" in kinds and serving.sharing != Sharing():
        raise ArmbenchError(
            "given prompts share what their text shares",
            hint="leave prefix share and turns out, or leave the prompt file out",
        )
    if serving.output and serving.output.kind == "prompts" and _kind(serving.input) != "prompts":
        raise ArmbenchError(
            "output lengths of a prompt file without its prompts",
            hint="give --input-tokens prompts:FILE too",
        )


def _kind(some: Lengths | None) -> str | None:
    return some.kind if some else None


def _trace_rows(load: LoadPoint, serving: ServingLoad) -> list[Row] | None:
    arrivals = serving.arrivals
    if arrivals is None or arrivals.process != "trace" or arrivals.trace is None:
        return None
    until = None if serving.duration_s is None else serving.duration_s / arrivals.time_scale
    return read_trace(Path(arrivals.trace), most=load.requests or None, until_s=until).rows


def _starts(
    load: LoadPoint, serving: ServingLoad, rows: list[Row] | None, seed: int
) -> Iterable[int | None]:
    """When single requests, or conversations, begin."""
    if load.kind != "open" or serving.arrivals is None:
        return itertools.repeat(0 if load.kind == "offline" else None)
    turns = serving.sharing.turns
    return due_times(
        _of_conversations(serving.arrivals, turns),
        seed=seed,
        count=math.ceil(load.requests / turns) or None,
        duration_s=serving.duration_s,
        rows=rows,
    )


def _of_conversations(arrivals: Arrivals, turns: int) -> Arrivals:
    """`arrivals` of conversations for the same rate of requests."""
    rate, end = arrivals.rate, arrivals.rate_end
    return structs.replace(
        arrivals, rate=rate and rate / turns, rate_end=None if end is None else end / turns
    )


def _sizes(
    load: LoadPoint, serving: ServingLoad, rows: list[Row] | None, seed: int
) -> Iterator[Size]:
    """Lengths without end, but for those of a trace. Input and output have draws of their own."""
    given = _prompts(serving.input, seed) if _kind(serving.input) == "prompts" else None
    traced = itertools.chain(rows or [], itertools.repeat(rows[-1])) if rows else None
    inputs = _drawn(serving.input, load.input_tokens, derived(seed, "input"))
    outputs = _drawn(serving.output, load.output_tokens, derived(seed, "output"))
    while True:
        row = next(traced) if traced else None
        prompt = next(given) if given else None
        into = _one(serving.input, row, prompt, inputs)
        out = _one(serving.output, row, prompt, outputs, output=True)
        assert out is not None
        blocks = row if row and _kind(serving.input) == "trace" else None
        yield Size(into, out, blocks, prompt)


def _one(
    how: Lengths | None,
    row: Row | None,
    prompt: Given | None,
    drawn: Iterator[int],
    *,
    output: bool = False,
) -> int | None:
    if _kind(how) == "trace" and row is not None:
        return row.output_tokens if output else row.input_tokens
    if _kind(how) != "prompts":
        return next(drawn)
    if not output:
        return None
    if prompt is None or prompt.output_tokens is None:
        raise ArmbenchError(
            "a prompt of the file has no output_tokens", hint="add it, or give --output-tokens N"
        )
    return prompt.output_tokens


def _drawn(how: Lengths | None, mean: int, seed: int) -> Iterator[int]:
    import numpy as np

    how = how or Lengths(kind="fixed", mean=mean)
    rng = np.random.Generator(np.random.PCG64(seed))
    while True:
        yield from lengths.draw(how, _CHUNK, rng)


def _prompts(how: Lengths | None, seed: int) -> Iterator[Given]:
    """Given prompts in a random order, each once before any comes again."""
    assert how is not None
    assert how.file is not None
    prompts = read_prompts(Path(how.file))
    rng = random.Random(derived(seed, "prompts"))
    while True:
        yield from rng.sample(prompts, len(prompts))


def _conversation(
    number: int, due: int | None, sizes: Sequence[Size], sharing: Sharing, key: tuple[int, int, int]
) -> Iterator[Planned]:
    """The turns of one conversation; `key` is seed, repeat and group."""
    seed, repeat, group = key
    heard = 0
    for turn, size in enumerate(sizes):
        own = size.input_tokens
        shared = round(sharing.prefix_share * (own or 0)) if turn == 0 else 0
        blocks = size.row.blocks if size.row else ()
        index = number * sharing.turns + turn
        yield Planned(
            id=index,
            due_ns=due if turn == 0 else None,
            input_tokens=None if own is None else heard + own,
            output_tokens=size.output_tokens,
            seed=derived(seed, repeat, "prompt", index),
            prefix=derived(seed, repeat, "prefix", group) if shared else None,
            prefix_tokens=shared,
            conversation=number if sharing.turns > 1 else None,
            turn=turn,
            think_ns=round(sharing.think_s * NS_PER_S) if turn else 0,
            prompt=size.given.prompt if size.given else None,
            messages=size.given.messages if size.given else None,
            blocks=[derived(seed, repeat, "block", block) for block in blocks],
        )
        heard += (own or 0) + size.output_tokens


def dealt(planned: Iterable[Planned], sender: int, senders: int) -> Iterator[Planned]:
    """The part of `sender` (from 0): every request goes to one, a conversation's to the same."""
    for one in planned:
        owner = one.id if one.conversation is None else one.conversation
        if owner % senders == sender:
            yield one
