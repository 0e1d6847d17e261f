"""The card fits one screen and says what it does not know."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from harness.machine.conditions import read_conditions
from harness.machine.detect import detect
from harness.records.machine import Finding
from harness.reports.machine import findings_lines, machine_card, machine_lines

from . import trees
from .test_machines import NAMED, NAMES, expected

SCREEN_LINES = 40


@pytest.mark.parametrize("name", NAMES)
def test_a_card_fits_a_screen_and_begins_with_the_product(name: str) -> None:
    machine = expected(name)
    screen = io.StringIO()
    Console(width=100, file=screen).print(machine_card(machine))
    lines = screen.getvalue().rstrip().splitlines()
    assert len(lines) <= SCREEN_LINES
    assert max(map(len, lines)) <= 100
    assert (NAMED[name] or machine.cpu.midr or "") in "\n".join(lines)


def test_plain_lines_say_the_same_without_colour(tmp_path: Path) -> None:
    root = trees.write_tree(tmp_path, trees.load("altra-hetzner-16cpu"))
    text = "\n".join(machine_lines(detect(root), read_conditions(root)))
    assert text.startswith("Ampere Altra · hetzner\n")
    assert "a CPU here is a core" in " ".join(text.split())
    assert "caches: " in text  # among the unknowns, with the reason
    assert "\x1b" not in text


def test_a_guessed_instance_is_called_a_guess() -> None:
    assert machine_lines(expected("yitian-710-64cpu"))[0] == (
        "Alibaba Yitian 710 · alibaba ecs.g8y.16xlarge (a guess)"
    )


def test_findings_are_printed_with_hints() -> None:
    found = Finding(name="x", severity="invalid", message="something runs", hint="stop it")
    assert findings_lines([found]) == ["invalid: something runs", "  hint: stop it"]
    assert findings_lines([]) == ["nothing seen that would disturb a measurement"]
