"""What raw sessions and those inside onnxruntime-genai share: keys, traces.

Names and meaning of the keys: onnxruntime_session_options_config_keys.h.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.engines._traces import read_profile
from harness.errors import ArmbenchError
from harness.records.run import KernelPath, Variant
from harness.units import format_cpu_list, parse_cpu_list

PRODUCTS = "products.json"  # beside a graph: its MatMulNBits by kind
AFFINITIES = "session.intra_op_thread_affinities"


def config_entries(cpus: Sequence[int], options: Mapping[str, Any]) -> dict[str, str]:
    """The session's entries for one thread on each of `cpus`, the first of which is the caller's.

    Affinities are 1-based CPU ids, one group for each thread but the caller's.
    """
    entries = {"session.intra_op.allow_spinning": "1" if options["spinning"] else "0"}
    if options["block_base"]:
        entries["session.dynamic_block_base"] = str(options["block_base"])
    if options["fast_math"]:
        entries["mlas.enable_gemm_fastmath_arm64_bfloat16"] = "1"
    if not options["kleidiai"]:
        entries["mlas.disable_kleidiai"] = "1"
    if len(cpus) > 1:
        entries[AFFINITIES] = ";".join(str(cpu + 1) for cpu in cpus[1:])
    return entries


def from_one(group: str) -> str:
    """CPUs counted from 0 of a group that counts from 1; the text itself where it is no list."""
    try:
        return format_cpu_list(cpu - 1 for cpu in parse_cpu_list(group))
    except ArmbenchError:
        return group


def kernel_path(engine: str, profile: Path, folder: Path) -> KernelPath:
    """Operators of the optimised graph as the `profile` of a session on `folder` counts them.

    Weights that were repacked for a kernel are no longer among an operator's inputs.
    """
    kernels, facts = read_profile(profile.read_text())
    if (folder / PRODUCTS).is_file():
        kinds = json.loads((folder / PRODUCTS).read_text())
        facts["MatMulNBits"] = "; ".join(f"{n} of {kind}" for kind, n in kinds.items())
    notes = [
        f"{k.name} found no kernel for its weights, and takes them as they are stored"
        for k in kernels
        if k.name == "MatMulNBits" and "uint8" in (k.types or "").split()
    ]
    return KernelPath(
        variant=Variant(engine=engine, dtype="", threads=0),
        source="ONNX Runtime profile",
        kernels=kernels,
        facts=facts | {"MLAS": "chooses its kernels by CPUID or HWCAP and does not tell them"},
        notes=notes,
        reason=None if kernels else "the profile names no kernel",
    )
