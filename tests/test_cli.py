"""The command line: clear errors with exit 2, and nothing heavy before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from harness import plan
from harness.cli import run
from harness.errors import EXIT_MEANINGS, Exit
from tests import inside
from tests.test_run import armbench


def test_the_flags_are_the_plan_keys() -> None:
    keys = {f.name for f in msgspec.structs.fields(plan.Spec)}
    assert set(run.PLAN_FLAGS) == keys - {"options"}


def test_help_names_every_exit_code() -> None:
    text = armbench("--help").stdout
    for code, meaning in EXIT_MEANINGS.items():
        assert f"{code.value}  {meaning}" in text


@pytest.mark.parametrize(
    ("arguments", "words", "hint"),
    [
        (["run", "--engine", "pytorch"], "unknown engine 'pytorch'", "torch"),
        (["run", "--model", "qwen2.5-0.5bb"], "unknown model", "qwen2.5-0.5b"),
        (["run", "quik"], "unknown plan 'quik'", "quick"),
        (["run", "--threads", "two"], "--threads is 'two'", "whole number"),
        (["run", "--threads", "4096"], "4096 threads, but this process may run on", "lower"),
        (["run", "--price", "cheap"], "cheap", "USD"),
        (["run", "--instance", "aws/c8g.5xlarge"], "c8g.5xlarge", "c8g"),
        (["run", "--option", "packed=false"], "--option", "ENGINE.KEY=VALUE"),
        (["run", "--option", "torch.pack=false"], "unknown option", "packed"),
        (["run", "--resume", "x.json", "--seed", "2"], "--resume", "alone"),
        (["run", "--resume", "no/such.json"], "cannot be read", ""),
        (["run", "--results", "/proc/none", "--engine", "fake"], "cannot be written", "--results"),
        (["show", "no/such.json"], "cannot be read", ""),
        (["machine", "--root", "/no/such/folder"], "not a folder", ""),
        (["run", "--ceilings", "maybe"], "--ceilings is 'maybe'", "true or false"),
        (["run", "--name", "ceilings"], "the folder of what", "another name"),
        (["ceilings", "--threads", "two"], "--threads is 'two'", "1,2,4,max"),
        (["ceilings", "--threads", "4096"], "more than the", "lower"),
        (["ceilings", "--cpus", "0", "--placement", "numa"], "CPUs twice", "one of them"),
        (["ceilings", "--cpus", "8000"], "8000", "allowed"),
        (["roofline", "no/such.json"], "cannot be read", ""),
        (["roofline", "x.json", "--output", "x.pdf"], "neither SVG nor PNG", "x.svg"),
        (["explain", "tpto"], "unknown metric", "tpot"),
    ],
)
def test_bad_input_gets_a_clear_error_and_exit_2(
    arguments: list[str], words: str, hint: str, tmp_path: Path
) -> None:
    done = inside.armbench(*arguments, cwd=tmp_path)
    assert done.returncode == Exit.USER, done.stderr
    assert words in done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.rglob("*.json"))


def test_a_plan_that_does_not_fit_into_memory_is_refused_before_loading(tmp_path: Path) -> None:
    done = armbench(
        "run", "--engine", "fake", "--option", "fake.memory_bytes=99999999999999", cwd=tmp_path
    )
    assert done.returncode == Exit.USER
    assert "of memory" in done.stderr
    assert "writing synthetic weights" not in done.stderr


def test_a_dry_run_prints_every_case_and_writes_nothing(tmp_path: Path) -> None:
    arguments = ("run", "--dry-run", "--engine", "torch", "--dtype", "float32,bfloat16")
    done = armbench(*arguments, cwd=tmp_path)
    assert done.returncode == Exit.FINE, done.stderr
    assert done.stdout.count("torch") == 4
    assert "GiB" in done.stdout
    listed = json.loads(armbench(*arguments, "--json", cwd=tmp_path).stdout)
    assert len(listed["plan"]["cases"]) == 4
    assert listed["estimated_seconds"] > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "banned"),
    [
        (["--help"], {"msgspec", "rich", "numpy", "psutil"}),
        (["machine", "--json"], {"rich", "numpy", "scipy", "cpuinfo"}),
        (["run", "--dry-run"], {"torch", "transformers", "onnxruntime", "tokenizers"}),
        (["ceilings", "--threads", "4096"], {"torch", "onnxruntime", "matplotlib", "scipy"}),
        (["engines"], {"torch", "transformers", "onnxruntime", "scipy"}),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(
    arguments: list[str], banned: set[str]
) -> None:
    code = (
        "import sys\nfrom harness.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "sys.stderr.write(' '.join(sorted(m.split('.')[0] for m in sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert banned & set(done.stderr.split()) == set()


def test_machine_says_what_it_is_on_one_screen() -> None:
    done = armbench("machine")
    assert done.returncode == Exit.FINE
    assert 0 < len(done.stdout.splitlines()) <= 40
    found = json.loads(armbench("machine", "--json").stdout)
    assert found["topology"]["cpus"] >= 1


def test_engines_and_explain_list_what_there_is() -> None:
    rows = json.loads(armbench("engines", "--json").stdout)
    assert {row["engine"] for row in rows} >= {"torch", "onnxruntime", "fake"}
    assert "last token − due" in armbench("explain", "latency_p50_s").stdout
