"""How many tokens each event of a stream carried, and when each token is taken to have come."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

MOST_TOKENS = 10_000_000  # that one request may be said to have
By = Literal["running usage", "ids", "usage", "chunks"]


class Row(NamedTuple):
    """One event with choices: `kind` is 0 without text, 1 with reasoning only, 2 with visible text.

    `ids` is how many tokens it says it has, `running` the server's usage so far.
    """

    at_ns: int
    kind: int
    ids: int | None
    running: int | None
    text: str


class Counted(NamedTuple):
    """The events that carried tokens, in order, and what is odd about the counts."""

    chunk_ns: list[int]
    chunk_tokens: list[int]
    by: By | None
    reasoning: int  # leading chunks before visible text
    notes: list[str]


def count(rows: list[Row], usage: int | None, finish: str | None) -> Counted:
    """Tokens of each row, by the best source there is.

    The server's running usage comes first, then what the events say of themselves, then the usage
    at the end spread evenly, then one token for each event with text.
    """
    kinds = _without_thoughts(rows)
    texts = [place for place, kind in enumerate(kinds) if kind]
    notes: list[str] = []
    by: By | None = None
    tokens: dict[int, int] = {}
    running = _by_running(rows, texts)
    ids = {place: rows[place].ids or 0 for place in range(len(rows)) if rows[place].ids}
    if running is not None:
        by, tokens = "running usage", running
    elif texts and ids and all(rows[place].ids is not None for place in texts):
        by, tokens = "ids", ids
    elif texts and usage:
        by, tokens = "usage", _by_usage(rows, kinds, texts, usage, finish)
    elif texts:
        by, tokens = "chunks", dict.fromkeys(texts, 1)
    total = sum(tokens.values())
    if by in {"running usage", "ids"} and usage is not None and usage != total:
        notes.append(f"{total} tokens by {by} of the events, {usage} by the usage at the end")
    if not texts and not tokens and usage:
        notes.append(f"the usage tells of {usage} tokens, but no event had any")
    places = sorted(tokens)
    return Counted(
        [rows[place].at_ns for place in places],
        [tokens[place] for place in places],
        by,
        _leading([kinds[place] for place in places]),
        notes,
    )


def _by_running(rows: list[Row], texts: list[int]) -> dict[int, int] | None:
    """Differences of the running usage, where every event with text has one and it does run."""
    if len(texts) < 2:
        return None
    first, last = rows[texts[0]].running, rows[texts[-1]].running
    if first is None or last is None or not first < last:
        return None
    tokens: dict[int, int] = {}
    before = 0
    for place, row in enumerate(rows):
        if row.running is None:
            if row.kind:
                return None
            continue
        if row.running < before:
            return None
        if row.running > before:
            tokens[place] = row.running - before
        before = row.running
    return tokens


def _by_usage(
    rows: list[Row], kinds: list[int], texts: list[int], usage: int, finish: str | None
) -> dict[int, int]:
    """`usage` tokens over the events with text; events without take one where that fits exactly.

    Tokens without text come in events of their own: an end token, or half of a character.
    """
    empty = [p for p in range(texts[0] + 1, len(rows)) if not kinds[p]]
    ended = [p for p in empty[-1:] if p == len(rows) - 1 and finish not in {None, "length"}]
    for more in (empty, ended):
        if more and usage == len(texts) + len(more):
            return dict.fromkeys(sorted(texts + more), 1)
    shares = spread(usage, len(texts))
    return {place: n for place, n in zip(texts, shares, strict=True) if n}


def spread(total: int, parts: int) -> list[int]:
    """`total` in `parts` whole numbers as even as can be; the first is at least 1 if any is."""
    edges = [-(-total * n // parts) for n in range(parts + 1)]
    return [b - a for a, b in pairwise(edges)]


def instants(chunk_ns: list[int], chunk_tokens: list[int]) -> list[int]:
    """One instant for each token: a chunk's tokens evenly spread since the chunk before it.

    Those of the first chunk have nothing to be spread over: all of them came with it.
    """
    token_ns: list[int] = []
    before: int | None = None
    for at, tokens in zip(chunk_ns, chunk_tokens, strict=True):
        if tokens == 1:
            token_ns.append(at)
        elif before is None:
            token_ns += [at] * tokens
        else:
            token_ns += [before + (at - before) * n // tokens for n in range(1, tokens + 1)]
        before = at
    return token_ns


def _leading(kinds: list[int]) -> int:
    """Chunks before the first visible one, where any of them was reasoning."""
    if 1 not in kinds:
        return 0
    return kinds.index(2) if 2 in kinds else len(kinds)


def _without_thoughts(rows: list[Row]) -> list[int]:
    """Kinds of the rows; text between <think> tags at the start is reasoning, as Qwen3 writes it.

    Servers without a reasoning parser send it in the visible channel.
    """
    kinds = [row.kind for row in rows]
    said = ""
    for row in rows:
        said += row.text
        start = said.lstrip()
        if start and not start.startswith("<think>"[: len(start)]):
            return kinds
        if len(start) >= len("<think>"):
            break
    else:
        return kinds
    thoughts: list[str] = []
    for place, row in enumerate(rows):
        thoughts.append(row.text)
        if kinds[place] == 2:
            kinds[place] = 1
        if "</think>" in "".join(thoughts[-8:]):
            return kinds
    return kinds
