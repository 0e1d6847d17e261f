"""The tokenizer of synthetic checkpoints covers the vocabulary, and old checkpoints get it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from harness import places
from harness.model import checkpoint, synthetic, tokenizer
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizer files for the shape of Qwen2.5-0.5B."""
    made = tmp_path_factory.mktemp("tokenizer")
    tokenizer.write(made, checkpoint.builtin_config("qwen2.5-0.5b"))
    return made


@pytest.fixture(scope="module")
def library(folder: Path) -> Any:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def shipped_text() -> str:
    return "".join(p.read_text() for p in sorted((places.config_dir() / "text").glob("*.txt")))


def test_every_id_of_the_vocabulary_is_a_token_of_its_own(library: Any) -> None:
    tokens = [library.id_to_token(i) for i in range(151936)]
    assert None not in tokens
    assert len(set(tokens)) == 151936


def test_made_up_words_decode_to_a_word_and_no_text_is_encoded_to_them(library: Any) -> None:
    words = [library.decode([i]) for i in (4096, 50_000, 151_935)]
    assert all(w[0] == " " and w[1:].isalpha() and len(w) <= 8 for w in words)
    ids = library.encode(shipped_text() + "".join(words)).ids
    assert max(ids) < 4096


def test_special_tokens_lie_where_the_models_config_has_them(library: Any) -> None:
    found = [library.token_to_id(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    assert found == [151643, 151644, 151645]
    assert library.encode("<|im_end|>").ids == [151645]


def test_a_small_vocabulary_is_covered_too(tmp_path: Path) -> None:
    tokenizer.write(tmp_path, tiny_config("qwen3-0.6b"))
    small = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert small.get_vocab_size() == 4096
    assert small.token_to_id("<|endoftext|>") == 0
    text = shipped_text()
    assert small.decode(small.encode(text).ids) == text


@pytest.mark.engine
def test_transformers_loads_it_with_its_chat_template(folder: Path, library: Any) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(str(folder))
    assert len(loaded) == 151936
    assert loaded.eos_token_id == 151643
    assert loaded.encode("some text") == library.encode("some text").ids
    conversation = [{"role": "user", "content": "Hi"}]
    text = loaded.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A checkpoint as it was written before its tokenizer covered the vocabulary."""
    folder = tmp_path / "old"
    synthetic.build(folder, tiny_config("qwen3-0.6b"))
    (folder / synthetic.MARK).write_text('{"weights": "synthetic", "seed": 20240919}')
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_an_old_checkpoint_gets_the_new_tokenizer_and_keeps_its_weights(old: Path) -> None:
    weights = (old / "model.safetensors").stat()
    before = checkpoint.fingerprint(checkpoint.identify(checkpoint.open_folder(old)))
    synthetic.renew_tokenizer(old)
    assert Tokenizer.from_file(str(old / "tokenizer.json")).get_vocab_size() == 4096
    assert (old / "model.safetensors").stat() == weights
    assert checkpoint.fingerprint(checkpoint.identify(checkpoint.open_folder(old))) == before
    assert json.loads((old / synthetic.MARK).read_text())["tokenizer"] == tokenizer.VERSION
    assert not list(old.glob(".*"))


def test_a_tokenizer_that_is_up_to_date_is_left_alone(old: Path) -> None:
    synthetic.renew_tokenizer(old)
    written = (old / "tokenizer.json").stat()
    synthetic.renew_tokenizer(old)
    assert (old / "tokenizer.json").stat() == written


def test_a_folder_that_can_not_be_written_keeps_its_old_tokenizer(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "mkdir", refuse)
    synthetic.renew_tokenizer(old)
    assert (old / "tokenizer.json").read_text() == "{}"
