"""Several engine processes at work: begun together, busy to the end, and late, slow or dead ones.

Only the engine is fake; it computes for as long as it is told.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import engines, metrics, store, validity, wire
from harness.crew import Crew
from harness.engine_process import EngineFailed, EngineProcess
from harness.engines import EngineSpec
from harness.load.together import run_together
from harness.metrics import together
from harness.records.run import Case, InstanceSeen, LoadPoint, RequestRecord, Trial, Variant
from tests.test_run import armbench, expected_exit

CPUS = sorted(os.sched_getaffinity(0))[:2]
needs_two = pytest.mark.skipif(len(CPUS) < 2, reason="needs two allowed CPUs")
pytestmark = needs_two

LOAD = LoadPoint(kind="single_stream", batch=1, input_tokens=8, output_tokens=40, requests=3)
CASE = Case(
    id=0,
    variant=Variant(engine="fake", dtype="float32", threads=1, instances=2),
    load=LOAD,
)


@contextmanager
def crew(folder: Path, *steps_s: float) -> Iterator[Crew]:
    """A loaded fake engine on a CPU of its own for each time of a step."""
    specs = [
        EngineSpec(
            engine="fake",
            checkpoint=str(folder),
            dtype="float32",
            cpus=[cpu],
            options=engines.resolve_options("fake", {"step_s": step_s}),
        )
        for cpu, step_s in zip(CPUS, steps_s, strict=True)
    ]
    with Crew(specs, lambda spec: EngineProcess(spec.cpus, {})) as started:

        def ready(number: int, process: EngineProcess) -> None:
            process.ask(wire.Load(started.specs[number]), wire.Loaded, 60)
            process.ask(wire.Allocate(1, 64), wire.Done, 60)

        started.each(ready)
        yield started


def run(started: Crew) -> Trial:
    records = run_together(started, LOAD, seed=1, repeat=0, vocabulary=4096, timeout_s=30)
    return trial(records)


def trial(records: list[RequestRecord]) -> Trial:
    made = Trial(case=0, repeat=0, order=0, started_at="", state="ok", records=records)
    made.instances = [InstanceSeen(), InstanceSeen()]
    made.window_ns = together.window(made)
    return made


def own(made: Trial, instance: int) -> list[RequestRecord]:
    return [r for r in made.records if r.instance == instance]


def value(name: str, made: Trial) -> float:
    found = metrics.metric(name).value(metrics.Subject(trial=made, case=CASE))
    assert found is not None
    return found


def test_instances_begin_at_one_instant_and_each_has_prompts_of_its_own(qwen3: Path) -> None:
    with crew(qwen3, 0.004, 0.004) as started:
        made = run(started)
    first = [own(made, n)[0] for n in range(2)]
    assert first[0].due_ns == first[1].due_ns
    assert all(r.due_ns <= r.sent_ns <= (r.started_ns or 0) for r in made.records)
    assert first[0].output_sha256 != first[1].output_sha256
    assert len({record.id for record in made.records}) == len(made.records)
    assert validity.length_faults(made, CASE) == []


def test_the_faster_one_keeps_busy_until_the_slower_has_done_its_share_and_is_cut_off(
    qwen3: Path,
) -> None:
    with crew(qwen3, 0.002, 0.006) as started:
        made = run(started)
    fast, slow = own(made, 0), own(made, 1)
    assert len(slow) in (3, 4)  # the last of the slow one may end a moment before it is told
    assert len(fast) > 3
    assert fast[2].token_ns[-1] < slow[2].token_ns[-1]
    assert fast[-1].token_ns[-1] >= slow[2].token_ns[-1]
    cut = [r for r in made.records if r.finish == "cancelled"]
    assert all(r.id >= 6 and r.output_sha256 is None for r in cut)
    assert made.window_ns is not None
    assert made.window_ns[1] >= slow[2].token_ns[-1]
    assert validity.overlap_faults(made, CASE) == []
    inside = sum(
        made.window_ns[0] < t <= made.window_ns[1] for r in made.records for t in r.token_ns
    )
    seconds = (made.window_ns[1] - made.window_ns[0]) / 1e9
    assert value("output_tok_per_s", made) == pytest.approx(inside / seconds)


def test_a_late_instance_is_named_and_what_was_done_without_it_is_in_no_rate(qwen3: Path) -> None:
    with crew(qwen3, 0.005, 0.005) as started:
        late = started.processes[1].pid
        os.kill(late, signal.SIGSTOP)
        waking = threading.Timer(0.6, os.kill, (late, signal.SIGCONT))
        waking.start()
        made = run(started)
        waking.join()
    assert made.window_ns is not None
    begun = [r.started_ns or 0 for r in made.records if r.instance == 1]
    assert made.window_ns[0] == min(begun)
    assert min(begun) - made.records[0].due_ns > 400_000_000
    (reason,) = validity.overlap_faults(made, CASE)
    assert "instance 1 began" in reason
    early = sum(t <= made.window_ns[0] for r in own(made, 0) for t in r.token_ns)
    assert early > 20
    seconds = (made.window_ns[1] - made.window_ns[0]) / 1e9
    every = sum(len(r.token_ns) for r in made.records)
    assert value("output_tok_per_s", made) * seconds <= every - early


def test_an_instance_that_is_killed_ends_the_trial_with_its_number(qwen3: Path) -> None:
    with crew(qwen3, 0.005, 0.005) as started:
        threading.Timer(0.3, os.kill, (started.processes[1].pid, signal.SIGKILL)).start()
        begun = time.monotonic()
        with pytest.raises(EngineFailed, match=r"^instance 1: killed by SIGKILL") as caught:
            run(started)
        assert time.monotonic() - begun < 20
        assert caught.value.exit_code == -signal.SIGKILL
        assert all(process.process.poll() is not None for process in started.processes)


# Through the command

PLAN = [
    *("--engine", "fake", "--input-tokens", "16", "--output-tokens", "16", "--requests", "2"),
    *("--repeats", "2", "--load", "single_stream", "--threads", "1,2", "--instances", "1,2"),
    *("--option", "fake.step_s=0.004"),
]


def test_two_of_one_thread_and_one_of_two_are_measured_in_one_plan_that_can_be_resumed(
    qwen3: Path, tmp_path: Path
) -> None:
    done = armbench("run", "--model", str(qwen3), "--results", str(tmp_path), *PLAN)
    path = store.find("latest", tmp_path)
    result = store.load(path)
    assert done.returncode == expected_exit(result), done.stderr
    assert [case.variant.shape for case in result.plan.cases] == ["1", "2×1", "2"]
    assert " 2×1 " in done.stdout
    assert "2 × 2 threads left out" in done.stderr
    two = [t for t in result.trials if result.plan.cases[t.case].variant.instances == 2]
    for one in two:
        assert one.placement is None
        assert [p.asked for p in one.proofs if p] == [[cpu] for cpu in CPUS]
        assert all(p is not None and p.faults == [] for p in one.proofs)
        assert one.usage is not None
        parts = [seen.usage.user_s for seen in one.instances if seen.usage]
        assert one.usage.user_s == pytest.approx(sum(parts))
        assert {r.instance for r in one.records} == {r.instance for r in one.warmup} == {0, 1}
    kept = result.trials[:2]
    result.trials, result.finished = list(kept), False
    store.save(result, path)
    done = armbench("run", "--resume", str(path))
    again = store.load(path)
    assert done.returncode == expected_exit(again), done.stderr
    assert [(t.case, t.repeat) for t in again.trials] == again.plan.order
    assert again.trials[:2] == kept


def test_a_dry_run_shows_instances_and_their_memory_together(qwen3: Path) -> None:
    memory = ["--option", "fake.memory_bytes=1073741824"]
    done = armbench("run", "--model", str(qwen3), *PLAN, *memory, "--dry-run")
    rows = {line.split()[2]: line for line in done.stdout.splitlines() if line.startswith("fake")}
    assert rows["2×1"].split()[-2:] == ["2", "GiB"]
    assert rows["2"].split()[-2:] == ["1", "GiB"]


@pytest.mark.engine
def test_torch_runs_two_instances_of_one_thread(qwen3: Path, tmp_path: Path) -> None:
    done = armbench(
        *("run", "--model", str(qwen3), "--results", str(tmp_path), "--engine", "torch"),
        *("--threads", "1", "--instances", "1,2", "--load", "single_stream", "--repeats", "1"),
        *("--input-tokens", "64", "--output-tokens", "128", "--requests", "2"),
        *("--ceilings", "false"),
    )
    result = store.load(store.find("latest", tmp_path))
    assert done.returncode == expected_exit(result), done.stderr
    (check, other) = result.checks
    assert check.ok
    assert other.agreement == check.agreement  # the same process, checked once
    alone, together_ = sorted(result.trials, key=lambda t: t.case)
    outputs = [
        [r.output_sha256 for r in t.records if r.instance == 0 and r.finish == "length"][:2]
        for t in (alone, together_)
    ]
    assert outputs[0] == outputs[1]
