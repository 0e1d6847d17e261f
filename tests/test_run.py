"""Whole runs in real processes: only the engine is fake, everything around it is real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness import engine_process, store, validity, wire
from harness.engine_process import EngineFailed, EngineProcess
from harness.errors import Exit
from harness.records.run import Result
from tests.serving.talk import until

BASE = [
    *("--engine", "fake", "--threads", "1", "--input-tokens", "16", "--output-tokens", "16"),
    *("--repeats", "2", "--load", "single_stream"),
]


def armbench(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


@pytest.fixture
def run(qwen3: Path, tmp_path: Path) -> Any:
    def go(*arguments: str) -> tuple[subprocess.CompletedProcess[str], Result]:
        results = tmp_path / "results"
        done = armbench("run", "--model", str(qwen3), "--results", str(results), *BASE, *arguments)
        return done, store.load(store.find("latest", results))

    return go


def test_a_run_ends_with_a_table_a_file_and_no_talk_on_stdout(run: Any) -> None:
    done, result = run("--batch", "2", "--load", "single_stream,offline")
    assert done.returncode == expected_exit(result), done.stderr
    assert result.finished
    assert len(result.trials) == 4
    assert "fake" in done.stdout
    assert "trial 1/4" in done.stderr
    assert "trial 1/4" not in done.stdout
    assert "synthetic weights" in done.stdout


def test_json_is_the_result_itself(run: Any) -> None:
    done, result = run("--json")
    printed = json.loads(done.stdout)
    assert printed["schema"] == result.schema
    assert len(printed["trials"]) == len(result.trials)
    assert printed["model"]["weights"] == "synthetic"


def test_every_instant_is_in_order_and_every_thread_was_seen_in_its_place(run: Any) -> None:
    _, result = run()
    for trial in result.trials:
        record = trial.records[0]
        stamps = [record.due_ns, record.sent_ns, record.started_ns, *record.token_ns]
        assert stamps == sorted(stamps)
        assert len(record.token_ns) == 16
        assert trial.warmup
        assert trial.warmup[-1].token_ns[-1] < record.due_ns
        assert trial.placement is not None
        assert trial.placement.faults == []
        assert trial.placement.compute
        assert trial.usage is not None
        assert trial.usage.peak_rss_bytes > 2**20
        assert trial.before is not None


def test_a_fake_run_takes_no_ceilings_and_traces_no_kernels(run: Any) -> None:
    done, result = run()
    assert not result.plan.ceilings
    assert (result.ceilings, result.calibrations, result.paths) == ([], [], [])
    assert "ceilings" not in done.stderr
    assert result.model.sizes is not None


def expected_exit(result: Result) -> Exit:
    """Fine, or invalid for nothing but what else this machine was doing."""
    for trial in result.trials:
        noise = [f.message for f in trial.findings if f.severity == "invalid"]
        assert trial.state == "ok"
        assert trial.invalid == noise
    return Exit.INVALID if validity.invalid_cases(result) else Exit.FINE


def fault(name: str, *more: str) -> list[str]:
    """Options for a fake engine that fails in float32 and works in bfloat16."""
    return [
        *("--dtype", "float32,bfloat16", "--option", f"fake.fault={name}"),
        *("--option", "fake.fault_dtype=float32", "--option", "fake.fault_step=30", *more),
    ]


@pytest.mark.parametrize(
    ("name", "words", "more"),
    [
        ("crash", "killed by SIGSEGV", []),
        ("error", "failing as asked", []),
        ("out-of-memory", "killed by SIGKILL", []),
        ("hang", "no answer to 'generate' within 3.0 s: killed", ["--trial-timeout", "3s"]),
    ],
)
def test_an_engine_that_fails_spoils_its_own_trials_only(
    run: Any, name: str, words: str, more: list[str]
) -> None:
    done, result = run(*fault(name, *more))
    assert done.returncode == Exit.INVALID, done.stderr
    by_dtype: dict[str, list[str]] = {"float32": [], "bfloat16": []}
    dtypes = {c.id: c.variant.dtype for c in result.plan.cases}
    for trial in result.trials:
        by_dtype[dtypes[trial.case]].append(trial.state)
    assert by_dtype == {"float32": ["failed"] * 2, "bfloat16": ["ok"] * 2}
    failed = [t for t in result.trials if t.state == "failed"]
    assert all(words in (t.reason or "") for t in failed)
    assert words in done.stdout


def test_a_crash_keeps_the_last_lines_of_stderr(run: Any) -> None:
    _, result = run(*fault("crash"))
    failed = next(t for t in result.trials if t.state == "failed")
    assert any("crashing as asked" in line for line in failed.stderr_tail)
    assert failed.exit_code == -signal.SIGSEGV


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two allowed CPUs")
def test_an_engine_thread_that_strays_makes_its_trial_invalid(run: Any) -> None:
    done, result = run(*fault("stray"))
    assert done.returncode == Exit.INVALID
    assert "outside the engine's" in done.stdout
    dtypes = {c.id: c.variant.dtype for c in result.plan.cases}
    for trial in result.trials:
        strayed = any("outside the engine's" in reason for reason in trial.invalid)
        assert strayed == (dtypes[trial.case] == "float32")


SLOW = ["--option", "fake.step_s=0.02", "--repeats", "6"]


def interrupted(
    qwen3: Path, results: Path, how: signal.Signals, trials: int
) -> subprocess.CompletedProcess[str]:
    """A run that gets `how` once `trials` trials are on disk."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "harness", "run", "--model", str(qwen3)),
            *("--results", str(results), *BASE, *SLOW),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        files = list(results.glob("*/*/*.json"))
        if files and len(store.load(files[0]).trials) >= trials:
            break
        time.sleep(0.02)
    process.send_signal(how)
    out, err = process.communicate(timeout=30)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def engine_processes(parent_folder: Path) -> list[str]:
    """Command lines of engine processes that still run, of any driver."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            environment = (entry / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "harness.worker" in line and str(parent_folder) in environment:
            found.append(line)
    return found


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_keeps_what_ended_and_can_be_finished(
    qwen3: Path, tmp_path: Path, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARMBENCH_TEST_MARK", str(tmp_path))
    stopped = interrupted(qwen3, tmp_path, how, trials=2)
    path = store.find("latest", tmp_path)
    kept = store.load(path)
    assert len(kept.trials) >= 2
    assert not kept.finished
    if how is signal.SIGINT:
        assert stopped.returncode == Exit.INTERRUPTED
        assert f"--resume {path}" in stopped.stderr
    until(lambda: not engine_processes(tmp_path))
    done = armbench("run", "--resume", str(path))
    result = store.load(path)
    assert done.returncode == expected_exit(result), done.stderr
    assert result.finished
    assert [(t.case, t.repeat) for t in result.trials] == result.plan.order
    assert result.trials[: len(kept.trials)] == kept.trials


@pytest.mark.parametrize(("rise", "blamed"), [(1, True), (0, False)])
def test_a_kill_is_blamed_on_memory_only_if_the_kernel_counted_one(
    monkeypatch: pytest.MonkeyPatch, rise: int, blamed: bool
) -> None:
    counts = iter([5, 5 + rise])
    monkeypatch.setattr(engine_process, "oom_kills", lambda: next(counts))
    with EngineProcess([min(os.sched_getaffinity(0))], {}) as process:
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(EngineFailed, match="killed by SIGKILL during 'mark'") as caught:
            process.ask(wire.Mark(), wire.Done, 30)
    assert ("ran out of memory" in caught.value.reason) == blamed


def test_an_engine_process_may_be_killed_first_when_memory_ends() -> None:
    with EngineProcess([min(os.sched_getaffinity(0))], {}) as process:
        process.ask(wire.Mark(), wire.Done, 30)
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip() == "1000"


def test_resuming_with_other_weights_is_refused(
    qwen3: Path, qwen2: Path, tmp_path: Path, run: Any
) -> None:
    run()
    path = store.find("latest", tmp_path / "results")
    result = store.load(path)
    result.plan.model = str(qwen2)
    store.save(result, path)
    done = armbench("run", "--resume", str(path))
    assert done.returncode == Exit.NOT_COMPARABLE
    assert "other weights" in done.stderr


def test_show_prints_the_table_again_and_prices_it(run: Any, tmp_path: Path) -> None:
    first, result = run()
    folder = str(tmp_path / "results")
    again = armbench("show", "latest", "--results", folder)
    assert again.returncode == expected_exit(result)
    assert again.stdout == first.stdout
    priced = armbench("show", "latest", "--results", folder, "--price", "0.638 USD/h")
    assert "USD" in priced.stdout
    assert "0.638 USD per hour" in priced.stdout
    named = armbench("show", "latest", "--results", folder, "--instance", "aws/c8g.4xlarge")
    assert "c8g.4xlarge" in named.stdout
