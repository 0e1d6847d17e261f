"""The two commands name what is missing and the command that installs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.inside import armbench

REPOSITORY = Path(__file__).resolve().parents[1]
SHELL = re.compile(r"#!.*\b(ba)?sh$|# Sourced by")
# A Python that is new enough, and lacks the module that its name says.
FAKE_PYTHON = """#!/bin/sh
case "$2" in
  *version_info*) exit {old} ;;
  *"import venv"*) exit {bare} ;;
esac
echo "Python 3.x"
"""


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """scripts/bench in a folder of its own: nothing it does touches this checkout."""
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    return tmp_path / "scripts" / "bench"


def run(script: Path, python: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script],
        env={**os.environ, "PYTHON": python},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("old", "bare", "words", "hint"),
    [
        (1, 0, "too old", "PYTHON="),
        (0, 1, "no venv module", "apt-get install python3-venv"),
    ],
)
def test_a_python_that_does_not_do_is_named_with_what_to_do(
    bench: Path, old: int, bare: int, words: str, hint: str
) -> None:
    python = bench.parent / "python"
    python.write_text(FAKE_PYTHON.format(old=old, bare=bare))
    python.chmod(0o755)
    done = run(bench, str(python))
    assert done.returncode == 2
    assert words in done.stderr
    assert hint in done.stderr
    assert not (bench.parents[1] / ".venv").exists()


def test_a_missing_python_is_named(bench: Path) -> None:
    done = run(bench, "no-such-python")
    assert done.returncode == 2
    assert "no-such-python is not installed" in done.stderr
    assert "apt-get install python3" in done.stderr


def test_every_shell_script_parses() -> None:
    scripts = [
        path
        for path in [
            *(REPOSITORY / "scripts").iterdir(),
            *(REPOSITORY / ".github" / "actions").glob("*/*"),
            REPOSITORY / ".ci" / "run",
        ]
        if path.is_file() and SHELL.match(path.read_text().splitlines()[0])
    ]
    assert len(scripts) >= 4
    for path in scripts:
        subprocess.run(["bash", "-n", path], check=True)


def test_every_locked_version_is_exact_and_torch_is_pinned_for_both_architectures() -> None:
    locks = REPOSITORY / "scripts" / "locks"
    for name in ("run.txt", "test.txt"):
        lines = [x for x in (locks / name).read_text().splitlines() if not x.startswith("#")]
        assert lines
        assert all(line.count("==") == 1 and " " not in line for line in lines)
    pins = [x.split() for x in (locks / "torch.txt").read_text().splitlines() if x[0] != "#"]
    assert {p[0] for p in pins} == {"x86_64", "aarch64"}
    assert all(len(p) == 3 for p in pins)


def test_made_up_results_are_read_like_any_and_say_what_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    few = ["--results", "3", "--requests", "60", "--tokens", "4"]
    command = [sys.executable, REPOSITORY / "scripts" / "make-results", "--folder", folder]
    assert subprocess.run([*command, *few], check=False).returncode == 0
    listed = armbench("list", "--json", "--results", str(folder))
    rows = json.loads(listed.stdout)
    assert {row["model"] for row in rows} == {"made-up"}
    assert [row["machine"] for row in rows] == [
        "made-up-2-8cpu",
        "made-up-1-4cpu",
        "made-up-0-2cpu",
    ]
    assert "nothing was run" in armbench("show", str(folder / rows[0]["file"])).stdout
    assert subprocess.run([*command, *few], check=False).returncode == 2  # it is not empty
