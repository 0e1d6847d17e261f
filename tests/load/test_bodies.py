"""Bodies: what is sent, checked with stand-in tokenizers of different habits."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ArmbenchError
from harness.load.bodies import (
    Bodies,
    Calibration,
    Said,
    default_sampling,
    merged,
    random_ids,
)
from harness.load.seeds import derived
from harness.load.words import SPELT, WORDS, random_words
from harness.records.load import Endpoint, Planned, Target

Tokenizer = Callable[[str], int]


def one_each(text: str) -> int:
    """Every word a token, and a template around them."""
    return 31 + len(text.split())


def some_twice(text: str) -> int:
    """A sixteenth of the words are two tokens."""
    return 9 + sum(2 if WORDS.index(word) % 16 == 0 else 1 for word in text.split())


def by_letter(text: str) -> int:
    return 1 + len(text)


def target(endpoint: Endpoint = "completions", **changes: Any) -> Target:
    return Target(
        url="http://localhost:1",
        endpoint=endpoint,
        model="m",
        **{"sampling": default_sampling(endpoint), **changes},
    )


def planned(number: int = 0, tokens: int = 64, **changes: Any) -> Planned:
    return Planned(
        id=number,
        due_ns=0,
        input_tokens=tokens,
        output_tokens=16,
        seed=derived("test", number),
        **changes,
    )


def sent(bodies: Bodies, one: Planned, said: list[Said] | None = None) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(bodies.body(one, said or []))
    return members


def prompt_of(body: dict[str, Any]) -> str:
    if "messages" in body:
        assert [m["role"] for m in body["messages"]] == ["user"]
        return str(body["messages"][0]["content"])
    return str(body["prompt"] if "prompt" in body else body["input"])


# Lengths


def test_the_words_are_of_one_size_and_fill_seven_bits() -> None:
    assert len(set(WORDS)) == 128
    assert {len(word) for word in WORDS} == {4}


@pytest.mark.parametrize("endpoint", ["completions", "chat", "responses"])
@pytest.mark.parametrize("tokenizer", [one_each, some_twice, by_letter])
def test_prompts_come_out_within_two_percent_of_the_asked_length(
    endpoint: Endpoint, tokenizer: Tokenizer
) -> None:
    probes = Bodies(target(endpoint)).calibration_bodies()
    counted = [tokenizer(prompt_of(json.loads(body))) for _, body in probes]
    cost = Calibration.fit([words for words, _ in probes], counted)
    assert cost.measured
    bodies = Bodies(target(endpoint), calibration=cost)
    for number, tokens in enumerate((150, 256, 512, 2000)):
        text = prompt_of(sent(bodies, planned(number, tokens)))
        assert tokenizer(text) == pytest.approx(tokens, rel=0.02)


def test_probes_tell_the_mean_cost_of_the_whole_list_exactly() -> None:
    probes = Bodies(target()).calibration_bodies()
    counted = [some_twice(prompt_of(json.loads(body))) for _, body in probes]
    cost = Calibration.fit([words for words, _ in probes], counted)
    assert cost.tokens_per_word == pytest.approx(136 / 128)
    assert len({prompt_of(json.loads(body)).split()[0] for _, body in probes}) == len(probes)
    assert all(json.loads(body)["max_tokens"] == 1 for _, body in probes)


FAR_APART = st.lists(st.integers(10, 900), min_size=2, unique=True).filter(
    lambda words: max(words) - min(words) >= 20  # nearer, rounding hides the slope
)


@given(st.floats(0.5, 6), st.integers(0, 60), FAR_APART)
def test_a_line_is_recovered_from_its_points(slope: float, start: int, words: list[int]) -> None:
    cost = Calibration.fit(words, [round(start + slope * n) for n in words])
    width = max(words) - min(words)
    assert cost.tokens_per_word == pytest.approx(slope, abs=1.1 / width)


def test_counts_that_do_not_follow_the_prompt_are_refused() -> None:
    with pytest.raises(ArmbenchError, match=r"do not follow the prompt \(32 words: 5"):
        Calibration.fit([32, 160, 288], [5, 5, 5])
    with pytest.raises(ValueError, match="two probes"):
        Calibration.fit([32], [32])


def test_token_ids_have_exactly_the_asked_length_and_stay_in_the_vocabulary() -> None:
    bodies = Bodies(target(prompts="ids"), vocabulary=500)
    for tokens in (1, 7, 300):
        ids = sent(bodies, planned(tokens=tokens))["prompt"]
        assert len(ids) == tokens
        assert all(0 <= i < 500 for i in ids)


# Beginnings


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_two_prompts_differ_within_their_first_nine_words(one: int, other: int) -> None:
    same = random_words(one, SPELT) == random_words(other, SPELT)
    assert same == (one == other)


@given(st.integers(0, 2**63 - 1), st.integers(0, 100), st.integers(0, 100))
def test_a_longer_text_of_a_seed_begins_with_the_shorter_one(seed: int, a: int, b: int) -> None:
    short, long = sorted((a, b))
    assert len(random_words(seed, long)) == long
    assert random_words(seed, long)[:short] == random_words(seed, short)
    assert random_ids(seed, long, 1000)[:short] == random_ids(seed, short, 1000)


def test_prompts_of_a_schedule_hardly_share_any_beginning() -> None:
    bodies = Bodies(target())
    texts = sorted(prompt_of(sent(bodies, planned(n))).split() for n in range(2000))
    shared = [
        sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=True)))
        for a, b in itertools.pairwise(texts)
    ]
    assert max(shared) < 6  # sorted: each beside the one most like it


@pytest.mark.parametrize("prompts", ["text", "ids"])
def test_a_group_shares_its_prefix_and_nothing_after_it(prompts: str) -> None:
    bodies = Bodies(target(prompts=prompts), vocabulary=50_000)

    def pieces(number: int, tokens: int, prefix_tokens: int) -> list[Any]:
        one = planned(number, tokens, prefix=77, prefix_tokens=prefix_tokens)
        found = sent(bodies, one)["prompt"]
        return found if isinstance(found, list) else found.split()

    one, other, short = pieces(1, 64, 40), pieces(2, 64, 40), pieces(3, 50, 20)
    assert one[:40] == other[:40]
    assert one[40:48] != other[40:48]
    assert short[:20] == one[:20]
    assert len(one) == len(other) == 64


@pytest.mark.parametrize("prompts", ["text", "ids"])
def test_equal_blocks_of_a_trace_are_equal_text(prompts: str) -> None:
    bodies = Bodies(target(prompts=prompts), vocabulary=50_000)

    def pieces(number: int, tokens: int, blocks: list[int]) -> list[Any]:
        found = sent(bodies, planned(number, tokens, blocks=blocks))["prompt"]
        return found if isinstance(found, list) else found.split()

    one, other = pieces(1, 1300, [5, 6, 7]), pieces(2, 1200, [5, 6, 8])
    assert one[:1024] == other[:1024]
    assert one[1024:1032] != other[1024:1032]
    assert (len(one), len(other)) == (1300, 1200)
    floor = pieces(3, 1300, [5, 6])  # some writers leave the last, shorter block out
    assert floor[:1024] == one[:1024]
    assert len(floor) == 1300


# Conversations


def turns() -> tuple[Planned, Planned, Planned]:
    talk = {"conversation": 0}
    return (
        planned(0, 20, turn=0, **talk),
        planned(1, 20 + 16 + 10, turn=1, **talk),
        planned(2, 20 + 16 + 10 + 16 + 5, turn=2, **talk),
    )


def test_a_chat_repeats_what_both_sides_said() -> None:
    one, two, three = turns()
    bodies = Bodies(target("chat"))
    first = sent(bodies, one)["messages"]
    third = sent(bodies, three, [Said(one, "Yes."), Said(two)])["messages"]
    assert [m["role"] for m in third] == ["user", "assistant"] * 2 + ["user"]
    assert third[0] == first[0]
    assert third[1]["content"] == "Yes."
    assert [len(m["content"].split()) for m in third] == [20, 1, 10, 16, 5]


def test_completions_run_the_turns_together() -> None:
    one, two, three = turns()
    bodies = Bodies(target())
    prompt = sent(bodies, three, [Said(one, " Yes."), Said(two)])["prompt"]
    assert prompt.startswith(sent(bodies, one)["prompt"] + " Yes. ")
    assert len(prompt.split()) == 20 + 1 + 10 + 16 + 5
    with_answer = sent(bodies, two, [Said(one, " Yes.")])["prompt"]
    assert prompt.startswith(with_answer)


def test_turns_of_token_ids_continue_the_ids_so_far() -> None:
    one, two, three = turns()
    bodies = Bodies(target(prompts="ids"), vocabulary=999)
    second = sent(bodies, two, [Said(one, [1, 2, 3])])["prompt"]
    assert second[:20] == sent(bodies, one)["prompt"]
    assert second[20:23] == [1, 2, 3]
    assert len(second) == 33
    assert len(sent(bodies, three, [Said(one), Said(two)])["prompt"]) == three.input_tokens


def test_a_turn_without_the_turns_before_it_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="turn 1 follows 0"):
        Bodies(target()).body(turns()[1])


# Everything else in a body


def test_sampling_is_greedy_and_written_out() -> None:
    body = sent(Bodies(target()), planned())
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0, 1, 16)
    assert body["seed"] == planned().seed % 2**31
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["model"] == "m"
    assert "ignore_eos" not in body


def test_members_beyond_openai_are_sent_where_the_server_is_known_to_take_them() -> None:
    known = target("chat", sampling={"temperature": 0, "ignore_eos": True, "min_tokens": True})
    bodies = Bodies(known, running_usage=True, limit_member="max_completion_tokens")
    body = sent(bodies, planned())
    assert (body["ignore_eos"], body["min_tokens"], body["max_completion_tokens"]) == (True, 16, 16)
    assert "max_tokens" not in body
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def test_responses_have_their_own_names() -> None:
    body = sent(Bodies(target("responses")), planned())
    assert body["max_output_tokens"] == 16
    assert isinstance(body["input"], str)
    assert not {"messages", "prompt", "seed", "stream_options", "max_tokens"} & set(body)


def test_extra_members_lie_on_top_and_null_removes() -> None:
    extra = '{"top_k": 5, "top_p": null, "stream_options": {"include_usage": false}}'
    body = sent(Bodies(target(body=extra), running_usage=True), planned())
    assert body["top_k"] == 5
    assert "top_p" not in body
    assert body["stream_options"] == {"include_usage": False, "continuous_usage_stats": True}


@pytest.mark.parametrize("text", ["[1]", "{", '"a"', "nul", "{'a': 1}", "[" * 50_000])
def test_an_extra_body_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ArmbenchError, match="extra body"):
        Bodies(target(body=text))


def test_a_merge_patch_follows_the_rfc() -> None:
    base = {"a": "b", "c": {"d": "e", "f": "g"}}
    assert merged(base, {"a": "z", "c": {"f": None}}) == {"a": "z", "c": {"d": "e"}}
    assert merged({"a": [1]}, {"a": {"b": 1}}) == {"a": {"b": 1}}
    assert base == {"a": "b", "c": {"d": "e", "f": "g"}}


@pytest.mark.parametrize(
    ("endpoint", "vocabulary"), [("chat", 100), ("responses", 100), ("completions", None)]
)
def test_token_ids_are_refused_where_they_cannot_be_sent(
    endpoint: Endpoint, vocabulary: int | None
) -> None:
    with pytest.raises(ArmbenchError, match="token ids"):
        Bodies(target(endpoint, prompts="ids"), vocabulary=vocabulary)


def test_given_prompts_and_messages_are_sent_as_they_are() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    given_text = planned(tokens=0, prompt="hello")
    given_chat = planned(tokens=0, messages=messages)
    assert prompt_of(sent(Bodies(target()), given_text)) == "hello"
    assert prompt_of(sent(Bodies(target("chat")), given_text)) == "hello"
    assert sent(Bodies(target("chat")), given_chat)["messages"] == messages
    assert sent(Bodies(target("responses")), given_chat)["input"] == messages
    with pytest.raises(ArmbenchError, match="does not take"):
        Bodies(target()).body(given_chat)
    with pytest.raises(ArmbenchError, match="prompts are text"):
        Bodies(target(prompts="ids"), vocabulary=9).body(given_text)
