"""History, baselines by name and the gate over them, as a user calls them on files."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest

from harness import store
from harness.errors import Exit
from harness.records.run import Result
from tests.comparing.builders import machine, result
from tests.comparing.test_ab import git
from tests.inside import armbench

MACHINE = "aws-c8g.large"


def keep(root: Path, day: int, made: Result) -> Path:
    made.created = f"2026-10-{day:02}T00:00:00+00:00"
    path = root / MACHINE / "quick" / f"202610{day:02}T000000Z.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    store.save(made, path)
    return path


def steps(level: float, seed: int) -> list[float]:
    rng = random.Random(seed)
    return [level * rng.uniform(0.995, 1.005) for _ in range(3)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Results of six days."""
    for day in range(1, 7):
        keep(tmp_path / "results", day, result(steps(10.0, day)))
    return tmp_path / "results"


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    (tmp_path / "rules.toml").write_text('gate = ["decode_tok_per_s"]\n')
    return tmp_path / "rules.toml"


def history(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`armbench history` with the flags where the parser of its part knows them."""
    at = 1 if words and words[0] in ("index", "note") else 0
    where = ("--results", str(root), "--machine", MACHINE)
    return armbench("history", *words[:at], *where, *words[at:])


def gate(
    new: Path, baseline: str, root: Path, rules: Path, *more: str, cwd: Path | str = "."
) -> int:
    words = ("--baseline", baseline, "--results", str(root), "--rules", str(rules), *more)
    return armbench("gate", str(new), *words, cwd=cwd).returncode


def test_a_label_is_a_baseline_that_the_gate_finds(root: Path, rules: Path, tmp_path: Path) -> None:
    done = history(root, "index")
    assert (done.returncode, done.stdout.strip()) == (Exit.FINE, f"{MACHINE}: 6 runs added")
    fine, slow = tmp_path / "fine.json", tmp_path / "slow.json"
    store.save(result(steps(10.0, 20)), fine)
    store.save(result(steps(13.0, 21)), slow)
    assert gate(fine, "v1", root, rules) == Exit.USER  # nothing is noted under it yet
    done = history(root, "note", "v1", str(root / MACHINE / "quick"), "--commit", "c0ffee")
    assert (done.returncode, done.stdout.strip()) == (Exit.FINE, f"{MACHINE}: 6 runs noted as v1")
    assert gate(fine, "v1", root, rules) == Exit.FINE
    assert gate(slow, "v1", root, rules) == Exit.REGRESSION


def test_a_slow_run_fails_whether_or_not_it_is_in_the_history(root: Path, rules: Path) -> None:
    for day in range(7, 12):
        keep(root, day, result(steps(10.0, day)))
    history(root, "note", "v1", str(root / MACHINE / "quick"), "--commit", "c0ffee")
    slow = keep(root, 12, result(steps(12.5, 12)))
    assert gate(slow, "v1", root, rules) == Exit.REGRESSION
    history(root, "note", "v1", str(slow), "--commit", "c0ffee")
    keep(root, 13, result(steps(16.0, 13)))
    history(root, "index", "--commit", "c0ffee")
    assert gate(slow, "v1", root, rules) == Exit.REGRESSION


def test_a_folder_of_repeats_and_a_branch_are_baselines_too(
    root: Path, rules: Path, tmp_path: Path
) -> None:
    slow = tmp_path / "slow.json"
    store.save(result(steps(13.0, 21)), slow)
    assert gate(slow, str(root / MACHINE / "quick"), root, rules) == Exit.REGRESSION
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "config", "user.email", "a@b.c")
    git(tmp_path, "config", "user.name", "x")
    git(tmp_path, "add", "results")
    git(tmp_path, "commit", "-qm", "baseline")
    assert gate(slow, "main", Path("results"), rules, cwd=tmp_path) == Exit.REGRESSION


def test_another_machine_is_refused_by_name_unless_that_is_allowed(
    root: Path, rules: Path, tmp_path: Path
) -> None:
    new, old = tmp_path / "new.json", root / MACHINE / "quick"
    store.save(result(steps(10.0, 20), on=machine(4)), new)
    done = armbench("gate", str(new), "--baseline", str(old), "--rules", str(rules))
    assert done.returncode == Exit.NOT_COMPARABLE
    named = done.stdout.rpartition("--allow ")[2].split()[0]
    assert "topology.vcpus" in named.split(",")
    assert gate(new, str(old), root, rules, "--allow", named) == Exit.FINE


def test_a_step_between_runs_is_shown_and_can_fail_a_job(root: Path, rules: Path) -> None:
    for day in range(7, 21):
        keep(root, day, result(steps(10.0 if day < 13 else 13.0, day)))
    words = ("--metrics", "decode_tok_per_s", "--rules", str(rules))
    done = history(root, *words)
    assert done.returncode == Exit.FINE, done.stderr
    assert "2026-10-13" in done.stdout
    assert "regressed" in done.stdout
    assert history(root, *words, "--check").returncode == Exit.REGRESSION
    (series,) = json.loads(history(root, *words, "--json").stdout)
    assert [step["verdict"] for step in series["steps"]] == ["regressed"]
    assert len(series["values"]) == 20


def test_a_small_step_after_a_large_one_still_fails_a_job(root: Path, rules: Path) -> None:
    for day in range(7, 29):
        keep(root, day, result(steps(10.0 if day < 12 else 13.0 if day < 20 else 13.3, day)))
    words = ("--metrics", "decode_tok_per_s", "--rules", str(rules))
    (series,) = json.loads(history(root, *words, "--json").stdout)
    assert [step["verdict"] for step in series["steps"]] == ["regressed", "unchanged"]
    assert history(root, *words, "--check").returncode == Exit.REGRESSION


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--plan", "other"), "no finished, valid run"),
        (("--metrics", "speed"), "unknown metric 'speed'"),
        (("note", "v1", "/nowhere.json"), "is not in"),
    ],
)
def test_what_is_not_there_is_told(words: tuple[str, ...], told: str, root: Path) -> None:
    done = history(root, *words)
    assert done.returncode == Exit.USER
    assert told in done.stderr


def test_a_machine_without_results_is_told_with_those_that_have(root: Path) -> None:
    done = armbench("history", "--results", str(root), "--machine", "other")
    assert done.returncode == Exit.USER
    assert MACHINE in done.stderr


def test_a_run_that_is_not_finished_gets_no_label(root: Path) -> None:
    path = keep(root, 9, result(finished=False))
    done = history(root, "note", "v1", str(path))
    assert done.returncode == Exit.USER
    assert "no finished run: quick/" in done.stderr
