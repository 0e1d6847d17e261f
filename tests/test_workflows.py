"""Workflow and action: their flags are the command's, their shell does what it says."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from harness.cli import parser
from harness.errors import Exit
from tests.comparing.builders import result
from tests.comparing.test_ab import git
from tests.comparing.test_ab_command import BENCH, FAST, SLOW

GITHUB = Path(__file__).resolve().parents[1] / ".github"
ACTION = GITHUB / "actions" / "armbench"


def workflow(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((GITHUB / "workflows" / name).read_text())
    return read


def action() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ACTION / "action.yml").read_text())
    return read


def flags_of(command: str) -> set[str]:
    """Every flag of a command of the real parser."""
    top = parser()
    groups = [a for a in top._actions if isinstance(a, argparse._SubParsersAction)]
    return set(groups[0].choices[command]._option_string_actions)


def test_every_workflow_may_only_read_unless_a_job_says_more_and_pins_what_it_uses() -> None:
    for path in (GITHUB / "workflows").glob("*.yml"):
        read = workflow(path.name)
        assert read["permissions"] == {"contents": "read"}, path.name
        steps = [step for job in read["jobs"].values() for step in job["steps"]]
        used = [step["uses"] for step in steps if "uses" in step]
        assert all(use.startswith("./") or re.search(r"@v\d", use) for use in used)


def test_the_job_that_runs_code_of_a_pull_request_can_write_nothing() -> None:
    read = workflow("perf.yml")
    assert "pull_request_target" not in read[True]  # YAML reads the key `on` so
    assert "permissions" not in read["jobs"]["ab"]
    writing = read["jobs"]["comment"]
    assert writing["permissions"] == {"pull-requests": "write"}
    assert not any("checkout" in str(step.get("uses")) for step in writing["steps"])


def test_both_architectures_are_gated_with_their_whole_history_and_old_runs_are_cancelled() -> None:
    read = workflow("perf.yml")
    job = read["jobs"]["ab"]
    assert set(job["strategy"]["matrix"]["os"]) == {"ubuntu-24.04", "ubuntu-24.04-arm"}
    assert job["steps"][0]["with"]["fetch-depth"] == 0
    assert read["concurrency"]["cancel-in-progress"] is True


def test_the_inputs_that_are_given_are_the_actions_and_each_reaches_its_script() -> None:
    inputs = set(action()["inputs"])
    (step,) = [s for s in workflow("perf.yml")["jobs"]["ab"]["steps"] if "./" in s.get("uses", "")]
    assert set(step["with"]) <= inputs
    text = (ACTION / "action.yml").read_text()
    assert all(f"inputs.{name}" in text for name in inputs)
    for one in action()["runs"]["steps"]:
        script = re.search(r'ACTION_PATH/(\w+)"', one.get("run", ""))
        if script:
            body = (ACTION / script[1]).read_text()
            assert all(f"${{{name}" in body or f"${name}" in body for name in one["env"])


def test_no_text_of_a_pull_request_is_read_as_shell() -> None:
    jobs = workflow("perf.yml")["jobs"].values()
    steps = [*action()["runs"]["steps"], *(step for job in jobs for step in job["steps"])]
    assert not any("${{" in step.get("run", "") for step in steps)


def test_the_flags_of_the_scripts_are_flags_of_the_command() -> None:
    lines = [x for x in (ACTION / "measure").read_text().splitlines() if "arguments" in x]
    used = set(re.findall(r"--[a-z][a-z-]*", "\n".join(lines)))
    assert "--base" in used
    assert used <= flags_of("ab")
    (step,) = [s for s in workflow("perf.yml")["jobs"]["ab"]["steps"] if "./" in s.get("uses", "")]
    words = shlex.split(step["with"]["run"])
    assert parser().parse_args(["run", *words]).plan == "quick"
    shown = re.search(
        r"command: armbench (run .*?)\n#\n", (ACTION / "action.yml").read_text(), re.S
    )
    assert shown is not None
    assert parser().parse_args(shlex.split(shown[1].replace("#", ""))).server == "llama-server"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of somebody else's as a runner has it, its head slower than its base."""
    home = tmp_path / "repository"
    home.mkdir()
    git(home, "init", "-q", "-b", "main")
    git(home, "config", "user.email", "a@b.c")
    git(home, "config", "user.name", "x")
    text = BENCH.replace("sys.argv[2])", "pathlib.Path('step').read_text())")
    (home / "template.json").write_bytes(msgspec.json.encode(result([10.0])))
    (home / "rules.toml").write_text(
        'gate = ["decode_tok_per_s"]\n[margin]\ninterleaved = 0.25\nleast = 0.0\n'
    )
    for step in (FAST, SLOW):
        (home / "bench.py").write_text(text)
        (home / "step").write_text(step)
        git(home, "add", ".")
        git(home, "commit", "-qm", step)
    return home


