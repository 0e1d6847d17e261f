"""`armbench load` whole: real servers, real client processes; only the engine is fake."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from harness import endpoint_spec, store, validity
from harness.cli import load as command
from harness.cli.load_flags import LOAD_FLAGS
from harness.errors import Exit
from harness.load import stored
from harness.metrics import Subject, served
from harness.records.run import Result
from tests import inside
from tests.serving.conftest import Running, service_for, serving
from tests.test_run import armbench

FAST = {"step_s": 0.002, "prefill_s_per_token": 0.00001}
SHORT = ("--input-tokens", "16", "--output-tokens", "8", "--timeout", "20s", "--drain", "10s")


@pytest.fixture(scope="module")
def server(qwen3: Path) -> Running:  # type: ignore[misc]
    with serving(service_for(qwen3, options=FAST, slots=4)) as running:
        yield running


@pytest.fixture
def load(server: Running, tmp_path: Path) -> Callable[..., tuple[int, Result]]:
    def go(*arguments: str) -> tuple[int, Result]:
        results = tmp_path / "results"
        done = armbench(
            "load", "--target", server.url, "--results", str(results), *SHORT, *arguments
        )
        assert done.returncode in (Exit.FINE, Exit.INVALID), done.stderr
        return done.returncode, store.load(store.find("latest", results))

    return go


def test_the_flags_are_the_keys_of_the_spec() -> None:
    keys = {f.name for f in msgspec.structs.fields(endpoint_spec.EndpointSpec)}
    own = {"headers", "verify", "ignore_eos", "load"}
    assert {*LOAD_FLAGS, *command.TARGET_FLAGS} == keys - own


def test_an_open_load_is_counted_from_due_times_and_seen_from_both_ends(
    load: Callable[..., tuple[int, Result]],
) -> None:
    _, result = load("--rate", "20", "--requests", "40")
    assert result.finished
    (trial,) = result.trials
    assert len(trial.records) == 40
    assert all(r.error is None and len(r.token_ns) == 8 for r in trial.records)
    assert all(r.due_ns <= r.sent_ns <= r.token_ns[0] for r in trial.records)
    assert all(r.input_tokens == 16 for r in trial.records)
    assert all(r.chunk_ns == r.token_ns for r in trial.records)  # stored once
    assert all(r.http is not None and r.http.chunk_ns is None for r in trial.records)
    assert trial.client is not None
    assert trial.client.stamps == "kernel"
    assert trial.server is not None
    assert len(trial.server.requests) >= 40
    assert trial.server.steps is not None
    assert result.target is not None
    assert result.target.prompts == "ids"


def test_a_closed_load_keeps_as_many_under_way_as_asked(
    load: Callable[..., tuple[int, Result]],
) -> None:
    _, result = load("--concurrency", "1,3", "--requests", "12")
    peaks = {
        case.load.serving.concurrency: served.concurrency_peak(
            Subject(trial=next(t for t in result.trials if t.case == case.id), case=case)
        )
        for case in result.plan.cases
        if case.load.serving
    }
    assert peaks == {1: 1, 3: 3}


def test_a_load_by_time_has_a_window_of_that_time(load: Callable[..., tuple[int, Result]]) -> None:
    _, result = load("--concurrency", "2", "--duration", "2s", "--endpoint", "chat")
    (trial,) = result.trials
    assert served.window_s(Subject(trial=trial, case=result.plan.cases[0])) == 2.0
    assert trial.window_ns is not None
    assert all(trial.window_ns[0] <= r.due_ns < trial.window_ns[1] for r in trial.records)
    assert result.target is not None
    assert result.target.prompts == "text"


def test_conversations_grow_by_what_was_answered(load: Callable[..., tuple[int, Result]]) -> None:
    _, result = load("--concurrency", "1", "--requests", "6", "--turns", "3")
    (trial,) = result.trials
    # a turn holds all before it: 16 tokens, 8 answered, and 16 more each time
    assert {r.input_tokens for r in trial.records} == {16, 40, 64}


def test_a_capacity_lies_between_a_rate_that_held_and_one_that_failed(
    load: Callable[..., tuple[int, Result]],
) -> None:
    _, result = load("--slo", "ttft:p50<=100ms", "--budget", "15s", "--arrivals", "constant")
    (found,) = result.capacities
    assert found.probes
    assert found.rate is None or found.rate == found.low
    assert {p.case for p in found.probes} <= {c.id for c in result.plan.cases}
    assert {t.case for t in result.trials} == {c.id for c in result.plan.cases}


def test_a_dry_run_prints_the_schedule_and_needs_no_server() -> None:
    done = armbench(
        "load", "--rate", "50", "--duration", "10s", "--seed", "3", "--dry-run", "--json"
    )
    assert done.returncode == Exit.FINE, done.stderr
    (shown,) = json.loads(done.stdout)
    again = armbench(
        "load", "--rate", "50", "--duration", "10s", "--seed", "3", "--dry-run", "--json"
    )
    assert again.stdout == done.stdout
    assert shown["schedule"]["requests"] > 300


def test_a_stored_schedule_is_replayed_as_it_is(
    load: Callable[..., tuple[int, Result]], tmp_path: Path
) -> None:
    file = tmp_path / "schedule.jsonl"
    flags = ("--rate", "30", "--requests", "15", "--input-tokens", "uniform:4-20")
    done = armbench(
        "load", *flags, "--output-tokens", "4", "--dry-run", "--save-schedule", str(file)
    )
    assert done.returncode == Exit.FINE, done.stderr
    planned = stored.read(file)
    _, result = load("--schedule", str(file))
    (trial,) = result.trials
    assert [r.asked_input for r in trial.records] == [p.input_tokens for p in planned]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--target", "ftp://x"), "not an http or https URL"),
        (("--target", "http://user:secret@x"), "would be stored"),
        (("--target", "http://127.0.0.1:9"), "does not answer"),
        (("--arrivals", "trace"), "a replay needs both"),
        (("--rate", "0"), "rate is 0"),
        (("--slo", "speed:p99<=1s"), "SLO metric"),
        (("--input-tokens", "many"), "many"),
        (("--header", "nonsense"), "--header"),
        (("--until", "tpot_p50_s"), "--until"),
    ],
)
def test_what_the_user_can_mend_is_said_with_exit_2(flags: tuple[str, ...], said: str) -> None:
    done = inside.armbench("load", *flags)
    assert done.returncode == Exit.USER
    assert said in done.stderr
    assert "secret" not in done.stderr


def test_neither_key_nor_header_value_is_stored_or_shown(server: Running, tmp_path: Path) -> None:
    done = armbench(
        *("load", "--target", server.url, "--results", str(tmp_path), *SHORT, "--json"),
        *("--rate", "20", "--requests", "5", "--header", "X-Token: hush-hush"),
        *("--key-variable", "SOME_KEY"),
        env={**os.environ, "SOME_KEY": "sk-very-secret"},
    )
    assert done.returncode in (Exit.FINE, Exit.INVALID), done.stderr
    written = store.find("latest", tmp_path).read_text()
    for text in (written, done.stdout, done.stderr):
        assert "hush-hush" not in text
        assert "sk-very-secret" not in text
    assert "X-Token" in written


def test_an_interrupted_load_keeps_what_ended_and_can_be_finished(
    server: Running, tmp_path: Path
) -> None:
    flags = ["load", "--target", server.url, "--results", str(tmp_path), *SHORT]
    flags += ["--concurrency", "1", "--duration", "2s", "--repeats", "3"]
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *flags], stderr=subprocess.PIPE, text=True
    )
    ended = 0
    for _ in range(600):
        time.sleep(0.1)
        files = list(tmp_path.glob("*/*/*.json"))
        ended = len(store.load(files[0]).trials) if files else 0
        if ended:
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == Exit.INTERRUPTED, said
    path = store.find("latest", tmp_path)
    assert "--resume" in said
    assert ended <= len(store.load(path).trials) < 3
    other = armbench(*flags, "--resume", str(path), "--seed", "2")
    assert (other.returncode, "another seed" in other.stderr) == (Exit.NOT_COMPARABLE, True)
    done = armbench(*flags, "--resume", str(path))
    assert done.returncode in (Exit.FINE, Exit.INVALID), done.stderr
    result = store.load(path)
    assert result.finished
    assert len(result.trials) == 3


def test_our_own_engine_is_served_and_loaded_by_a_plan(qwen3: Path, tmp_path: Path) -> None:
    done = armbench(
        *("run", "--model", str(qwen3), "--results", str(tmp_path), "--engine", "fake"),
        *("--threads", "1", "--load", "closed,open", "--concurrency", "2", "--rate", "10"),
        *("--input-tokens", "8", "--output-tokens", "8", "--requests", "10", "--repeats", "1"),
    )
    assert done.returncode in (Exit.FINE, Exit.INVALID), done.stderr
    result = store.load(store.find("latest", tmp_path))
    assert [case.load.kind for case in result.plan.cases] == ["closed", "open"]
    for trial in result.trials:
        assert trial.state == "ok", trial.reason
        assert trial.placement is not None
        assert trial.server is not None
        assert len(trial.records) == 10
    assert "closed ×2" in done.stdout
    assert validity.asked_repeats(result, result.plan.cases[0]) == 1


def test_an_engine_killed_in_mid_run_fails_its_requests_and_loses_none(
    qwen3: Path, tmp_path: Path
) -> None:
    options = {**FAST, "fault": "out-of-memory", "fault_step": 200}
    with serving(service_for(qwen3, options=options, slots=4)) as running:
        done = armbench(
            *("load", "--target", running.url, "--results", str(tmp_path), *SHORT),
            *("--rate", "40", "--requests", "60"),
        )
    assert done.returncode == Exit.INVALID, done.stderr
    result = store.load(store.find("latest", tmp_path))
    (trial,) = result.trials
    everything = [*trial.warmup, *trial.records]
    assert len(trial.records) == 60
    assert any(r.error is None for r in everything)
    assert any(r.error is not None for r in trial.records)
    assert all(r.finish == "error" for r in trial.records if r.error is not None)


def test_a_full_disk_is_said_and_the_file_of_before_stays_whole(
    server: Running, tmp_path: Path
) -> None:
    # a limit on file sizes stands in for a full disk: writing fails in the same place
    done = armbench(
        *("load", "--target", server.url, "--results", str(tmp_path), *SHORT),
        *("--concurrency", "4", "--requests", "400"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == Exit.USER, done.stderr
    assert "cannot be written" in done.stderr
    result = store.load(store.find("latest", tmp_path))
    assert not result.finished
    assert result.trials == []
    assert not list(tmp_path.glob("**/*.draft"))
