"""Recipes of foreign servers: read, checked, and filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness import places
from harness.errors import ArmbenchError
from harness.load.recipes import (
    PLACEHOLDERS,
    Settings,
    command_line,
    read_recipe,
    shipped,
    values,
    variables,
)

SMALLEST = """
name = "mine"
title = "my server"
sources = []
as_of = 2026-11-23
model = "name"
affinity = "inherited"
command = ["mine", "{port}"]
install = "make it"
[ready]
path = "/"
[requests]
endpoints = ["chat"]
"""


def filled(**changes: Any) -> dict[str, str]:
    settings = {"model": "m", "model_name": "n", "cpus": (0,)} | changes
    return values(Settings(**settings), "127.0.0.1", 8080)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_starts_a_server_on_the_loopback_only(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.name == name
    assert recipe.sources
    assert all(source.startswith("https://") for source in recipe.sources)
    texts = [*command_line(recipe, filled()), *variables(recipe, filled()).values()]
    assert any("8080" in text for text in texts)
    assert any("127.0.0.1" in text for text in texts)
    assert not any(f"{{{name}}}" in text for text in texts for name in PLACEHOLDERS)


def test_settings_fill_placeholders_in_the_order_of_threads() -> None:
    known = filled(cpus=(8, 0, 1), slots=4, context=512)
    assert known["threads"] == "3"
    assert known["cpus"] == "0-1,8"
    assert known["cpu_list"] == "0,1,8"
    assert known["cpu_mask"] == "103"
    assert known["places"] == "{8},{0},{1}"
    assert known["total_context"] == "2048"
    assert "chunk" not in known


def test_braces_of_json_in_a_command_stay() -> None:
    command = command_line(read_recipe("ovms"), filled(cpus=(0, 1)))
    assert '{"INFERENCE_NUM_THREADS": 2, "ENABLE_CPU_PINNING": true}' in command


def test_what_is_not_set_is_left_out() -> None:
    recipe = read_recipe("llama-server")
    assert "--parallel" not in command_line(recipe, filled())
    command = command_line(recipe, filled(slots=4, context=512))
    assert command[command.index("--parallel") + 1] == "4"
    assert command[command.index("--ctx-size") + 1] == "2048"
    assert "OLLAMA_NUM_PARALLEL" not in variables(read_recipe("ollama"), filled())


def test_a_setting_that_a_server_lacks_is_refused() -> None:
    recipe, known = read_recipe("ollama"), filled(chunk=64)
    with pytest.raises(ArmbenchError, match="chunk is 64, but Ollama has no setting") as error:
        command_line(recipe, known)
    assert error.value.hint == "leave chunk out for server 'ollama'"


def test_the_smallest_recipe_is_enough(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(SMALLEST)
    recipe = read_recipe(str(tmp_path / "mine.toml"))
    assert command_line(recipe, filled()) == ["mine", "8080"]
    assert recipe.metrics is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("colour = 'red'", "unknown field `colour`"),
        ("arguments = { slots = ['{slot}'] }", "unknown placeholder .* 'slot'"),
        ("version = { command = ['x'], pattern = 'no group' }", "has no group"),
        ("version = { command = ['x'], pattern = '(' }", r"version\.pattern"),
        ("ran = 3", r"Expected `str \| null`, got `int`"),
        ("ran = ", "not valid TOML"),
        ("ran = '\udcff'", "not valid TOML"),
    ],
)
def test_a_recipe_with_a_mistake_is_refused_by_name(
    tmp_path: Path, change: str, message: str
) -> None:
    text = f"{change}\n{SMALLEST}"
    (tmp_path / "mine.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ArmbenchError, match=message) as error:
        read_recipe(str(tmp_path / "mine.toml"))
    assert "mine.toml" in error.value.message


def test_a_meaning_that_there_is_not_is_refused(tmp_path: Path) -> None:
    text = (places.config_dir() / "servers" / "vllm.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace("running = [", "runing = ["))
    with pytest.raises(ArmbenchError, match=r"unknown meaning .* 'runing'"):
        read_recipe(str(tmp_path / "mine.toml"))


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ArmbenchError, match="unknown server recipe 'lama-server'") as error:
        read_recipe("lama-server")
    assert "llama-server" in str(error.value.hint)
