"""The JSON bodies of requests: prompts of a wished length, and everything else spelt out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from harness.errors import ArmbenchError
from harness.load.seeds import derived
from harness.load.traces import BLOCK_TOKENS
from harness.load.words import WORDS, random_words
from harness.records.load import Endpoint, Planned, Target

LIMIT_MEMBERS: dict[Endpoint, str] = {
    "completions": "max_tokens",
    "chat": "max_tokens",
    "responses": "max_output_tokens",
}
# Members of `Target.sampling` that stand for each request's own value where they are true.
_PER_REQUEST = ("seed", "min_tokens")
_PROBE_BASE = 32
_SLOPES = (0.2, 20.0)  # tokens per word that a tokenizer could have


def default_sampling(endpoint: Endpoint) -> dict[str, float | int | bool]:
    """Greedy, written out. `seed` and `min_tokens`, where true, become each request's own.

    Responses has no seed; `ignore_eos` and `min_tokens` are for servers known to take them.
    """
    greedy: dict[str, float | int | bool] = {"temperature": 0, "top_p": 1}
    return greedy if endpoint == "responses" else {**greedy, "seed": True}


class Calibration(Struct, frozen=True, kw_only=True):
    """What words cost a server: input tokens = `overhead` (its template) + `tokens_per_word` × n.

    Not `measured`: one token for each word, which most large vocabularies come to.
    """

    tokens_per_word: float = 1.0
    overhead: float = 0.0
    measured: bool = False

    @classmethod
    def fit(cls, words: Sequence[int], tokens: Sequence[int]) -> Calibration:
        """The line of least squares through the probes' words and the server's input counts.

        Raises ArmbenchError where the counts do not grow with the words as any tokenizer's would.
        """
        n = len(words)
        if n < 2 or len(tokens) != n or len(set(words)) < 2:
            raise ValueError("two probes of different length at least")
        mean_words, mean_tokens = sum(words) / n, sum(tokens) / n
        spread = sum((w - mean_words) ** 2 for w in words)
        pairs = zip(words, tokens, strict=True)
        slope = sum((w - mean_words) * (t - mean_tokens) for w, t in pairs) / spread
        if not _SLOPES[0] <= slope <= _SLOPES[1]:
            counted = ", ".join(f"{w} words: {t}" for w, t in zip(words, tokens, strict=True))
            raise ArmbenchError(
                f"the server's input token counts do not follow the prompt ({counted})",
                hint="its usage may be rounded or leave cached tokens out; prompts are then as "
                "many words as tokens were asked",
            )
        overhead = mean_tokens - slope * mean_words
        return cls(tokens_per_word=slope, overhead=overhead, measured=True)

    def words(self, tokens: int) -> int:
        """How many words a prompt of `tokens` input tokens has; one at least."""
        return max(1, round((tokens - self.overhead) / self.tokens_per_word))


class Said(NamedTuple):
    """An earlier turn of a conversation, and the text or token ids that answered it, if known."""

    planned: Planned
    answer: str | Sequence[int] | None = None


class Bodies:
    """Makes request bodies for one target.

    `vocabulary` is the number of token ids that prompts of ids are drawn from; `running_usage`
    asks for usage in every event; `limit_member` replaces the endpoint's name for the output
    limit, such as max_completion_tokens. Members of `Target.body` go on top as a merge patch
    (RFC 7396): objects merge, null removes.
    """

    def __init__(
        self,
        target: Target,
        *,
        calibration: Calibration | None = None,
        vocabulary: int | None = None,
        running_usage: bool = False,
        limit_member: str | None = None,
    ) -> None:
        """Raises ArmbenchError for ids where they cannot be sent, or extra members not JSON."""
        self.target = target
        self.calibration = calibration or Calibration()
        self.limit_member = limit_member or LIMIT_MEMBERS[target.endpoint]
        self.running_usage = running_usage
        self.ids = target.prompts == "ids"
        self.vocabulary = vocabulary or 0
        if self.ids and (target.endpoint != "completions" or not vocabulary):
            raise ArmbenchError(
                f"prompts as token ids on endpoint {target.endpoint}",
                hint="ids need endpoint completions and a known vocabulary; send text instead",
            )
        self.extra = _extra_members(target.body)

    def body(self, planned: Planned, said: Sequence[Said] = ()) -> bytes:
        """The body of `planned`; `said` has all earlier turns of its conversation, in order.

        An answer that is not known is stood in for by other words of the planned length.
        """
        if len(said) != planned.turn:
            raise ValueError(f"turn {planned.turn} follows {len(said)} turns")
        return self._encoded(self._prompt(planned, said), planned.output_tokens, planned.seed)

    def calibration_bodies(self) -> list[tuple[int, bytes]]:
        """Probes that ask for one token: (words, body), to be fitted to the counted input.

        The second and third have every word of the list once more in each half, so that their
        differences are the list's true mean. No probe begins like another.
        """
        order = list(WORDS)
        random.Random(derived("calibration")).shuffle(order)
        base = order[:_PROBE_BASE]
        probes = [base, order[::-1] + base, order[1:] + order[:1] + order + base]
        return [
            (len(words), self._encoded(self._wrapped(" ".join(words)), 1, derived(number)))
            for number, words in enumerate(probes)
        ]

    def _encoded(self, prompt: dict[str, Any], output_tokens: int, seed: int) -> bytes:
        own = {"seed": seed % 2**31, "min_tokens": output_tokens}
        sampling = {
            name: own[name] if name in _PER_REQUEST and value is True else value
            for name, value in self.target.sampling.items()
        }
        members: dict[str, Any] = {
            "model": self.target.model,
            **prompt,
            self.limit_member: output_tokens,
            **sampling,
            "stream": True,
        }
        if self.target.endpoint != "responses":
            members["stream_options"] = {"include_usage": True}
            if self.running_usage:
                members["stream_options"]["continuous_usage_stats"] = True
        return msgspec.json.encode(merged(members, self.extra))

    def _wrapped(self, text: str) -> dict[str, Any]:
        if self.target.endpoint == "chat":
            return {"messages": [{"role": "user", "content": text}]}
        return {"input" if self.target.endpoint == "responses" else "prompt": text}

    def _prompt(self, planned: Planned, said: Sequence[Said]) -> dict[str, Any]:
        if planned.messages is not None:
            return self._given_messages(planned.messages)
        if self.ids:
            return {"prompt": self._ids_with(planned, said)}
        if not said:
            return self._wrapped(self.text(planned))
        turns = [*said, Said(planned)]
        texts = [self.text(one.planned, turns[:place]) for place, one in enumerate(turns)]
        answers = [self._answer(one) for one in said]
        if self.target.endpoint == "completions":
            before = " ".join(t + _spaced(a) for t, a in zip(texts, answers, strict=False))
            return self._wrapped(f"{before} {texts[-1]}")
        messages = [
            {"role": role, "content": content}
            for text, answer in zip(texts, answers, strict=False)
            for role, content in (("user", text), ("assistant", answer))
        ]
        name = "messages" if self.target.endpoint == "chat" else "input"
        return {name: [*messages, {"role": "user", "content": texts[-1]}]}

    def _given_messages(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        if self.target.endpoint == "completions":
            raise ArmbenchError(
                "the prompt file has messages, which endpoint completions does not take",
                hint="use --endpoint chat",
            )
        return {"messages" if self.target.endpoint == "chat" else "input": messages}

    def text(self, planned: Planned, said: Sequence[Said] = ()) -> str:
        """What `planned` itself says, as text, without the turns before it."""
        if planned.prompt is not None:
            return planned.prompt
        pieces = _pieces(planned, said)
        total = sum(tokens for _, tokens in pieces)
        cost = self.calibration
        count = max(1, round(total / cost.tokens_per_word)) if said else cost.words(total)
        words: list[str] = []
        reached = 0
        for place, (seed, tokens) in enumerate(pieces):
            reached += tokens
            end = count if place == len(pieces) - 1 else round(reached / cost.tokens_per_word)
            words += random_words(seed, max(0, min(end, count) - len(words)))
        return " ".join(words)

    def _answer(self, one: Said) -> str:
        if isinstance(one.answer, str):
            return one.answer
        count = max(1, round(one.planned.output_tokens / self.calibration.tokens_per_word))
        return " ".join(random_words(derived(one.planned.seed, "answer"), count))

    def _ids_with(self, planned: Planned, said: Sequence[Said]) -> list[int]:
        if planned.prompt is not None:
            raise ArmbenchError(
                "the prompts are text, and prompts as token ids were asked",
                hint="send text prompts to this target",
            )
        ids: list[int] = []
        for place, one in enumerate(said):
            ids += self._own_ids(one.planned, said[:place])
            if one.answer is None or isinstance(one.answer, str):
                seed = derived(one.planned.seed, "answer")
                ids += random_ids(seed, one.planned.output_tokens, self.vocabulary)
            else:
                ids += one.answer
        return ids + self._own_ids(planned, said)

    def _own_ids(self, planned: Planned, said: Sequence[Said]) -> list[int]:
        pieces = _pieces(planned, said)
        return [i for seed, n in pieces for i in random_ids(seed, n, self.vocabulary)]


def random_ids(seed: int, count: int, vocabulary: int) -> list[int]:
    """The first `count` token ids of the endless text of `seed`, uniform over the vocabulary."""
    import numpy as np

    rng = np.random.Generator(np.random.PCG64(seed))
    ids: list[int] = rng.integers(0, vocabulary, count).tolist()
    return ids


def _spaced(answer: str) -> str:
    return answer if answer[:1].isspace() else f" {answer}"


def _pieces(planned: Planned, said: Sequence[Said]) -> list[tuple[int, int]]:
    """The (seed, tokens) of which a made prompt consists, without the turns before it."""
    if planned.input_tokens is None:
        raise ValueError("a prompt that is neither given nor has a length")
    total = planned.input_tokens
    if said:
        before = said[-1].planned
        total = max(1, total - (before.input_tokens or 0) - before.output_tokens)
    pieces: list[tuple[int, int]] = []
    for block in planned.blocks:
        pieces.append((block, min(BLOCK_TOKENS, total)))
        total -= pieces[-1][1]
    if planned.prefix is not None and planned.prefix_tokens:
        pieces.append((planned.prefix, min(planned.prefix_tokens, total)))
        total -= pieces[-1][1]
    if total or not pieces:
        pieces.append((planned.seed, total))
    return [piece for piece in pieces if piece[1]]


def _extra_members(text: str) -> dict[str, Any]:
    try:
        extra = msgspec.json.decode(text or "{}")
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise ArmbenchError(
            f"the extra body is not JSON: {error}", hint="""write it like '{"top_k": 1}'"""
        ) from error
    if not isinstance(extra, dict):
        raise ArmbenchError(f"the extra body is {text[:60]!r}", hint="give a JSON object")
    return extra


def merged(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """`base` with `patch` on top: objects merge, null removes (RFC 7396)."""
    result = dict(base)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            old = result.get(name)
            result[name] = merged(old if isinstance(old, dict) else {}, value)
        else:
            result[name] = value
    return result
