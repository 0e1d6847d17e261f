"""`armbench ab` as a user calls it: commands that really sleep, real repositories, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from harness import history
from harness.errors import Exit
from harness.records.ab import AbState
from tests.comparing.builders import result
from tests.comparing.test_ab import git
from tests.test_run import armbench

# Sleeps for each of 32 tokens, and writes when they came.
BENCH = """
import json, os, pathlib, sys, time
template, step_s = pathlib.Path(sys.argv[1]), float(sys.argv[2])
body = json.loads(template.read_text())
for trial in body["trials"]:
    record = trial["records"][0]
    stamps = [time.monotonic_ns()]
    for _ in range(31):
        time.sleep(step_s)
        stamps.append(time.monotonic_ns())
    start = stamps[0] - 5_000_000
    record.update(due_ns=start, sent_ns=start, started_ns=start, token_ns=stamps)
    trial["window_ns"] = [start, stamps[-1]]
folder = pathlib.Path(os.environ["ARMBENCH_RESULTS"])
(folder / "result.json").write_text(json.dumps(body))
"""
# A sleep takes longer than asked by what the kernel's timers and the neighbours add: some 0.1 ms.
FAST, SLOW = "0.004", "0.008"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with the benchmark and rules that gate what it measures, with room for noise."""
    (tmp_path / "bench.py").write_text(BENCH)
    (tmp_path / "template.json").write_bytes(msgspec.json.encode(result([10.0])))
    (tmp_path / "rules.toml").write_text(
        'gate = ["decode_tok_per_s"]\n[margin]\ninterleaved = 0.25\nleast = 0.0\n'
    )
    (tmp_path / "tmp").mkdir()
    return tmp_path


def command(home: Path, step_s: str) -> str:
    return f"{sys.executable} {home}/bench.py {home}/template.json {step_s}"


def flags(home: Path) -> list[str]:
    return ["--rules", str(home / "rules.toml"), "--results", str(home / "results")]


def environment(home: Path) -> dict[str, str]:
    """Checkouts go where the test can see them."""
    return os.environ | {"TMPDIR": str(home / "tmp")}


def comparison(home: Path) -> Path:
    (found,) = home.glob("results/*/history/ab/*")
    return found


def state(home: Path) -> AbState | None:
    for path in home.glob("results/*/history/ab/*/state.json"):
        return msgspec.json.decode(path.read_bytes(), type=AbState)
    return None


def test_a_command_that_really_sleeps_longer_fails_the_gate(home: Path) -> None:
    done = armbench(
        *("ab", "--base", command(home, FAST), "--head", command(home, SLOW), *flags(home)),
        *("--markdown", str(home / "ab.md"), "--junit", str(home / "ab.xml")),
    )
    assert done.returncode == Exit.REGRESSION, done.stderr
    assert "regression: of 1 gated metrics 1 regressed" in done.stdout
    assert "block 1/20, trial 1/4" in done.stderr
    assert (home / "ab.md").read_text().startswith("### ❌ armbench ab: regression")
    assert ET.parse(home / "ab.xml").getroot()[0].get("failures") == "1"


def test_the_same_command_passes_and_is_kept_for_the_noise_margin(home: Path) -> None:
    done = armbench("ab", "--aa", "--base", command(home, FAST), "--json", *flags(home))
    assert done.returncode == Exit.FINE, done.stderr
    assert json.loads(done.stdout)["rows"][0]["state"] == "unchanged"
    assert "A/A comparisons kept for the noise margin: 1" in done.stderr
    kept = history.History(comparison(home).parents[1]).made()
    assert [(one.setting, one.n) for one in kept] == [("interleaved", 4)]
    again = armbench("ab", "--resume", str(comparison(home)))
    assert again.returncode == Exit.FINE, again.stderr
    assert len(history.History(comparison(home).parents[1]).made()) == 1


def test_a_dry_run_runs_and_writes_nothing(home: Path) -> None:
    words = ("ab", "--base", command(home, FAST), "--head", command(home, SLOW))
    done = armbench(*words, "--dry-run", "--budget", "5m", "--seed", "3", *flags(home))
    assert done.returncode == Exit.FINE, done.stderr
    assert "at most 300 s, seed 3" in done.stdout
    assert not (home / "results").exists()


