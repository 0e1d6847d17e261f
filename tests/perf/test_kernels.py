"""Kernels under pytest-benchmark, so that a change in one is seen.

    python -m pytest tests/perf/test_kernels.py --benchmark-enable --benchmark-autosave
    python -m pytest tests/perf/test_kernels.py --benchmark-enable --benchmark-compare

Called in this process through the library: one thread, working sets within the first caches.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.ceilings.build import Build

BYTES = 32 << 10
TARGET_OPS = 2_000_000  # of one call, so that its overhead does not count


class Work(ctypes.Structure):
    """struct ab_work"""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in "abc"),
        *((name, ctypes.c_size_t) for name in ("bytes", "m", "n", "k")),
        *((name, ctypes.c_uint) for name in ("streams", "ahead", "nontemporal")),
        ("result", ctypes.c_uint64),
    )


class Amount(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_uint64), ("ops", ctypes.c_uint64))


class Kernel(ctypes.Structure):
    """struct ab_kernel"""

    _fields_ = (
        *(
            (name, ctypes.c_char_p)
            for name in ("name", "isa", "operation", "type", "features", "unit")
        ),
        *((name, ctypes.c_uint) for name in ("arrays", "tunable", "scalable")),
        *((name, ctypes.c_uint64) for name in ("loop_bytes", "loop_ops")),
        ("loop", ctypes.c_char_p),
        ("space", ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.POINTER(Work), ctypes.c_int)),
        ("prepare", ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.POINTER(Work))),
        ("amount", ctypes.CFUNCTYPE(Amount, ctypes.POINTER(Work))),
        ("run", ctypes.CFUNCTYPE(None, ctypes.POINTER(Work), ctypes.c_uint64)),
        ("check", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Work), ctypes.c_uint64)),
    )


def features() -> set[str]:
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()


def names() -> list[str]:
    folder = Path(__file__).resolve().parents[2] / "kernels"
    arch = platform.machine()
    wanted = []
    for path in sorted(folder.glob("*/*.c")):
        for_arch = re.search(r"^// arch: (\S+)", path.read_text(), re.MULTILINE)
        if for_arch is None or for_arch[1] == arch:
            wanted.append(f"{path.parent.name}/{path.stem}")
    return wanted


@pytest.fixture(scope="module")
def kernels(own_kernels: Build) -> dict[str, Kernel]:
    library = ctypes.CDLL(str(own_kernels.library))
    library.ab_kernels.restype = ctypes.POINTER(ctypes.POINTER(Kernel))
    count = ctypes.c_size_t()
    every = library.ab_kernels(ctypes.byref(count))
    return {every[i].contents.name.decode(): every[i].contents for i in range(count.value)}


@pytest.fixture
def on_one_cpu() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.parametrize("name", names())
def test_kernel(name: str, kernels: dict[str, Kernel], on_one_cpu: None, benchmark: Any) -> None:
    kernel = kernels.get(name)
    if kernel is None:
        pytest.skip("this compiler does not know the ISA")
    lacking = set(kernel.features.decode().split()) - features()
    if lacking:
        pytest.skip(f"this CPU lacks {', '.join(sorted(lacking))}")
    work = Work(bytes=BYTES // max(kernel.arrays, 1) // 64 * 64, streams=1)
    buffers = []
    for which, field in enumerate("abc"):
        buffers.append(ctypes.create_string_buffer(kernel.space(work, which) + 64))
        start = ctypes.addressof(buffers[-1])
        setattr(work, field, start + -start % 64)
    assert kernel.prepare(work) is None
    each = kernel.amount(work)
    rounds = max(1, TARGET_OPS // max(each.ops, each.bytes, 1))
    benchmark.extra_info |= {"bytes": each.bytes * rounds, "ops": each.ops * rounds}
    benchmark(kernel.run, work, rounds)
    kernel.prepare(work)
    kernel.run(work, 3)
    assert kernel.check(work, 3) == 0
