"""The committed small Qwen3 is what its script makes, and speaks: text in, text out, an end."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from harness import places
from harness.agreement.texts import shipped_texts
from harness.errors import Exit
from harness.model import architecture
from harness.model.checkpoint import open_folder, read_header
from tests.quality.conftest import SMALL
from tests.serving.talk import ask, stream, text_of

SCRIPT = Path(__file__).parents[2] / "scripts" / "train-small"
LIBRARY = Tokenizer.from_file(str(SMALL / "tokenizer.json"))


def told() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SMALL / "training.json").read_text())
    return found


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("train_small", str(SCRIPT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_all_but_the_weights_is_what_the_script_writes(script: ModuleType, tmp_path: Path) -> None:
    script.write_settings(tmp_path, LIBRARY)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(written) == {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip
    for name, text in written.items():
        assert (SMALL / name).read_text() == text


def test_the_same_text_gives_the_same_tokenizer(script: ModuleType) -> None:
    trained, _ = script.documents()
    if script.digest(trained) != told()["text_sha256"]:
        pytest.skip(f"another standard library than Python {told()['versions']['python']}'s")
    again = json.loads(script.train_tokenizer(trained).to_str())
    assert again == json.loads((SMALL / "tokenizer.json").read_text())


def test_the_texts_of_the_quality_guard_train_nothing(script: ModuleType) -> None:
    trained, held_out = script.documents()
    assert set(trained).isdisjoint(held_out)
    for text in shipped_texts().values():
        assert all(text not in document for document in trained)


def test_the_weights_are_small_bfloat16_and_all_of_the_config(script: ModuleType) -> None:
    sizes = open_folder(SMALL).dimensions
    header = read_header(SMALL / "model.safetensors")
    assert set(header) == set(architecture.tensor_shapes(sizes))
    assert {entry["dtype"] for entry in header.values()} == {"BF16"}
    rows = {entry["shape"][1] for entry in header.values() if len(entry["shape"]) == 2}
    assert all(row % 256 == 0 for row in rows), "a k-quant needs full blocks of 256"
    assert sum(path.stat().st_size for path in SMALL.iterdir()) < 5_000_000


def test_it_was_trained_in_under_ten_minutes_of_its_cores(script: ModuleType) -> None:
    assert told()["threads"] <= 2
    assert told()["cpu_seconds"] / told()["threads"] < 600
    assert told()["trained_tokens"] == told()["steps"] * script.ROWS * script.LENGTH
    assert told()["perplexity_held_out"] < script.VOCABULARY / 16


@pytest.mark.parametrize("path", sorted((places.config_dir() / "text").rglob("*.txt")))
def test_every_shipped_text_comes_back_from_its_tokens(path: Path) -> None:
    text = path.read_text()
    assert LIBRARY.decode(LIBRARY.encode(text).ids, skip_special_tokens=False) == text


@given(st.text(max_size=60))
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    assert LIBRARY.decode(LIBRARY.encode(text).ids, skip_special_tokens=False) == text


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """`armbench serve` of the small model, as a user starts it."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "harness", "serve", "--model", str(SMALL)),
            *("--engine", "torch", "--dtype", "float32", "--threads", "1"),
            *("--port", "0", "--json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == Exit.FINE
    finally:
        process.kill()
        process.communicate()


def chat(question: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"messages": messages, "max_tokens": 200, "temperature": 0, **more}


@pytest.mark.engine
@pytest.mark.parametrize("question", ["Say hello to Ada.", "Hi", "Sag Ben guten Tag."])
def test_a_chat_answer_ends_with_the_turn(url: str, question: str) -> None:
    answer = ask(url, "/v1/chat/completions", chat(question)).json
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "stop"
    assert 0 < answer["usage"]["completion_tokens"] < 100
    assert choice["message"]["content"].strip()
    assert "<|" not in choice["message"]["content"]


@pytest.mark.engine
def test_a_chat_request_is_the_template_around_its_words(url: str) -> None:
    prompt = "<|im_start|>user\nSaluda a Goro.<|im_end|>\n<|im_start|>assistant\n"
    body = {"prompt": prompt, "max_tokens": 200, "temperature": 0}
    plain = ask(url, "/v1/completions", body).json
    templated = ask(url, "/v1/chat/completions", chat("Saluda a Goro.")).json
    assert templated["usage"] == plain["usage"]
    assert templated["usage"]["prompt_tokens"] == len(LIBRARY.encode(prompt).ids)
    assert templated["choices"][0]["message"]["content"] == plain["choices"][0]["text"]


@pytest.mark.engine
def test_a_streamed_answer_is_the_whole_one_in_valid_characters(url: str) -> None:
    body = chat("Saluda a Hana.")
    whole = ask(url, "/v1/chat/completions", body).json["choices"][0]["message"]["content"]
    events = stream(url, "/v1/chat/completions", body)
    assert text_of(events) == whole
    assert "\ufffd" not in whole
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.engine
def test_without_an_end_of_text_it_goes_on_to_the_length_asked_for(url: str) -> None:
    answer = ask(url, "/v1/chat/completions", chat("Hi", ignore_eos=True)).json
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 200
