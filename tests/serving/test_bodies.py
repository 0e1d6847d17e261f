"""What a request body may ask for, and how it is told that it asked for too much."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.serving import bodies
from harness.serving.events import DONE, Events, Head, error_event, whole
from harness.serving.refusal import ApiError

TALK = [{"role": "user", "content": "hi"}]


def completion(**members: Any) -> bodies.CompletionBody:
    return bodies.completion_body(json.dumps({"prompt": "hi", **members}).encode())


def chat(**members: Any) -> bodies.ChatBody:
    return bodies.chat_body(json.dumps({"messages": TALK, **members}).encode())


@pytest.mark.parametrize(
    ("given_as", "taken_as"),
    [
        ("text", "text"),
        (["text"], "text"),
        ([1, 2, 3], [1, 2, 3]),
        ([[1, 2, 3]], [1, 2, 3]),
    ],
)
def test_a_prompt_is_text_or_ids_and_a_list_of_one_is_that_one(
    given_as: Any, taken_as: Any
) -> None:
    assert bodies.prompt(completion(prompt=given_as)) == taken_as


@pytest.mark.parametrize(
    "wrong", [["a", "b"], [[1], [2]], [1, "a"], [-1], [1.5], {"a": 1}, None, 5, [True]]
)
def test_any_other_prompt_is_refused_by_name(wrong: Any) -> None:
    body = completion(prompt=wrong)
    with pytest.raises(ApiError) as caught:
        bodies.prompt(body)
    assert (caught.value.status, caught.value.param) == (400, "prompt")


def test_what_clients_send_beside_the_prompt_is_accepted() -> None:
    completion(
        model="m",
        max_tokens=5,
        min_tokens=5,
        ignore_eos=True,
        temperature=0,
        top_p=1.0,
        top_k=-1,
        seed=1,
        n=1,
        best_of=1,
        stop=None,
        logprobs=None,
        user=None,
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
        nvext={"ignore_eos": True},
    )
    chat(max_completion_tokens=3, tools=[], response_format={"type": "text"}, logprobs=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.7),
        ("n", 2),
        ("best_of", 3),
        ("presence_penalty", 0.5),
        ("repetition_penalty", 1.1),
        ("logit_bias", {"5": 1.0}),
        ("logprobs", 1),
        ("echo", True),
        ("suffix", "x"),
        ("response_format", {"type": "json_object"}),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", "many"),
        ("min_tokens", 1.5),
        ("stream", "yes"),
        ("user", "x" * 600),
        ("stream_options", {"include_usage": "yes"}),
    ],
)
def test_what_is_not_supported_is_refused_and_named(name: str, value: Any) -> None:
    with pytest.raises(ApiError) as caught:
        completion(**{name: value})
    assert caught.value.status == 400
    assert (caught.value.param or "").startswith(name)
    assert name in caught.value.message


@pytest.mark.parametrize("name", ["tools", "functions", "logprobs", "top_logprobs"])
def test_a_chat_has_no_tools_and_no_logprobs(name: str) -> None:
    value: Any = {"tools": [{}], "functions": [{}], "logprobs": True, "top_logprobs": 3}[name]
    with pytest.raises(ApiError) as caught:
        chat(**{name: value})
    assert caught.value.param == name


@pytest.mark.parametrize(
    "wrong", [[""], ["x" * 1001], ["a"] * 17, ""], ids=["empty", "long", "many", "none"]
)
def test_stops_are_few_and_short(wrong: Any) -> None:
    with pytest.raises(ApiError) as caught:
        bodies.stops(completion(stop=wrong))
    assert caught.value.param == "stop"


def test_the_parts_of_a_message_are_joined_and_other_media_refused() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    joined = bodies.messages(chat(messages=[{"role": "user", "content": parts}]))
    assert joined == [{"role": "user", "content": "a\nb"}]
    picture = [{"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(ApiError) as caught:
        bodies.messages(chat(messages=[{"role": "user", "content": picture}]))
    assert caught.value.param == "messages"


@pytest.mark.parametrize("wrong", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"null", b'"x"'])
def test_a_malformed_body_is_the_clients_fault(wrong: bytes) -> None:
    for parse in (bodies.completion_body, bodies.chat_body):
        with pytest.raises(ApiError) as caught:
            parse(wrong)
        assert caught.value.status == 400


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for parse in (bodies.completion_body, bodies.chat_body):
        try:
            parse(data)
        except ApiError as error:
            assert error.status == 400


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
members = st.sampled_from(
    [f for kind in (bodies.CompletionBody, bodies.ChatBody) for f in kind.__struct_fields__]
)


@given(st.dictionaries(members, anything, max_size=5))
def test_no_value_of_any_member_raises_anything_else(table: dict[str, Any]) -> None:
    table = {"messages": TALK, "prompt": "x", **table}
    data = json.dumps(table).encode()
    try:
        bodies.prompt(bodies.completion_body(data))
    except ApiError as error:
        assert error.status == 400
    try:
        body = bodies.chat_body(data)
        bodies.stops(body)
        bodies.messages(body)
    except ApiError as error:
        assert error.status == 400


def parsed(data: bytes) -> list[Any]:
    events = data.decode().split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [e[6:] if e == "data: [DONE]" else json.loads(e[6:]) for e in events]


def head(kind: Any = "completions") -> Head:
    return Head(kind, "42", 1_700_000_000, 'a "model"', 3)


@given(st.text(max_size=30))
def test_a_token_is_one_event_whatever_its_text(text: str) -> None:
    [event] = parsed(Events(head()).token(text.encode("utf-8", "ignore").decode(), 5, None, 1))
    assert event["choices"] == [
        {
            "index": 0,
            "text": text.encode("utf-8", "ignore").decode(),
            "logprobs": None,
            "finish_reason": None,
        }
    ]
    assert event["id"] == "cmpl-42"
    assert event["model"] == 'a "model"'
    assert "usage" not in event


def test_the_role_comes_with_the_first_token_not_before_it() -> None:
    events = Events(head("chat"))
    [first] = parsed(events.token("a", 5, None, 1))
    [second] = parsed(events.token("b", 6, "length", 2))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "a"}
    assert second["choices"][0]["delta"] == {"content": "b"}
    assert second["choices"][0]["finish_reason"] == "length"
    assert first["object"] == "chat.completion.chunk"


def test_usage_is_null_until_the_end_or_runs_along() -> None:
    at_end, running = Events(head(), usage=True), Events(head(), usage=True, continuous=True)
    [event] = parsed(at_end.token("a", 5, None, 1))
    assert event["usage"] is None
    last, done = parsed(at_end.end(2))
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 2
    assert done == "[DONE]"
    [event] = parsed(running.token("a", 5, None, 2))
    assert event["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert parsed(Events(head()).end(2)) == ["[DONE]"]


def test_ids_are_told_where_they_are_asked_for() -> None:
    events = Events(head(), prompt_ids=[1, 2, 3])
    [first], [second] = parsed(events.token("a", 5, None, 1)), parsed(events.token("b", 6, None, 2))
    assert first["prompt_token_ids"] == [1, 2, 3]
    assert [e["choices"][0]["token_ids"] for e in (first, second)] == [[5], [6]]
    assert "prompt_token_ids" not in second


def test_an_error_in_a_stream_is_an_event_and_the_stream_still_ends() -> None:
    error, done = parsed(error_event(ApiError(500, "broken", code="engine_failed")))
    assert error["error"] == {
        "message": "broken",
        "type": "server_error",
        "param": None,
        "code": "engine_failed",
    }
    assert done == DONE[6:-2].decode()


def test_an_answer_in_one_piece_has_text_finish_and_counts() -> None:
    answer = json.loads(whole(head("chat"), "text", "stop", 4, ([1], [2])))
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "text"}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] == 7
    assert answer["choices"][0]["token_ids"] == [2]


def test_retry_after_is_whole_seconds_and_never_zero() -> None:
    assert ApiError(429, "full", retry_after_s=0.2).headers() == [(b"retry-after", b"1")]
    assert ApiError(503, "later", retry_after_s=2.1).headers() == [(b"retry-after", b"3")]
    assert ApiError(400, "no").headers() == []
