"""OpenMP: the variables that place its pool, and the pool as it is loaded in this process.

The pool is read through ctypes from the very library that the engine brought; nothing is loaded.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path

from harness.records.run import PoolThread, RuntimeThreads
from harness.units import format_cpu_list

_LIBRARY = re.compile(r"/\S*/lib(?:[gi]?omp|iomp5)[^/\s]*\.so[^/\s]*$", re.MULTILINE)
_MOST_PLACES = 8192


def environment(cpus: Sequence[int]) -> dict[str, str]:
    """One OpenMP thread on each of `cpus`, the calling thread on the first.

    libgomp, which torch's Linux wheels carry too, reads these once, when it is loaded.
    """
    return {
        "OMP_NUM_THREADS": str(len(cpus)),
        "OMP_PLACES": ",".join(f"{{{cpu}}}" for cpu in cpus),
        "OMP_PROC_BIND": "close",
        "OMP_DYNAMIC": "false",
    }


def loaded_library(maps: Path = Path("/proc/self/maps")) -> Path | None:
    """The OpenMP library that is mapped into this process, or None."""
    try:
        found = _LIBRARY.search(maps.read_text())
    except OSError:
        return None
    return Path(found[0]) if found else None


def read_openmp(seen: RuntimeThreads) -> None:
    """Adds library, places and threads of OpenMP to `seen`, or the reason why they are not known.

    Starts a parallel region on the calling thread's own pool: never inside a window.
    """
    path = loaded_library()
    if path is None:
        seen.reason = "no OpenMP library is loaded"
        return
    try:
        library = ctypes.CDLL(str(path))
        seen.places = [_place(library, n) for n in range(_count(library))]
        seen.pool = _pool(library)
        seen.library = path.name
    except (OSError, AttributeError) as error:
        seen.reason = f"{path.name}: {error}"


def _count(library: ctypes.CDLL) -> int:
    return min(int(library.omp_get_num_places()), _MOST_PLACES)


def _place(library: ctypes.CDLL, number: int) -> str:
    """The CPUs of one place as a kernel list."""
    cpus = (ctypes.c_int * max(1, library.omp_get_place_num_procs(number)))()
    library.omp_get_place_proc_ids(number, cpus)
    return format_cpu_list(cpus)


def _pool(library: ctypes.CDLL) -> list[PoolThread]:
    """Each thread of a full team, as it sees itself, in OpenMP's order."""
    found: dict[int, PoolThread] = {}

    def look(_: object) -> None:
        place = int(library.omp_get_place_num())
        found[int(library.omp_get_thread_num())] = PoolThread(
            cpus=format_cpu_list(os.sched_getaffinity(0)),
            tid=threading.get_native_id(),
            place=place if place >= 0 else None,
        )

    # the entry that compilers call for `#pragma omp parallel`; LLVM's and Intel's have it as well
    work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(look)
    threads = ctypes.c_uint(int(library.omp_get_max_threads()))
    library.GOMP_parallel(work, None, threads, ctypes.c_uint(0))
    return [found[number] for number in sorted(found)]
