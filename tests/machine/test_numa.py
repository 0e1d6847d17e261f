"""Memory is bound where the kernel lets it, and where its pages lie is read, not believed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.machine import numa
from harness.machine.numa import bind_memory, memory_nodes, read_pages, remote_pages
from harness.machine.proof import warnings
from harness.machine.tree import Tree
from harness.records.machine import Machine
from harness.records.run import MemoryPolicy, MemorySeen, NodePages, PlacementProof

MIB = 2**20
BIND = """
import json, msgspec, os, sys
from harness.machine.numa import bind_memory, read_pages
from harness.machine.tree import Tree
policy = bind_memory(json.loads(sys.argv[1]))
held = bytearray(b"x") * (64 << 20)
seen = read_pages(Tree(), os.getpid())
lines = open("/proc/self/numa_maps").read() if os.path.exists("/proc/self/numa_maps") else ""
print(json.dumps([msgspec.to_builtins(policy), msgspec.to_builtins(seen), " bind:" in lines]))
"""


def bound(*nodes: int) -> tuple[MemoryPolicy, MemorySeen, bool]:
    done = subprocess.run(
        [sys.executable, "-c", BIND, json.dumps(nodes)], capture_output=True, text=True, check=True
    )
    policy, seen, held = json.loads(done.stdout)
    return msgspec.convert(policy, MemoryPolicy), msgspec.convert(seen, MemorySeen), held


def test_a_process_is_bound_to_a_node_that_exists_or_says_why_not() -> None:
    policy, seen, held = bound(0)
    if policy.policy is None:
        assert policy.reason
        assert not held
    else:
        assert policy.policy == "bind:0"
        if seen.pages:
            assert held
            assert sum(p.own_bytes for p in seen.pages) >= 64 * MIB
            assert remote_pages([0], seen)[0] is None


@pytest.mark.parametrize("nodes", [(1023,), (99999,), (-1,)])
def test_a_node_that_does_not_exist_is_a_reason_not_a_crash(nodes: tuple[int, ...]) -> None:
    policy, _, held = bound(*nodes)
    assert policy.policy is None
    assert policy.reason
    assert not held


def test_with_one_node_nothing_is_done_and_it_says_so() -> None:
    policy, _, held = bound()
    assert policy.nodes == []
    assert policy.reason == "memory lies on one node: nothing to choose"
    assert not held


def test_a_system_without_the_call_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numa, "_NUMBERS", {})
    assert "no system call number" in (bind_memory([0]).reason or "")
    monkeypatch.setattr(numa, "_NUMBERS", dict.fromkeys(["x86_64", "aarch64"], (99999,) * 3))
    assert "has no memory policies" in (bind_memory([0]).reason or "")


def test_on_this_machine_memory_is_bound_only_where_there_is_a_choice(
    this_machine: Machine,
) -> None:
    several = sum(n.memory_bytes != 0 for n in this_machine.topology.nodes) > 1
    assert bool(memory_nodes(this_machine, [0])) == several


# numa_maps

MAPS = """\
55d0c0000000 bind:0 file=/bin/py\\040N9=7 mapped=300 mapmax=2 N0=100 N1=200 kernelpagesize_kB=4
55d0c1000000 bind:0 heap anon=512 dirty=512 active=0 N0=512 kernelpagesize_kB=4
7f0000000000 bind:0 anon=256 dirty=256 N1=256 kernelpagesize_kB=4
7f1000000000 bind:0 huge anon=3 dirty=3 N0=3 kernelpagesize_kB=2048
7ffc00000000 default stack anon=1
"""


def tree_with(folder: Path, maps: str | bytes) -> Tree:
    (folder / "proc/7").mkdir(parents=True, exist_ok=True)
    data = maps if isinstance(maps, bytes) else maps.encode()
    (folder / "proc/7/numa_maps").write_bytes(data)
    (folder / "proc/7/smaps_rollup").write_text("AnonHugePages:      4096 kB\n")
    return Tree(folder)


def test_pages_are_counted_by_node_in_their_own_size(tmp_path: Path) -> None:
    seen = read_pages(tree_with(tmp_path, MAPS), 7)
    assert seen.pages == [
        NodePages(node=0, own_bytes=2 * MIB + 6 * MIB, file_bytes=400 * 1024),
        NodePages(node=1, own_bytes=1 * MIB, file_bytes=800 * 1024),
    ]
    assert seen.huge_bytes == 4 * MIB
    assert seen.reason is None


def test_absent_or_empty_maps_are_a_reason(tmp_path: Path) -> None:
    assert "does not exist" in (read_pages(Tree(tmp_path), 7).reason or "")
    assert "lists no pages" in (read_pages(tree_with(tmp_path, ""), 7).reason or "")


@given(st.text(alphabet="0123456789abcN= \nfilekpagesz_B", max_size=300))
def test_no_maps_make_reading_fail(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        seen = read_pages(tree_with(Path(folder), text), 7)
    assert all(p.own_bytes >= 0 for p in seen.pages)


def test_remote_memory_is_a_fault_and_remote_files_are_a_warning(tmp_path: Path) -> None:
    own, files = remote_pages([0], read_pages(tree_with(tmp_path, MAPS), 7))
    assert own == "1 MiB of 9 MiB of the engine's memory lie on node 1, outside node 0"
    assert files == "800 KiB of 1.17 MiB of the engine's mapped files lie on node 1, outside node 0"
    assert remote_pages([0, 1], read_pages(Tree(tmp_path), 7)) == (None, None)


def test_a_few_remote_pages_are_no_fault() -> None:
    seen = MemorySeen(pages=[NodePages(node=0, own_bytes=99), NodePages(node=1, own_bytes=1)])
    assert remote_pages([0], seen) == (None, None)


def test_memory_that_could_not_be_bound_is_told_with_the_reason() -> None:
    proof = PlacementProof(
        asked=[0],
        driver=[1],
        samples=1,
        threads=[],
        compute=[],
        policy=MemoryPolicy(nodes=[0], reason="not permitted here"),
        memory=MemorySeen(pages=[NodePages(node=0, own_bytes=5)]),
    )
    (found,) = warnings(proof)
    assert "not bound to node 0" in found.message
    assert "not permitted here" in found.message
