"""What a row of llama-bench says: its columns, their types, and what they mean here.

Source: llama.cpp, tools/llama-bench/llama-bench.cpp (`struct test`, `get_field_type`, the printers)
at commit 0104b151, 40 columns; rows of build 4753 (51f311e0) have older ones, which are kept.

A row is one test in one process, repeated: `pp` decodes n_prompt tokens in batches, `tg` decodes
n_gen tokens one by one from an empty context (or one of n_depth tokens), `pg` both in a row. Times
hold no sampling, and no prefill but that of the test.
"""

from __future__ import annotations

import re
from typing import Any

INTEGERS = frozenset(
    (
        *("build_number", "model_size", "model_n_params", "n_batch", "n_ubatch", "n_threads"),
        *("poll", "n_gpu_layers", "n_cpu_moe", "main_gpu", "flash_attn", "no_op_offload"),
        *("fit_target", "fit_min_ctx", "n_prompt", "n_gen", "n_depth", "avg_ns", "stddev_ns"),
    )
)
BOOLEANS = frozenset(
    (
        *("f16_kv", "no_kv_offload", "cpu_strict", "embeddings", "no_host"),
        *("use_mmap", "use_direct_io", "mul_mat_q"),
    )
)
REALS = frozenset(("avg_ts", "stddev_ts"))
COLUMNS = (
    *("build_commit", "build_number", "cpu_info", "gpu_info", "backends", "model_filename"),
    *("model_type", "model_size", "model_n_params", "n_batch", "n_ubatch", "n_threads"),
    *("cpu_mask", "cpu_strict", "poll", "type_k", "type_v", "n_gpu_layers", "n_cpu_moe"),
    *("split_mode", "main_gpu", "no_kv_offload", "flash_attn", "devices", "tensor_split"),
    *("tensor_buft_overrides", "load_mode", "embeddings", "no_op_offload", "no_host"),
    *("fit_target", "fit_min_ctx", "n_prompt", "n_gen", "n_depth", "test_time", "avg_ns"),
    *("stddev_ns", "avg_ts", "stddev_ts"),
)
# Columns that are not a setting of the engine.
TAKEN = frozenset(
    (
        *("build_commit", "build_number", "cpu_info", "gpu_info", "model_filename", "model_type"),
        *("model_size", "model_n_params", "n_threads", "n_prompt", "n_gen", "test_time", "avg_ns"),
        *("stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts"),
    )
)
# What can be a setting's name; a file may hold any text there, and SQL has names unquoted.
NAME = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)
_QUANT = re.compile(r"\b((?:I?Q|TQ)\d\w*|B?F16|F32|MXFP4\w*)(?: - (Small|Medium|Large))?", re.I)
_PLAIN = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def typed(name: str, value: Any) -> Any:
    """A setting in its column's type, whichever format it came in; texts stay texts."""
    if (
        isinstance(value, str)
        and name in INTEGERS | BOOLEANS
        and re.fullmatch(r"-?\d{1,18}", value)
    ):
        value = int(value)
    if name in BOOLEANS and isinstance(value, int):
        return bool(value)
    return int(value) if name in INTEGERS and isinstance(value, bool) else value


def dtype_of(model_type: str) -> str | None:
    """`q4_k_m` of `qwen2 0.5B Q4_K - Medium`, `bfloat16` of `… BF16`; None where it is not told."""
    match = _QUANT.search(model_type)
    if match is None:
        return None
    name = match[1].lower()
    return _PLAIN.get(name, name) + (f"_{match[2][0].lower()}" if match[2] else "")


def family_of(model_type: str) -> str | None:
    """llama.cpp's name of the architecture, the first word of a model type."""
    word = model_type.partition(" ")[0]
    return word if re.fullmatch(r"[a-z][a-z0-9_.-]{1,40}", word) else None
