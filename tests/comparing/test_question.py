"""Which cases ask the same, and what is said where none does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.comparing import question
from harness.comparing.compare import both, compare
from harness.comparing.rows import Wish
from harness.comparing.rules import read
from harness.errors import ArmbenchError, NotComparable
from harness.records.comparison import CaseValues
from tests.comparing.builders import QUESTION, case_values, result, run_values, side


def labels(pairs: list[tuple[CaseValues, CaseValues]], part: str) -> list[tuple[str, str]]:
    return [(x.question[part], y.question[part]) for x, y in pairs]


def test_every_part_of_a_case_is_told_and_no_other() -> None:
    made = result()
    assert set(question.parts(made, made.plan.cases[0])) == {*question.PARTS, "config"}
    assert set(QUESTION) == {*question.PARTS, "config"}


def test_the_same_questions_are_matched_whatever_their_order() -> None:
    a = [case_values(batch=str(n)) for n in (1, 4, 8)]
    b = [case_values(batch=str(n)) for n in (8, 2, 1)]
    pairs, only_a, only_b = question.match(a, b)
    assert labels(pairs, "batch") == [("1", "1"), ("8", "8")]
    assert [c.question["batch"] for c in only_a] == ["4"]
    assert [c.question["batch"] for c in only_b] == ["2"]


def test_threads_may_differ_where_each_side_has_one_budget() -> None:
    pairs, _, _ = question.match([case_values(threads="2")], [case_values(threads="16")])
    assert labels(pairs, "threads") == [("2", "16")]


def test_threads_that_have_a_match_are_never_let_go() -> None:
    a = [case_values(threads=str(n)) for n in (2, 4)]
    b = [case_values(threads=str(n)) for n in (4, 8)]
    pairs, only_a, only_b = question.match(a, b)
    assert labels(pairs, "threads") == [("4", "4")]
    assert (len(only_a), len(only_b)) == (1, 1)


def test_a_new_default_option_does_not_part_what_asks_the_same() -> None:
    a = [case_values(threads=n, options="{}") for n in ("1", "2")]
    b = [case_values(threads=n, options='{"spin":true}') for n in ("1", "2")]
    pairs, _, _ = question.match(a, b)
    assert labels(pairs, "threads") == [("1", "1"), ("2", "2")]


def test_engines_are_compared_only_where_that_is_asked_for() -> None:
    a, b = [case_values(engine="torch")], [case_values(engine="onnxruntime")]
    assert question.match(a, b)[0] == []
    assert len(question.match(a, b, vary=("engine",))[0]) == 1


def test_several_instances_ask_another_question_unless_that_is_what_is_compared() -> None:
    one, four = [case_values()], [case_values(instances="4")]
    assert question.match(one, four)[0] == []
    assert "instances 1 against 4" in question.refuse(one, four, ("a", "b"), ()).message
    assert labels(question.match(one, four, vary=("instances",))[0], "instances") == [("1", "4")]


def test_a_case_that_knows_no_instances_has_one() -> None:
    old = case_values()
    key = question.key(old.question)
    del old.question["instances"]
    assert question.key(old.question) == key
    assert len(question.match([old], [case_values()])[0]) == 1
    four = [case_values(instances="4")]
    assert question.match([old], four)[0] == []
    assert "instances 1 against 4" in question.refuse([old], four, ("a", "b"), ()).message


def test_what_another_tool_did_not_tell_equals_everything() -> None:
    foreign = case_values(config="", weights="", dtype="", threads="", model="Qwen3-0.6B")
    assert len(question.match([case_values()], [foreign])[0]) == 1
    other = case_values(config="", model="qwen3-8b")
    assert question.match([case_values()], [other])[0] == []


def test_one_config_under_two_names_is_one_model() -> None:
    assert question.same("model", {"model": "a", "config": "1"}, {"model": "/b", "config": "1"})
    assert not question.same("model", {"model": "a", "config": "1"}, {"model": "a", "config": "2"})


@given(st.lists(st.sampled_from(["1", "2", "4", "8"]), unique=True), st.data())
def test_no_case_is_matched_twice_and_none_is_lost(threads: list[str], data: st.DataObject) -> None:
    others = data.draw(st.lists(st.sampled_from(["1", "2", "4", "8", "16"]), unique=True))
    a = [case_values(threads=n) for n in threads]
    b = [case_values(threads=n) for n in others]
    pairs, only_a, only_b = question.match(a, b)
    assert len({id(x) for x, _ in pairs}) == len({id(y) for _, y in pairs}) == len(pairs)
    assert len(pairs) + len(only_a) == len(a)
    assert len(pairs) + len(only_b) == len(b)


def refuse(a: list[CaseValues], b: list[CaseValues], **wish: object) -> NotComparable:
    first, second = side("old", run_values(*a)), side("new", run_values(*b, file="b.json"))
    with pytest.raises(NotComparable) as caught:
        compare([first, second], Wish(rules=read(), **wish))  # type: ignore[arg-type]
    return caught.value


def test_different_questions_are_refused_with_the_names_of_what_differs() -> None:
    error = refuse([case_values(input_tokens="512")], [case_values(input_tokens="256", dtype="i8")])
    assert error.exit_code == 5
    assert "input_tokens 512 against 256" in error.message
    assert "dtype float32 against i8" in error.message
    assert "--only" in str(error.hint)


def test_the_nearest_cases_are_named() -> None:
    a = [case_values(batch="1"), case_values(batch="4", load="offline")]
    b = [case_values(batch="8", load="offline")]
    assert "batch 4 against 8" in refuse(a, b).message
    assert "load" not in refuse(a, b).message


def test_an_ambiguous_match_is_refused_rather_than_guessed() -> None:
    error = refuse([case_values(threads="2")], [case_values(threads=n) for n in ("4", "8")])
    assert "several cases" in error.message
    assert "--where threads=" in str(error.hint)


def test_a_side_without_cases_is_refused() -> None:
    assert "no case" in refuse([case_values()], []).message


def test_only_lets_the_question_differ_and_says_so() -> None:
    sides = [
        side("old", run_values(case_values(input_tokens="512"))),
        side("new", run_values(case_values(input_tokens="256"), file="b.json")),
    ]
    found = compare(sides, Wish(rules=read(), only=("decode_tok_per_s",))).pairs[0]
    assert [row.metric for row in found.cases[0].metrics] == ["decode_tok_per_s"]
    assert found.cases[0].varied == {"input_tokens": ("512", "256")}
    assert any("different questions" in note for note in found.notes)


def test_unknown_names_are_refused() -> None:
    a, b = side("old", run_values(case_values())), side("new", run_values(case_values()))
    with pytest.raises(ArmbenchError, match="unknown part of a question 'engin'"):
        compare([a, b], Wish(rules=read(), vary=("engin",)))
    with pytest.raises(ArmbenchError, match="unknown metric"):
        compare([a, b], Wish(rules=read(), only=("decode",)))
    with pytest.raises(ArmbenchError, match="alone is no comparison"):
        compare([a], Wish(rules=read()))


def test_one_label_stands_for_both_cases() -> None:
    assert both("torch float32 2T", "onnxruntime float32 4T") == "torch→onnxruntime float32 2T→4T"
    assert both("torch 2T", "endpoint") == "torch 2T → endpoint"


def test_the_key_of_a_question_forgets_no_part() -> None:
    plain = case_values().question
    for part in question.PARTS:
        assert question.key(plain) != question.key({**plain, part: "other"})
    assert question.key(plain) == question.key(dict(reversed(plain.items())))