def variables(checkout: Path, **more: str) -> dict[str, str]:
    """What GitHub would set, with an `armbench` that is this one."""
    root = Path(__file__).resolve().parents[1]
    program = checkout.parent / "bin" / "armbench"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m harness "$@"\n')
    program.chmod(0o755)
    return os.environ | {
        "PYTHONPATH": str(root),
        "ARMBENCH": str(program),
        "RUNNER_TEMP": str(checkout.parent / "temp"),
        "TMPDIR": str(checkout.parent),
        "GITHUB_OUTPUT": str(checkout.parent / "output"),
        "GITHUB_STEP_SUMMARY": str(checkout.parent / "summary"),
        "BASE": "HEAD~1",
        "HEAD": "main",
        "COMMAND": "{python} bench.py template.json",
        "SETUP": "",
        "RUN": "",
        "BUDGET": "5m",
        "RULES": "rules.toml",
        "INCONCLUSIVE": "fail",
        **more,
    }


def measure(checkout: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ACTION / "measure")],
        cwd=checkout,
        env=variables(checkout, **more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def told(checkout: Path) -> dict[str, str]:
    lines = (checkout.parent / "output").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_a_slower_head_fails_the_step_with_summary_outputs_and_files(checkout: Path) -> None:
    done = measure(checkout)
    assert done.returncode == Exit.REGRESSION, done.stderr
    assert told(checkout)["exit"] == "3"
    assert "regression" in (checkout.parent / "summary").read_text()
    kept = {path.name for path in Path(told(checkout)["folder"]).iterdir()}
    assert kept >= {"summary.md", "junit.xml", "outcome.json", "results"}
    assert len(git(checkout, "worktree", "list").splitlines()) == 1


@pytest.mark.parametrize(("word", "code"), [("warn", 0), ("fail", Exit.INCONCLUSIVE)])
def test_a_budget_that_is_over_fails_or_warns_as_asked(
    word: str, code: int, checkout: Path
) -> None:
    done = measure(checkout, BUDGET="0.1s", INCONCLUSIVE=word)
    assert done.returncode == code, done.stderr
    assert told(checkout)["exit"] == "4"
    assert "inconclusive" in (checkout.parent / "summary").read_text()


def test_what_can_not_run_fails_and_says_so(checkout: Path) -> None:
    done = measure(checkout, BASE="no-such-branch; touch hacked")
    assert done.returncode == Exit.USER
    assert "is no commit, branch or tag" in done.stderr
    assert "without a verdict" in (checkout.parent / "summary").read_text()
    assert not (checkout / "hacked").exists()
    assert measure(checkout, ARMBENCH="/nowhere/armbench").returncode == Exit.USER


def recording(checkout: Path, body: str = "") -> str:
    """An `armbench` that only writes down what it was told, and does what `body` says."""
    program = checkout.parent / "recording"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >"{checkout.parent}/told"\n{body}\n')
    program.chmod(0o755)
    return str(program)


def arguments(checkout: Path) -> list[str]:
    return (checkout.parent / "told").read_text().splitlines()


def test_what_was_merged_into_the_base_meanwhile_is_no_change_of_the_head(checkout: Path) -> None:
    left = git(checkout, "rev-parse", "HEAD~1").strip()
    git(checkout, "checkout", "-q", "-b", "feature", left)
    git(checkout, "commit", "-q", "--allow-empty", "-m", "feature")
    done = measure(checkout, ARMBENCH=recording(checkout), BASE="main", HEAD="feature")
    assert done.returncode == Exit.FINE, done.stderr
    assert f"--base=git:{left}" in arguments(checkout)
    git(checkout, "checkout", "-q", "--orphan", "unrelated")
    git(checkout, "commit", "-q", "--allow-empty", "-m", "unrelated")
    done = measure(checkout, ARMBENCH=recording(checkout), BASE="main", HEAD="unrelated")
    assert "--base=git:main" in arguments(checkout)
    assert "::warning::no commit that base and head share" in done.stdout


def test_words_of_every_line_of_the_run_are_passed_on(checkout: Path) -> None:
    run = "quick --load single_stream\n  --input-tokens 64\n--output-tokens 32\n"
    measure(checkout, ARMBENCH=recording(checkout), RUN=run)
    told = arguments(checkout)
    assert told[told.index("--") + 1 :] == run.split()


def test_a_second_use_in_one_job_shows_nothing_of_the_first(checkout: Path) -> None:
    out = checkout.parent / "temp" / "armbench-ab"
    first = recording(checkout, f'echo "of the first" >"{out}/summary.md"')
    measure(checkout, ARMBENCH=first)
    assert "of the first" in (checkout.parent / "summary").read_text()
    (checkout.parent / "summary").unlink()
    measure(checkout, ARMBENCH=recording(checkout, "exit 1"))
    assert "without a verdict" in (checkout.parent / "summary").read_text()


def comment(tmp_path: Path, written: str) -> list[str]:
    """What the comment's step asks of `gh`, which has found the comments `written` as ours."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir(exist_ok=True)
    program = bin_dir / "gh"
    program.write_text(
        f'#!/bin/sh\necho "$@" >>asked\n[ "$2" != --paginate ] || printf "%s" "{written}"\n'
    )
    program.chmod(0o755)
    (tmp_path / "asked").unlink(missing_ok=True)
    for name in ("ubuntu-24.04", "ubuntu-24.04-arm"):
        folder = tmp_path / "perf" / f"perf-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.md").write_text(f"of {name}\n")
    (step,) = [s for s in workflow("perf.yml")["jobs"]["comment"]["steps"] if "run" in s]
    told = {"PATH": f"{bin_dir}:{os.environ['PATH']}", "GITHUB_REPOSITORY": "o/r", "NUMBER": "7"}
    subprocess.run(["bash", "-ec", step["run"]], cwd=tmp_path, env=os.environ | told, check=True)
    return (tmp_path / "asked").read_text().splitlines()


def test_the_comment_that_is_replaced_is_the_one_with_our_mark(tmp_path: Path) -> None:
    asked = comment(tmp_path, "41\n42\n")
    body = (tmp_path / "comment.md").read_text()
    mark = body.splitlines()[0]
    assert mark.startswith("<!--")
    assert mark in asked[0]
    assert "github-actions[bot]" in asked[0]
    assert asked[1:] == ["api --method PATCH repos/o/r/issues/comments/41 -F body=@comment.md"]
    assert "of ubuntu-24.04\n" in body
    assert "of ubuntu-24.04-arm\n" in body
    assert comment(tmp_path, "")[1:] == ["pr comment 7 --repo o/r --body-file comment.md"]


def test_a_cancelled_step_leaves_no_checkout(checkout: Path) -> None:
    """A runner writes the step into a file, and signals the shell that reads it, no other."""
    (step,) = [s for s in action()["runs"]["steps"] if s.get("id") == "measure"]
    script = checkout.parent / "step.sh"
    script.write_text(step["run"])
    process = subprocess.Popen(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        cwd=checkout,
        env=variables(checkout, GITHUB_ACTION_PATH=str(ACTION)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list(checkout.parent.glob("temp/armbench-ab/results/*/history/ab/*/000-1-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == Exit.INTERRUPTED
    assert len(git(checkout, "worktree", "list").splitlines()) == 1
    assert not list(checkout.parent.glob("armbench-ab-*"))
