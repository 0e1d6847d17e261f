"""Placement is proved on real processes, and a wrong one is caught and named."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from harness.machine.placement import Watch, faults
from harness.records.run import PlacementProof, ThreadSeen

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
    found = faults([0, 1], [seen("0"), seen("1")], [0, 1], [["0", "0-7"], ["1"]])
    assert len(found) == 1
    assert "0-7, outside the engine's 0-1" in found[0]


def test_fewer_computing_threads_than_asked_are_caught() -> None:
    found = faults([0, 1, 2], [seen("0"), seen("1")], [0, 1], [["0"], ["1"]])
    assert found == ["3 threads were asked for, 2 computed"]


def test_waiting_threads_may_wait_anywhere_inside() -> None:
    threads = [seen("0"), seen("1"), seen("0-1", cpu_s=0.0)]
    assert faults([0, 1], threads, [0, 1], [["0"], ["1"], ["0-1"]]) == []


def test_a_process_that_is_gone_proves_nothing() -> None:
    with Watch(2**22 + 1, [0], [0]) as watched:
        pass
    assert watched.proof().threads == []
