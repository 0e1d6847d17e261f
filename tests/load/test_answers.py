"""What the events of each kind of answer come to: chunks, tokens, channels, ends, errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.load.answers import Answer
from harness.load.tokens import Counted
from harness.records.load import Endpoint

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
MS = 1_000_000


def answered(
    endpoint: Endpoint, events: list[Any], *, done: bool = True, head: bytes = HEAD
) -> tuple[Answer, Counted]:
    """Events, one millisecond apart from 1 ms on; bytes go out as they are."""
    answer = Answer(endpoint)
    answer.feed(head, 0)
    sent = [*events, *([b"data: [DONE]\n\n"] if done else [])]
    for n, event in enumerate(sent):
        raw = event if isinstance(event, bytes) else b"data: %s\n\n" % json.dumps(event).encode()
        answer.feed(raw, (n + 1) * MS)
    answer.end(closed=True)
    return answer, answer.counted()


def chat(finish: str | None = None, usage: int | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"choices": [choice], **used(usage)}


def used(output: int | None, prompt: int = 5) -> dict[str, Any]:
    if output is None:
        return {}
    return {"usage": {"prompt_tokens": prompt, "completion_tokens": output}}


def text(said: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": said, "finish_reason": finish, **more}]}


def test_the_role_chunk_and_the_usage_chunk_are_no_tokens() -> None:
    events = [
        chat(role="assistant", content=""),
        chat(content="Hel"),
        chat(content="lo"),
        chat(finish="stop"),
        {"choices": [], **used(2)},
    ]
    answer, counted = answered("chat", events)
    assert counted == Counted([2 * MS, 3 * MS], [1, 1], "usage", 0, [])
    assert (answer.text, answer.finish, answer.done, answer.events) == ("Hello", "stop", True, 6)


@pytest.mark.parametrize("channel", ["reasoning_content", "reasoning"])
def test_the_first_token_is_the_first_of_any_channel(channel: str) -> None:
    events = [
        chat(role="assistant"),
        chat(**{channel: "hm"}),
        chat(**{channel: "m"}),
        chat(content="a"),
    ]
    answer, counted = answered("chat", events)
    assert (counted.chunk_ns[0], counted.reasoning, counted.by) == (2 * MS, 2, "chunks")
    assert answer.text == "a"


def test_thoughts_between_tags_are_reasoning_though_sent_as_text() -> None:
    said = ["<th", "ink>", "hm", "</thi", "nk>", "\n\n", "four"]
    _, counted = answered("chat", [chat(content=one) for one in said])
    assert (counted.reasoning, len(counted.chunk_ns)) == (5, 7)
    assert answered("chat", [chat(content="<thin"), chat(content="g>")])[1].reasoning == 0


def test_a_tool_call_is_generated_and_visible() -> None:
    call = {"index": 0, "function": {"name": "f", "arguments": ""}}
    part = {"index": 0, "function": {"arguments": "{}"}}
    events = [chat(role="assistant"), chat(tool_calls=[call]), chat(tool_calls=[part])]
    answer, counted = answered("chat", [*events, chat(finish="tool_calls")])
    assert (counted.chunk_ns, counted.reasoning) == ([2 * MS, 3 * MS], 0)
    assert answer.finish == "tool_calls"


def test_running_usage_says_how_many_tokens_each_chunk_has() -> None:
    events = [
        chat(role="assistant", content="", usage=0),
        chat(content="a", usage=1),
        chat(content="", usage=2),
        chat(content="bcd", usage=5),
        chat(content="e", usage=5),
        {"choices": [], **used(5)},
    ]
    _, counted = answered("chat", events)
    assert counted == Counted([2 * MS, 3 * MS, 4 * MS], [1, 1, 3], "running usage", 0, [])


def test_usage_that_does_not_run_is_not_taken_for_running() -> None:
    _, counted = answered("chat", [chat(content="a", usage=4), chat(content="b", usage=4)])
    assert (counted.by, counted.chunk_tokens) == ("usage", [2, 2])


def test_token_ids_count_before_the_usage_at_the_end_and_a_mismatch_is_noted() -> None:
    events = [
        text("a", token_ids=[11]),
        text("bc", token_ids=[12, 13]),
        text("", "stop", token_ids=[2]),
        {"choices": [], **used(5)},
    ]
    answer, counted = answered("completions", events)
    assert (counted.by, counted.chunk_tokens) == ("ids", [1, 2, 1])
    assert answer.ids == [11, 12, 13, 2]
    assert answer.notes == ["4 tokens by ids of the events, 5 by the usage at the end"]


def test_log_probabilities_tell_tokens_too() -> None:
    one = {"content": [{"token": "a", "logprob": -1}]}
    event = {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": one}]}
    assert answered("chat", [event, event])[1].by == "ids"
    assert answered("completions", [text("a b", logprobs={"tokens": ["a", " b"]})])[
        1
    ].chunk_tokens == [2]


def test_an_end_token_without_text_goes_to_the_last_event() -> None:
    events = [text("a"), text("b"), text("", "stop"), {"choices": [], **used(3)}]
    _, counted = answered("completions", events)
    assert (counted.chunk_ns, counted.chunk_tokens) == ([MS, 2 * MS, 3 * MS], [1, 1, 1])


def test_usage_beyond_the_events_is_spread_over_them_and_nothing_precedes_the_first() -> None:
    events = [text("a"), text("b"), text("c", "length"), {"choices": [], **used(7)}]
    _, counted = answered("completions", events)
    assert (counted.by, counted.chunk_tokens) == ("usage", [3, 2, 2])


def test_several_choices_are_counted_together_and_noted() -> None:
    def one(index: int) -> dict[str, Any]:
        return {"choices": [{"index": index, "text": "x", "finish_reason": None}]}

    answer, counted = answered("completions", [one(0), one(1), one(0), one(1)])
    assert len(counted.chunk_ns) == 4
    assert answer.notes == ["2 choices, their tokens counted together"]
    assert answer.text == "xx"


@pytest.mark.parametrize(
    "event",
    [
        {"error": {"message": "no memory", "code": 500}},
        {"error": "no memory"},
        {"object": "error", "message": "no memory"},
        b'event: error\ndata: {"message": "no memory"}\n\n',
        b"event: error\ndata: no memory\n\n",
    ],
)
def test_an_error_inside_the_stream_keeps_the_tokens_before_it(event: Any) -> None:
    answer, counted = answered("completions", [text("a"), event], done=False)
    assert answer.error is not None
    assert "no memory" in answer.error
    assert counted.chunk_tokens == [1]


def test_a_whole_answer_is_one_chunk_with_all_its_tokens() -> None:
    body = json.dumps({"choices": [{"message": {"content": "hi you"}, "finish_reason": "stop"}],
                       **used(2)}).encode()  # fmt: skip
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    answer, counted = answered("chat", [body[:9], body[9:]], done=False, head=head)
    assert (counted.chunk_ns, counted.chunk_tokens, counted.by) == ([2 * MS], [2], "usage")
    assert (answer.text, answer.finish, answer.streamed) == ("hi you", "stop", False)


def test_a_stream_by_another_name_is_read_all_the_same() -> None:
    head = HEAD.replace(b"text/event-stream", b"text/plain")
    answer, counted = answered("completions", [text("a"), text("b", "stop")], head=head)
    assert (counted.chunk_ns, answer.done) == ([MS, 2 * MS], True)
    assert answer.notes == ["the answer's type is text/plain, read as an event stream"]


def test_the_last_event_counts_without_its_blank_line() -> None:
    answer, counted = answered("completions", [text("a"), b"data: [DONE]"], done=False)
    assert answer.done
    assert counted.chunk_tokens == [1]
    assert answer.notes == ["the last event had no blank line after it"]


def test_half_a_character_at_a_border_of_pieces_is_no_fault() -> None:
    raw = b"data: %s\n\n" % json.dumps(text("€"), ensure_ascii=False).encode()
    cut = raw.index("€".encode()) + 1
    answer, counted = answered("completions", [raw[:cut], raw[cut:]])
    assert (answer.text, counted.chunk_ns) == ("€", [2 * MS])


def test_unclean_text_and_nan_are_let_pass_and_what_is_no_json_is_noted() -> None:
    raw = b'data: {"choices": [{"text": "\xff", "logprob": NaN}]}\n\n'
    answer, counted = answered("completions", [raw, b"data: {oops\n\n", b"data: 7\n\n"])
    assert (answer.text, counted.chunk_tokens) == ("\ufffd", [1])
    assert answer.notes == ["2 events were not JSON"]


def test_a_responses_stream_is_read_by_its_types() -> None:
    usage = {
        "input_tokens": 9,
        "output_tokens": 3,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens_details": {"reasoning_tokens": 1},
    }
    events = [
        {"type": "response.created", "response": {"status": "in_progress", "error": None}},
        {"type": "response.reasoning_text.delta", "delta": "hm"},
        {"type": "response.output_text.delta", "delta": "a", "logprobs": []},
        {"type": "response.output_text.delta", "delta": "b", "logprobs": []},
        {"type": "response.output_text.done", "text": "ab"},
        {
            "type": "response.incomplete",
            "response": {
                "status": "incomplete",
                "incomplete_details": {"reason": "max_output_tokens"},
                "usage": usage,
            },
        },
    ]
    answer, counted = answered("responses", events, done=False)
    assert counted == Counted([2 * MS, 3 * MS, 4 * MS], [1, 1, 1], "usage", 1, [])
    assert (answer.text, answer.finish, answer.done) == ("ab", "max_output_tokens", True)
    assert answer.usage == (9, 3, 4, 1)


def test_a_failed_response_is_an_error() -> None:
    failed = {"status": "failed", "error": {"code": "server_error", "message": "broke"}}
    events = [{"type": "response.failed", "response": failed}]
    assert answered("responses", events, done=False)[0].error == "server_error: broke"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("choices", "usage", "delta", "message", "text", "content", "index", "error"),
                    *("type", "finish_reason", "logprobs", "token_ids", "tokens", "tool_calls"),
                    *("response", "completion_tokens", "prompt_tokens_details", "object", "output"),
                    *("reasoning",),
                ]
            ),
            inner | st.sampled_from(["response.output_text.delta", "response.completed", "error"]),
            max_size=5,
        )
    ),
    max_leaves=15,
)


@given(st.sampled_from(["completions", "chat", "responses"]), st.lists(JSON, max_size=4))
def test_no_json_that_a_server_could_send_raises(endpoint: Endpoint, events: list[Any]) -> None:
    _, counted = answered(endpoint, events)
    assert len(counted.chunk_ns) == len(counted.chunk_tokens)
    assert all(n > 0 for n in counted.chunk_tokens)
    plain = HEAD.replace(b"text/event-stream", b"application/json")
    for event in events:
        answered(endpoint, [json.dumps(event).encode()], done=False, head=plain)
