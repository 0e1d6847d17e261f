"""Real answers go into the places that bodies of later turns keep for them."""

from __future__ import annotations

import json

import pytest

from harness.load.bodies import Bodies, Said
from harness.load.senders import units
from harness.load.turns import NoAnswer, filled, ids_place, text_place
from harness.records.load import Endpoint, Planned, Target


def turn(number: int, prompt: str | None = None) -> Planned:
    return Planned(
        id=number,
        due_ns=None,
        input_tokens=40 * (number + 1),
        output_tokens=4,
        seed=number + 1,
        conversation=0,
        turn=number,
        prompt=prompt,
    )


def template(endpoint: Endpoint, prompts: str = "text") -> bytes:
    """The third turn of a conversation, as the conductor makes it."""
    target = Target(url="http://x", endpoint=endpoint, model="m")
    target.prompts = "ids" if prompts == "ids" else "text"
    bodies = Bodies(target, vocabulary=100 if prompts == "ids" else None)
    said = [turn(n, None if prompts == "ids" else f"say {n}") for n in range(3)]
    places = [ids_place(n) if prompts == "ids" else text_place("salt", n) for n in range(2)]
    return bodies.body(said[2], [Said(said[n], places[n]) for n in range(2)])


ANSWERS = [('one "1"\n', [1, 2]), (" zwei €", [3])]


def test_a_chat_grows_by_what_was_really_answered() -> None:
    body = json.loads(filled(template("chat"), "salt", ANSWERS, "chat"))
    assert [(m["role"], m["content"]) for m in body["messages"]] == [
        ("user", "say 0"),
        ("assistant", 'one "1"\n'),
        ("user", "say 1"),
        ("assistant", " zwei €"),
        ("user", "say 2"),
    ]


def test_a_prompt_of_one_text_keeps_words_apart() -> None:
    body = json.loads(filled(template("completions"), "salt", ANSWERS, "completions"))
    assert body["prompt"] == 'say 0 one "1"\n say 1 zwei € say 2'


def test_ids_are_joined_as_ids() -> None:
    made = template("completions", "ids")
    body = json.loads(filled(made, "salt", ANSWERS, "completions"))
    blank = json.loads(filled(made, "salt", [("", [0]), ("", [0])], "completions"))
    places = [n for n, i in enumerate(json.loads(made)["prompt"]) if i < 0]
    assert len(places) == 2
    assert body["prompt"][places[0] : places[0] + 2] == [1, 2]
    assert len(body["prompt"]) == len(blank["prompt"]) + 1
    assert min(body["prompt"]) >= 0


def test_ids_that_the_server_does_not_tell_are_an_error_in_words() -> None:
    with pytest.raises(NoAnswer, match="token ids"):
        filled(template("completions", "ids"), "salt", [("a", []), ("b", [])], "completions")


def test_surrogates_in_an_answer_do_no_harm() -> None:
    json.loads(filled(template("chat"), "salt", [("\ud800", []), ("b", [])], "chat"))


def test_turns_of_a_conversation_stay_together_when_dealt() -> None:
    single = [Planned(id=n, due_ns=0, input_tokens=1, output_tokens=1, seed=0) for n in (7, 8)]
    dealt = units([single[0], turn(0), single[1], turn(1)])
    assert [[p.id for p in unit] for unit in dealt] == [[7], [0, 1], [8]]