@pytest.fixture
def repository(home: Path) -> Path:
    """A repository of somebody else's, whose second commit is slower."""
    folder = home / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    git(folder, "config", "user.email", "a@b.c")
    git(folder, "config", "user.name", "x")
    for step in (FAST, SLOW):
        text = BENCH.replace("float(sys.argv[2])", "float(pathlib.Path('step').read_text())")
        (folder / "bench.py").write_text(text)
        (folder / "step.in").write_text(step)
        git(folder, "add", ".")
        git(folder, "commit", "-qm", step)
    return folder


def of_commits(home: Path, repository: Path) -> list[str]:
    return [
        *("ab", "--base", "HEAD~1", "--head", "HEAD", "--repository", str(repository)),
        *("--setup", "cp step.in step"),
        *("--command", f"{{python}} bench.py {home}/template.json", *flags(home)),
    ]


def nothing_left(home: Path, repository: Path) -> bool:
    alone = len(git(repository, "worktree", "list").splitlines()) == 1
    return alone and not list((home / "tmp").glob("armbench-ab-*"))


def test_two_commits_are_set_up_measured_and_their_checkouts_taken_away(
    home: Path, repository: Path
) -> None:
    done = armbench(*of_commits(home, repository), env=environment(home))
    assert done.returncode == Exit.REGRESSION, done.stderr
    assert "setting up the checkout of head" in done.stderr
    assert nothing_left(home, repository)


def test_a_set_up_that_fails_is_told_and_leaves_nothing(home: Path, repository: Path) -> None:
    words = of_commits(home, repository)
    words[words.index("cp step.in step")] = "echo no compiler >&2; exit 7"
    done = armbench(*words, env=environment(home))
    assert done.returncode == Exit.USER
    assert "exit code 7: no compiler" in done.stderr
    assert nothing_left(home, repository)


def begun(home: Path, words: list[str], trials: int) -> subprocess.Popen[str]:
    """`armbench ab` with at least so many trials behind it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *words],
        env=environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait(lambda: (found := state(home)) is not None and len(found.trials) >= trials, process)
    return process


def wait(done: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_cancelled_job_leaves_no_checkout_behind(
    number: signal.Signals, home: Path, repository: Path
) -> None:
    process = begun(home, of_commits(home, repository), 1)
    process.send_signal(number)
    process.send_signal(signal.SIGTERM)  # as CI does when the first did not end it at once
    _, told = process.communicate(timeout=30)
    assert process.returncode == Exit.INTERRUPTED
    assert "go on with: armbench ab --resume" in told
    assert nothing_left(home, repository)


def test_after_a_kill_it_goes_on_with_what_was_measured(home: Path, repository: Path) -> None:
    process = begun(home, of_commits(home, repository), 9)
    process.kill()
    process.communicate()
    killed = state(home)
    assert killed is not None
    assert len(killed.checkouts) == 2
    assert not nothing_left(home, repository)
    done = armbench(
        *("ab", "--resume", str(comparison(home))),
        env=environment(home),
    )
    assert done.returncode == Exit.REGRESSION, done.stderr
    ended = state(home)
    assert ended is not None
    assert ended.trials[:8] == killed.trials[:8]  # whole blocks are not measured again
    assert nothing_left(home, repository)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--base", "no-such-branch"], "no branch, tag or commit of"),
        (["--base", "git:v9"], "'v9' is no commit, branch or tag"),
        (["--base", "HEAD"], "it is no commit of armbench"),
        (["--base", "true", "--head", "true"], "true wrote no result below"),
        (["--base", "true", "--head", "true", "--", "quick"], "they say themselves"),
        (["--base", "true", "--setup", "make"], "no side is a git reference"),
        (["--head", "true"], "no --base"),
        (["--aa", "--head", "true"], "leave --head out"),
        (["--base", "true", "--blocks", "many"], "write it like 4-20"),
        (["--resume", "/nowhere"], "cannot be read"),
        (["--resume", "/nowhere", "--base", "true"], "flags would make it another"),
        (["--resume", "/nowhere", "--rules", "rules.toml"], "flags would make it another"),
    ],
)
def test_what_can_not_be_compared_is_told_before_or_at_the_first_trial(
    words: list[str], told: str, home: Path, repository: Path
) -> None:
    done = armbench("ab", "--repository", str(repository), *flags(home), *words, cwd=home)
    if "--resume" in words:
        done = armbench("ab", *words)
    assert done.returncode == Exit.USER
    assert told in done.stderr
