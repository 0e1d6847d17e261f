"""Placement is proved on real processes, and a wrong one is caught and named."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.machine.proof import Watch, cpu_ns, faults, runtime_faults, warnings
from harness.records.run import PlacementProof, PoolThread, RuntimeThreads, ThreadSeen
from harness.units import format_cpu_list

CPUS = sorted(os.sched_getaffinity(0))[:2]
needs_two = pytest.mark.skipif(len(CPUS) < 2, reason="needs two allowed CPUs")

# Two threads that compute without the GIL (hashing), each bound as its argument says.
SPIN = """
import hashlib, os, sys, threading, time
def work(mask):
    os.sched_setaffinity(0, mask)
    end = time.monotonic() + float(sys.argv[3])
    while time.monotonic() < end:
        hashlib.sha256(bytes(1 << 20)).digest()
masks = [{int(c) for c in a.split(",")} for a in sys.argv[1:3]]
other = threading.Thread(target=work, args=(masks[1],))
print("go", flush=True)
other.start(); work(masks[0]); other.join()
"""


@pytest.mark.parametrize(
    ("told", "seconds"), [("2500000000 1 1", 2.5), ("0 0 0", 5.1), ("", 5.1), (None, 5.1)]
)
def test_cpu_time_is_exact_where_the_kernel_counts_it_and_in_ticks_elsewhere(
    told: str | None, seconds: float, tmp_path: Path
) -> None:
    if told is not None:
        (tmp_path / "schedstat").write_text(told)
    hertz = os.sysconf("SC_CLK_TCK")
    stat = ["0"] * 11 + [str(5 * hertz), str(hertz // 10)]
    assert cpu_ns(tmp_path, stat) == seconds * 1e9


def watch(first: str, second: str) -> PlacementProof:
    with subprocess.Popen(
        [sys.executable, "-c", SPIN, first, second, "0.8"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.1)
        with Watch(process.pid, CPUS, [0], interval_s=0.05) as watched:
            time.sleep(0.5)
        process.kill()
    return watched.proof()


@needs_two
def test_two_threads_on_a_cpu_each_are_proved() -> None:
    proof = watch(str(CPUS[0]), str(CPUS[1]))
    assert proof.faults == []
    assert sorted(proof.threads[i].affinity for i in proof.compute) == [str(c) for c in CPUS]
    assert all(len(proof.threads[i].ran_on) == 1 for i in proof.compute)
    assert proof.samples > 3


@needs_two
def test_two_threads_on_one_cpu_are_caught() -> None:
    proof = watch(str(CPUS[0]), str(CPUS[0]))
    assert f"2 compute threads share CPU {CPUS[0]}" in proof.faults


@needs_two
def test_a_compute_thread_that_is_not_bound_is_caught() -> None:
    proof = watch(str(CPUS[0]), ",".join(map(str, CPUS)))
    assert any("not bound to one CPU" in fault for fault in proof.faults)


def seen(affinity: str, cpu_s: float = 1.0) -> ThreadSeen:
    return ThreadSeen(name="t", affinity=affinity, cpu_s=cpu_s, ran_on=[])


def test_a_thread_that_was_outside_once_is_caught_even_if_it_came_back() -> None:
    found = faults([0, 1], [seen("0"), seen("1")], [0, 1], [{"0": 3, "0-7": 1}, {"1": 4}])
    assert len(found) == 1
    assert "0-7, outside the engine's 0-1, in 1 of 4 samples" in found[0]


def test_fewer_computing_threads_than_asked_are_caught() -> None:
    found = faults([0, 1, 2], [seen("0"), seen("1")], [0, 1], [{"0": 4}, {"1": 4}])
    assert found == ["3 threads were asked for, 2 computed"]


def test_waiting_threads_may_wait_anywhere_inside() -> None:
    threads = [seen("0"), seen("1"), seen("0-1", cpu_s=0.0)]
    assert faults([0, 1], threads, [0, 1], [{"0": 4}, {"1": 4}, {"0-1": 4}]) == []


def test_more_computing_threads_than_cpus_are_oversubscription() -> None:
    threads = [seen("0"), seen("1"), seen("0-1")]
    found = faults([0, 1], threads, [0, 1, 2], [{"0": 4}, {"1": 4}, {"0-1": 4}])
    assert "oversubscribed: 3 threads compute on 2 CPUs (0-1)" in found


def proof(**parts: Any) -> PlacementProof:
    base: dict[str, Any] = {"asked": [0, 1], "driver": [2], "samples": 4, "threads": []}
    return PlacementProof(**{**base, "compute": [], "seconds": 10.0, **parts})


def test_a_competitor_shows_in_involuntary_switches() -> None:
    thread = ThreadSeen(name="t", affinity="0", cpu_s=5, ran_on=[0], involuntary_switches=2500)
    (found,) = warnings(proof(threads=[thread], compute=[0]))
    assert "CPUs 0 were pushed off them up to 250 times a second" in found.message
    thread.involuntary_switches = 100
    assert warnings(proof(threads=[thread], compute=[0])) == []


# What the runtime says of itself


def openmp(*cpus: str, places: list[str] | None = None, compute: int = 2) -> RuntimeThreads:
    return RuntimeThreads(
        runtime="torch",
        compute=compute,
        interop=1,
        library="libgomp.so.1",
        places=["0", "1"] if places is None else places,
        pool=[PoolThread(cpus=c) for c in cpus],
    )


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        (openmp("0", "1", compute=4), "torch says it computes with 4 threads, 2 were placed"),
        (openmp("0", "1", places=[]), "OpenMP has no places"),
        (openmp("1", "0", places=["1", "0"]), "OpenMP has the places ['1', '0']"),
        (openmp("0", "0"), "OpenMP threads 0, 1 are all bound to CPU 0"),
        (openmp("0", "0-1"), "OpenMP thread 1 is bound to no single CPU but to 0-1"),
        (RuntimeThreads(runtime="onnxruntime", affinities=["2"]), "told affinities ['2']"),
        (RuntimeThreads(runtime="onnxruntime", affinities=[]), "told affinities []"),
    ],
)
def test_a_pool_that_is_not_the_plans_is_named(runtime: RuntimeThreads, words: str) -> None:
    assert any(words in fault for fault in runtime_faults([0, 1], runtime))


def test_a_pool_that_is_the_plans_is_no_fault() -> None:
    assert runtime_faults([0, 1], openmp("0", "1")) == []
    ort = RuntimeThreads(runtime="onnxruntime", compute=2, interop=1, affinities=["1"])
    assert runtime_faults([0, 1], ort) == []


def test_a_process_that_is_gone_proves_nothing() -> None:
    with Watch(2**22 + 1, [0], [0]) as watched:
        pass
    gone = watched.proof()
    assert gone.threads == []
    assert gone.memory is not None
    assert "does not exist" in (gone.memory.reason or "")


def test_a_result_from_before_these_fields_still_loads() -> None:
    old = b"""{"asked": [0], "driver": [1], "samples": 3, "compute": [0], "faults": [],
    "threads": [{"name": "t", "affinity": "0", "cpu_s": 1.0, "ran_on": [0]}]}"""
    loaded = msgspec.json.decode(old, type=PlacementProof)
    assert loaded.runtime is loaded.memory is loaded.policy is None
    assert warnings(loaded) == []


# Torch itself, wrongly placed; each of these is a way in which benchmarks were wrong

TORCH = """
import os, sys, time
os.environ.update({ENVIRONMENT})
os.sched_setaffinity(0, {{{BOTH}}})
{BEFORE}
import torch
{AFTER}
torch.set_num_threads(2)
a = torch.randn(1500, 1500)
a @ a
{LAST}
print("go", flush=True)
end = time.monotonic() + 20
while time.monotonic() < end:
    a @ a
