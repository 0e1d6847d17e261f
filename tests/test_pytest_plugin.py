"""The pytest plugin in other projects: quiet where it is not asked, right where it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARK, OURS = ("-p", "pytest_benchmark.plugin"), ("-p", "harness.pytest_plugin")
PROJECT = """
def test_point(armbench_point):
    timed = armbench_point(engine="fake", model={model!r}, threads=1, load="offline", batch=2,
                           input_tokens=8, output_tokens=8, rounds=3)
    trial, = timed.result.trials
    assert [record.id for record in trial.records] == list(range(2 * {rounds}))
    assert len({{record.output_sha256 for record in trial.records}}) == 2 * {rounds}
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """pytest in a project of its own, with the plugins of `words` alone."""
    found = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=folder,
        env=found,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def project(tmp_path: Path, text: str) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(text)
    return tmp_path


def test_it_is_found_by_its_entry_point() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert table["project"]["entry-points"]["pytest11"] == {"armbench": "harness.pytest_plugin"}


def test_a_project_that_does_not_ask_gets_nothing_heavy(tmp_path: Path) -> None:
    text = "import sys\ndef test_no_more_than_before():\n    print(sorted(sys.modules))\n"
    folder = project(tmp_path, text)
    plain, ours = (run(folder, "-s", "-W", "error", *words).stdout for words in ((), OURS))
    names = [set(json.loads(out.splitlines()[0].replace("'", '"'))) for out in (plain, ours)]
    assert "1 passed" in ours
    assert names[1] - names[0] <= {"harness", "harness.pytest_plugin"}


def test_rounds_are_timed_and_our_metrics_stand_beside_them(qwen3: Path, tmp_path: Path) -> None:
    folder = project(tmp_path, PROJECT.format(model=str(qwen3), rounds=3))
    done = run(folder, *BENCHMARK, *OURS, "--benchmark-json", "out.json")
    assert done.returncode == 0, done.stdout
    (entry,) = json.loads((folder / "out.json").read_text())["benchmarks"]
    assert entry["stats"]["rounds"] == 3
    assert entry["stats"]["min"] > 0
    told = entry["extra_info"]["armbench"]
    assert told["case"].startswith("fake")
    assert (told["input_tokens"], told["weights"]) == (8, "synthetic")
    # A disturbed trial has a reason in place of figures, as in any result.
    assert told["invalid"] or entry["extra_info"]["decode_tok_per_s"] > 0


@pytest.mark.parametrize(
    ("plugins", "rounds"), [(OURS, 3), ((*BENCHMARK, *OURS, "--benchmark-disable"), 1)]
)
def test_without_timing_a_load_point_still_runs(
    plugins: tuple[str, ...], rounds: int, qwen3: Path, tmp_path: Path
) -> None:
    folder = project(tmp_path, PROJECT.format(model=str(qwen3), rounds=rounds))
    done = run(folder, *plugins)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("armbench_point(engine='torhc', model='qwen3-0.6b')", "did you mean 'torch'"),
        ("armbench_point(engine='fake', speed=3)", "unknown plan key 'speed'"),
        ("armbench_load('http://127.0.0.1:9', requests=1, concurrency=1)", "does not answer"),
        ("armbench_load('http://127.0.0.1:9', concurrency='many')", "concurrency"),
    ],
)
def test_what_can_not_be_timed_fails_with_what_to_do(call: str, told: str, tmp_path: Path) -> None:
    fixture = call.partition("(")[0]
    folder = project(tmp_path, f"def test_it({fixture}):\n    {call}\n")
    done = run(folder, *BENCHMARK, *OURS)
    assert done.returncode == 1
    assert told in done.stdout
    assert "Traceback" not in done.stdout
