"""scripts/false-alarms: its processes run, and its table says what the blocks say."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.comparing import rules as all_rules
from harness.comparing.rules import Rules

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "false-alarms"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPT.parent))  # as Python does for a script
    loader = SourceFileLoader("false_alarms", str(SCRIPT))
    spec = importlib.util.spec_from_loader("false_alarms", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPT.parent))


@pytest.fixture
def rules(script: ModuleType) -> Rules:
    found = all_rules.read()
    found.gate = [script.METRIC]
    return found


def simulated(count: int, slower: float, seed: int = 1) -> list[dict[str, Any]]:
    rng = random.Random(seed)

    def side(factor: float) -> list[float]:
        return [0.05 * factor * rng.gauss(1, 0.02) for _ in range(2)]

    return [
        {"A": side(1.0), "B": side(1.0), "S": side(1 + slower), "slept_share": slower}
        for _ in range(count)
    ]


def test_a_block_runs_each_side_twice_in_mirrored_order(script: ModuleType) -> None:
    found = script.block(max(os.sched_getaffinity(0)), 0.001, random.Random(1), "ABS")
    assert found["order"] == found["order"][::-1]
    assert sorted(found["order"]) == sorted("AABBSS")
    assert all(len(found[side]) == 2 and min(found[side]) > 0 for side in "ABS")
    assert found["slept_share"] > 0


def test_the_table_counts_what_the_gate_said(
    script: ModuleType, rules: Rules, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = simulated(200, 0.10)
    assert script.report(blocks, 10, rules)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert lines[1].startswith("| A/A | margin 3% | 10 | 0 (0.0%) | 0 (0.0%) |")
    assert lines[2].startswith("| 10 % slower | margin 3% | 10 | 10 (100.0%) |")


def test_blocks_without_a_side_that_is_complete_count_for_the_other(
    script: ModuleType, rules: Rules
) -> None:
    blocks = simulated(30, 0.10)
    later = [{key: one[key] for key in "AB"} for one in simulated(30, 0.10, seed=2)]
    same, slowed = (list(script.comparisons([*blocks, *later], key, rules, 99)) for key in "BS")
    assert slowed == list(script.comparisons(blocks, "S", rules, 99))
    assert len(same) > len(list(script.comparisons(blocks, "B", rules, 99)))


def test_a_slowdown_that_is_missed_is_not_as_wanted(script: ModuleType, rules: Rules) -> None:
    assert not script.report(simulated(60, 0.0), 5, rules)


def test_too_few_comparisons_never_pass_the_check(
    script: ModuleType, rules: Rules, tmp_path: Path
) -> None:
    assert not script.report(simulated(20, 0.10), 100, rules)
    with pytest.raises(SystemExit, match="nothing is recorded"):
        script.report([], 0, rules)
    file = tmp_path / "blocks.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in simulated(20, 0.10)))
    for count, code in ((100, 1), (1, 0)):
        words = ("--minutes", "0", "--file", str(file), "--comparisons", str(count), "--check")
        assert run(*words).returncode == code


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False
    )


def test_a_slice_goes_on_after_one_that_was_killed(script: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "blocks.jsonl"
    whole = json.dumps(simulated(1, 0.10)[0])
    file.write_text(f"{whole}\n{whole[:30]}")
    assert len(script.read(file)) == 1
    with script.alone(file) as opened:
        opened.write(whole + "\n")
        opened.flush()
        second = run("--minutes", "0.001", "--file", str(file))
    assert "another slice" in second.stderr
    assert len(script.read(file)) == 2


def test_comparisons_use_disjoint_blocks(script: ModuleType, rules: Rules) -> None:
    blocks = simulated(30, 0.10)
    used = [count for _, count in script.comparisons(blocks, "S", rules, 100)]
    assert sum(used) <= 30
    assert len(used) > 1
