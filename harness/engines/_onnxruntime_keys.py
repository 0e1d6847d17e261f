"""Options as ONNX Runtime's own keys: for its sessions, raw or inside onnxruntime-genai.

Names and meaning: onnxruntime_session_options_config_keys.h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import ArmbenchError
from harness.units import format_cpu_list, parse_cpu_list

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
