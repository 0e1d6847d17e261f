"""Text leaves whole: no half characters, no stop texts, the same as the tokenizer decodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import models

from harness.errors import ArmbenchError
from harness.serving.chat import ChatTemplate, Refused
from harness.serving.tokens import Decoded, Numbers, Tokenizer, eos_tokens

TALK = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return Tokenizer(tiny)


@pytest.fixture(scope="module")
def library(tiny: Path) -> Any:
    return Library.from_file(str(tiny / "tokenizer.json"))


def pieces(stream: Decoded, tokens: list[int]) -> list[str]:
    found = []
    for token in tokens:
        found.append(stream.add(token))
        if stream.stopped:
            break
    return [*found, stream.flush()]


@given(tokens=st.lists(st.integers(0, 5000), max_size=40))
def test_pieces_join_to_what_the_library_decodes(
    tokenizer: Tokenizer, library: Any, tokens: list[int]
) -> None:
    known = [t for t in tokens if library.id_to_token(t) is not None]
    assert "".join(pieces(Decoded(tokenizer), tokens)) == library.decode(known)


@given(text=st.text(max_size=30))
def test_no_piece_has_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    whole = text.encode("utf-8", "ignore").decode().replace("\ufffd", "")
    found = pieces(Decoded(tokenizer), tokenizer.encode(whole, special=True))
    assert "".join(found) == whole
    assert "\ufffd" not in "".join(found)


def test_a_character_of_several_tokens_leaves_with_its_last(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("🦔", special=False)
    assert len(tokens) == 4
    assert pieces(Decoded(tokenizer), tokens) == ["", "", "", "🦔", ""]


def test_an_answer_that_ends_within_a_character_shows_that(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("a🦔", special=False)[:-1]
    assert "".join(pieces(Decoded(tokenizer), tokens)) == "a\ufffd"


@given(text=st.text("abc ", max_size=60), stop=st.text("abc ", min_size=1, max_size=5))
def test_text_ends_before_the_first_stop_however_it_is_cut(
    tokenizer: Tokenizer, text: str, stop: str
) -> None:
    stream = Decoded(tokenizer, [stop])
    tokens = [tokenizer.id_of(c if c != " " else "Ġ") for c in text]
    found = pieces(stream, [t for t in tokens if t is not None])
    assert "".join(found) == text.partition(stop)[0]
    assert stream.stopped == (stop in text)


@given(text=st.text("abc", max_size=40), stops=st.lists(st.text("abc", min_size=1), max_size=4))
def test_of_several_stops_none_is_shown(tokenizer: Tokenizer, text: str, stops: list[str]) -> None:
    tokens = [i for c in text if (i := tokenizer.id_of(c)) is not None]
    stream = Decoded(tokenizer, stops)
    shown = "".join(pieces(stream, tokens))
    assert not any(stop in shown for stop in stops)
    assert text.startswith(shown)
    assert stream.stopped == any(stop in text for stop in stops)


def test_a_stop_does_not_count_before_the_least_tokens(tokenizer: Tokenizer) -> None:
    tokens = [i for c in "abab" if (i := tokenizer.id_of(c)) is not None]
    stream = Decoded(tokenizer, ["b"], least=2)
    assert "".join(pieces(stream, tokens)) == "aba"


def test_without_a_tokenizer_the_text_is_the_ids() -> None:
    stream = Numbers()
    assert stream.add(7) + stream.add(151643) + stream.flush() == " 7 151643"


def test_special_tokens_are_no_text(tokenizer: Tokenizer) -> None:
    end = tokenizer.id_of("<|im_end|>")
    assert end is not None
    assert tokenizer.bytes_of(end) == b""


def test_every_end_of_sequence_that_a_checkpoint_names_counts(tiny: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [11, 12]}')
    config = {"eos_token_id": 13}
    assert eos_tokens(tmp_path, config, None) == [11, 12, 13]
    assert eos_tokens(tmp_path, config, Tokenizer(tmp_path)) == [0, 2, 11, 12, 13]


def test_a_checkpoint_without_a_usable_tokenizer_says_why(tmp_path: Path) -> None:
    with pytest.raises(ArmbenchError, match=r"no tokenizer\.json"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArmbenchError, match="cannot be read"):
        Tokenizer(tmp_path)
    Library(models.WordLevel({"a": 0}, "a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ArmbenchError, match="byte-level"):
        Tokenizer(tmp_path)


def template(folder: Path, source: Any) -> ChatTemplate:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": source}))
    return ChatTemplate(folder)


def test_a_checkpoint_without_a_template_speaks_chatml(tmp_path: Path) -> None:
    assert ChatTemplate(tmp_path).render(TALK, {}) == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_checkpoints_template_is_taken_with_the_requests_own_variables(tmp_path: Path) -> None:
    own = template(tmp_path, [{"name": "default", "template": "{{ messages|length }}{{ more }}"}])
    assert own.render(TALK, {"more": "!"}) == "2!"


def test_a_template_in_a_file_of_its_own_goes_first(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("file")
    assert template(tmp_path, "settings").render(TALK, {}) == "file"


def test_a_template_may_refuse_a_conversation(tmp_path: Path) -> None:
    own = template(tmp_path, "{{ raise_exception('no system message, please') }}")
    with pytest.raises(Refused, match="no system message"):
        own.render(TALK, {})


@pytest.mark.parametrize(
    "hostile",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__['os'] }}",
        "{{ messages|map(attribute='__class__')|first|string + cycler.__init__.__globals__ }}",
        "{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_a_hostile_template_gets_nowhere(tmp_path: Path, hostile: str) -> None:
    with pytest.raises(Refused):
        template(tmp_path, hostile).render(TALK, {})


def test_a_template_that_is_no_jinja_is_an_error_of_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ArmbenchError, match="cannot be parsed"):
        template(tmp_path, "{% if %}")
