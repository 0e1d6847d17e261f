"""`armbench tune` in real processes: only the engine is fake, everything around it is real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import cli, engine_run, observe, plan, served_trial, store
from harness.engine_process import EngineFailed
from harness.engine_run import EngineRun
from harness.engines import fake
from harness.errors import Exit
from harness.machine.detect import detect
from harness.records.run import LoadPoint, Result, Trial
from harness.records.tune import Left
from harness.reports.tune_live import TuneListener
from harness.served_trial import ServedTrial
from harness.tune.begin import resume_tuning

# One thread is faster than two, as where memory is the limit and threads disturb one another.
CURVE = "1:100,2:60"
BASE = [
    *("--engine", "fake", "--dtype", "float32", "--option", f"fake.curve={CURVE}"),
    *("--workload", "16,16", "--instances", "1", "--threads", "1,2"),
]
needs_two = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two allowed CPUs")


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else this machine does is no part of the claim."""
    monkeypatch.setattr(observe, "judge", lambda *_, **__: [])


def tune(results: Path, model: Path, *more: str) -> tuple[int, Result]:
    code = cli.main(["tune", "--model", str(model), "--results", str(results), *BASE, *more])
    return code, store.load(store.find("latest", results))


@needs_two
def test_the_faster_thread_count_is_found_and_can_be_run_again(
    qwen3: Path, tmp_path: Path, quiet: None, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "best.toml"
    code, result = tune(
        tmp_path / "r", qwen3, "--batch", "1", "--budget", "60s", "--write-plan", str(target)
    )
    out, err = capsys.readouterr()
    assert code == Exit.FINE, err
    assert result.finished
    found = result.tune
    assert found is not None
    assert found.answer is not None
    assert found.answer.winner is not None
    assert found.candidates[found.answer.winner].threads == 1
    assert found.answer.standings[0].n >= 3
    assert found.spent_s <= 60
    # The trials are those of an ordinary result.
    assert {t.case for t in result.trials} <= {c.id for c in result.plan.cases}
    assert [(t.case, t.repeat) for t in result.trials] == [tuple(p) for p in result.plan.order]
    assert plan.read_spec(str(target)).threads == [1]
    assert f"armbench run {target}" in out
    assert "armbench serve --model" in out
    assert "probe 1" in err
    assert "probe 1" not in out
    code = cli.main(["show", str(store.find("latest", tmp_path / "r"))])
    assert code == Exit.FINE
    assert "tuned for output throughput" in capsys.readouterr().out


@needs_two
def test_the_client_of_a_served_trial_has_the_cpus_that_its_candidate_leaves_free(
    qwen3: Path, tmp_path: Path, quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another candidate uses them."""
    seen: dict[int, tuple[set[int], set[int], set[int]]] = {}

    def fill(trial: Trial, load: LoadPoint, asked: ServedTrial) -> None:
        engine = {cpu for cpus in asked.cpus for cpu in cpus}
        seen[len(engine)] = (engine, set(asked.driver_cpus), os.sched_getaffinity(0))
        raise EngineFailed("seen enough")

    monkeypatch.setattr(served_trial, "fill", fill)
    ceiling = SimpleNamespace(events_per_s=1e6)
    monkeypatch.setattr(engine_run, "check_client", lambda *_, **__: ceiling)
    tune(tmp_path, qwen3, "--load", "closed", "--batch", "1", "--exhaustive", "--repeats", "1")
    assert set(seen) == {1, 2}
    engine, client, parent = seen[1]
    assert client == parent
    assert not client & engine


def test_an_engine_that_crashes_is_left_out_and_the_other_one_wins(
    qwen3: Path, tmp_path: Path, quiet: None
) -> None:
    code, result = tune(
        *(tmp_path, qwen3, "--dtype", "float32,bfloat16", "--threads", "1", "--batch", "1"),
        *("--option", "fake.fault=crash", "--option", "fake.fault_dtype=float32"),
        *("--option", "fake.fault_step=3", "--budget", "30s"),
    )
    assert code == Exit.FINE
    assert result.tune is not None
    assert result.tune.answer is not None
    assert result.tune.answer.winner is not None
    assert result.tune.candidates[result.tune.answer.winner].dtype == "bfloat16"
    failed = next(left for left in result.tune.left if left.why == "failed")
    assert "SIGSEGV" in failed.reason


@needs_two
def test_an_exhaustive_search_measures_each_candidate_so_often(
    qwen3: Path, tmp_path: Path, quiet: None
) -> None:
    code, result = tune(tmp_path, qwen3, "--batch", "1", "--exhaustive", "--repeats", "2")
    assert code == Exit.FINE
    assert result.tune is not None
    assert result.tune.probes == []
    assert sorted(t.case for t in result.trials) == [0, 0, 1, 1]
    assert result.tune.answer is not None
    assert {s.n for s in result.tune.answer.standings} == {2}


def test_a_dry_run_prints_the_space_and_starts_nothing(
    qwen3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(fake, "PACKAGES", ("no_such_package",))
    asked = ["tune", "--model", str(qwen3), "--results", str(tmp_path), *BASE, "--dry-run"]
    assert cli.main(asked) == Exit.FINE
    out = capsys.readouterr().out
    assert "6 candidates, 0 to try" in out
    assert "no_such_package, not installed here" in out
    assert cli.main([*asked, "--json"]) == Exit.FINE
    told = json.loads(capsys.readouterr().out)
    assert len(told["candidates"]) == 6
    assert told["left"][0]["why"] == "missing"
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_meant_is_refused(qwen3: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, words in (
        (["--objective", "speed"], "unknown objective 'speed'"),
        (["--workload", "12"], "write it like 512,128"),
        (["--workload", "500,500"], "exceed the model's context of 512"),
        (["--objective", "latency", "--workload", "16,1"], "one output token has none"),
        (["--objective", "cost", *BASE], "the cost needs a price"),
        (["--load", "open"], "unknown load 'open'"),
        (["--budget", "soon"], "is not a duration"),
    ):
        assert cli.main(["tune", "--model", str(qwen3), *more]) == Exit.USER
        assert words in capsys.readouterr().err


def started(qwen3: Path, results: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "harness", "tune", "--model", str(qwen3)]
    return subprocess.Popen(
        [*command, "--results", str(results), *BASE, "--batch", "1,2", "--budget", "300s"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_search_keeps_all_but_the_step_under_way_and_goes_on(
    qwen3: Path, tmp_path: Path, how: signal.Signals, quiet: None
) -> None:
    process = started(qwen3, tmp_path)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        files = list(tmp_path.glob("*/*/*.json"))
        if files and len(store.load(files[0]).trials) >= 2:
            break
        time.sleep(0.02)
    process.send_signal(how)
    out, err = process.communicate(timeout=30)
    path = store.find("latest", tmp_path)
    kept = store.load(path)
    assert kept.tune is not None
    assert kept.tune.stopped is None
    assert len(kept.trials) >= 2
    if how is signal.SIGINT:
        assert process.returncode == Exit.INTERRUPTED
        assert f"armbench tune --resume {path}" in err
        assert "tuned for output throughput" in out  # what is known so far
    code = cli.main(["tune", "--resume", str(path)])
    result = store.load(path)
    assert result.tune is not None
    assert result.tune.stopped is not None
    assert code == Exit.FINE
    whole = [t for t in kept.trials if t.reason != "interrupted"]
    assert result.trials[: len(whole)] == whole
    assert result.tune.probes[: len(kept.tune.probes)] == kept.tune.probes
    assert cli.main(["tune", "--resume", str(path)]) == Exit.USER  # it has ended


def test_an_interrupt_in_the_last_ceilings_leaves_a_search_that_can_be_finished(
    qwen3: Path, tmp_path: Path, quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: EngineRun) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(EngineRun, "finish", interrupt)
        code, result = tune(tmp_path, qwen3, "--threads", "1", "--batch", "1", "--budget", "20s")
    assert code == Exit.INTERRUPTED
    assert not result.finished
    assert result.tune is not None
    assert result.tune.stopped == "decided"
    path = store.find("latest", tmp_path)
    assert cli.main(["tune", "--resume", str(path)]) == Exit.FINE
    finished = store.load(path)
    assert finished.finished
    assert finished.trials == result.trials


def test_a_resumed_search_can_bring_back_all_that_was_only_slower(
    qwen3: Path, tmp_path: Path, quiet: None
) -> None:
    tune(tmp_path, qwen3, "--batch", "1,2", "--threads", "1", "--exhaustive", "--repeats", "1")
    path = store.find("latest", tmp_path)
    begun = store.load(path)
    assert begun.tune is not None
    begun.finished, begun.tune.stopped = False, None
    begun.tune.left = [
        Left(candidates=[0], why="slower", reason="by a probe"),
        Left(candidates=[1], why="failed", reason="it crashed"),
    ]
    store.save(begun, path)
    with TuneListener() as listener:
        again = resume_tuning(path, detect(), listener)
    assert set(again.hands.plans) == {0}


@pytest.mark.parametrize("more", [["--dry-run"], ["--budget", "1m"], ["--threads", "2"]])
def test_a_resumed_search_takes_no_other_flags(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["tune", "--resume", str(tmp_path / "x.json"), *more]) == Exit.USER
    assert "flags would make it another one" in capsys.readouterr().err