"""
NARROW = f"os.sched_setaffinity(0, {{{CPUS[-1]}}})"


def watch_torch(asked: list[int], **parts: str) -> PlacementProof:
    """Two threads of a product of matrices, set up as the parts of the program say."""
    program = TORCH.format(
        BOTH=", ".join(map(str, CPUS)),
        **{"ENVIRONMENT": "{}", "BEFORE": "", "AFTER": "", "LAST": "", **parts},
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=kept
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with Watch(process.pid, asked, [0], interval_s=0.05) as watched:
            time.sleep(1.0)
        found = watched.proof()
        process.kill()
    return found


@needs_two
@pytest.mark.engine
def test_torch_with_places_is_proved() -> None:
    places = ",".join(f"{{{cpu}}}" for cpu in CPUS)
    environment = str({"OMP_PLACES": places, "OMP_PROC_BIND": "close", "OMP_NUM_THREADS": "2"})
    found = watch_torch(CPUS, ENVIRONMENT=environment)
    assert found.faults == []
    assert len(found.compute) == 2


@needs_two
@pytest.mark.engine
def test_an_affinity_narrowed_before_the_pool_starts_puts_both_threads_on_one_cpu() -> None:
    """The libgomp trap: the pool's threads inherit the main thread's mask."""
    found = watch_torch(CPUS, AFTER=NARROW)
    assert f"2 compute threads share CPU {CPUS[-1]}" in found.faults


@needs_two
@pytest.mark.engine
def test_an_affinity_set_after_the_pool_started_leaves_its_threads_where_they_were() -> None:
    found = watch_torch(CPUS, LAST=NARROW)
    everywhere = format_cpu_list(CPUS)
    assert any(f"not bound to one CPU but to {everywhere}" in fault for fault in found.faults)


@needs_two
@pytest.mark.engine
def test_two_threads_for_one_placed_cpu_are_oversubscription() -> None:
    found = watch_torch(CPUS[-1:], BEFORE=NARROW)
    assert any("oversubscribed: 2 threads compute on 1 CPU" in fault for fault in found.faults)
