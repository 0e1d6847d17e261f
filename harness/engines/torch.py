"""PyTorch: a lean greedy decoder on the checkpoint's own weights.

int8 and int4 are quantised where they are loaded (`_torch_quantised`); `kernel` forces one of
their kernels. The embedding and the head are int8 in both, one matrix where they are tied. int8
products are exact where the CPU has AVX-512 VNNI, elsewhere (on any Arm) of bfloat16 activations:
ATen has no exact ones there but a scalar loop.

Linear layers run on weights packed once for oneDNN (`packed`). On the one machine where both were
timed (AMD Zen 5, 2 threads, float32, batch 1) they read about twice the bytes per second of the
MKL path behind `torch.nn.functional.linear`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.engines import _huge_pages, _openmp, _torch_kernels, plain_stored
from harness.errors import ArmbenchError
from harness.machine.cpuinfo import BFLOAT16, features_of, read_processors
from harness.machine.tree import Tree
from harness.model.architecture import Dimensions, parameters
from harness.records.run import Stored

if TYPE_CHECKING:
    from harness.engines import Engine, EngineSpec

DTYPES = ("float32", "bfloat16", "int8", "int4")
PACKAGES = ("torch", "safetensors")
TRACE = {"ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1"}
serves = True
INT8 = _torch_kernels.INT8
KLEIDIAI = True
OPTIONS: Mapping[str, Any] = {
    "packed": True,
    "kernel": "auto",
    "compile": False,
    "fast_math": False,
    "huge_pages": False,
}
OPTION_HELP = {
    "packed": "floats on weights packed for oneDNN, where this build of torch has them",
    "kernel": "auto; of int8 int_mm, int8pack; of int4 int4pack, dyn_quant_4bit (KleidiAI on Arm)",
    "compile": "norms, rotation, gate and rounding compiled by inductor; not while it serves",
    "fast_math": "oneDNN may multiply float32 by bfloat16 instructions, where the CPU has them",
    "huge_pages": _huge_pages.HELP,
}
TUNABLE: Mapping[str, Sequence[Any]] = {"compile": [False, True], "huge_pages": [False, True]}
NEUTRAL = ("huge_pages",)
TUNABLE_IN: Mapping[str, Mapping[str, Sequence[Any]]] = {"float32": {"fast_math": [False, True]}}

_RUNTIME_BYTES = 400 * 2**20  # torch itself with its libraries: an estimate on the safe side


def environment(cpus: Sequence[int], options: Mapping[str, Any]) -> dict[str, str]:
    """Where OpenMP's threads go, and what the options ask of oneDNN and malloc."""
    variables = _openmp.environment(cpus) | _huge_pages.environment(options)
    if options["fast_math"]:
        variables["DNNL_DEFAULT_FPMATH_MODE"] = "BF16"
    return variables


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ArmbenchError for what this machine does not have."""
    _huge_pages.check("torch", options)
    if options["fast_math"] and not set(BFLOAT16) & set(features_of(read_processors(Tree()))):
        raise ArmbenchError(
            "fast_math of torch is bfloat16 arithmetic, and this CPU has none",
            hint=f"leave it off here: it needs one of {', '.join(BFLOAT16)}",
        )


def memory_bytes(
    d: Dimensions, dtype: str, batch: int, context: int, options: Mapping[str, Any]
) -> int:
    """Peak bytes: weights as stored, one layer twice while packing, KV cache, activations."""
    tokens = batch * context
    return _bytes(d, dtype, tokens, tokens, options) + batch * d.vocabulary * 4


def serving_bytes(
    d: Dimensions, dtype: str, slots: int, context: int, chunk: int, options: Mapping[str, Any]
) -> int:
    """Peak bytes with all slots full, where a step passes `chunk` prompt tokens at most."""
    width = 2 if dtype == "bfloat16" else 4
    mask = (64 * d.heads // d.kv_heads + 8) * context * width  # as in _torch_slots
    logits = slots * d.vocabulary * 4
    return _bytes(d, dtype, slots * context, slots + chunk, options) + mask + logits


def _bytes(d: Dimensions, dtype: str, cached: int, rows: int, options: Mapping[str, Any]) -> int:
    """Weights, KV of `cached` tokens, activations of `rows` tokens, and torch itself."""
    width = 2 if dtype == "bfloat16" else 4
    embedding = d.vocabulary * d.hidden
    if dtype in _torch_kernels.KERNELS:
        tables = embedding if d.tied else 2 * embedding
        body = parameters(d) - tables
        group = 4 / _torch_kernels.GROUP  # a bfloat16 scale and a bfloat16 zero
        weights = tables + int(body * (1.01 if dtype == "int8" else 0.5 + group))
        embedding = int(1.25 * embedding)  # one in float32, and its int8 blocks before they are one
    else:
        weights = parameters(d) * width + (embedding * width if d.tied and options["packed"] else 0)
    cache = 2 * d.layers * d.kv_heads * d.head * cached * width
    activations = rows * (2 * d.intermediate + 6 * d.hidden) * width
    packing = embedding * width  # the rows on which _torch_slots tries the layers take less
    return weights + packing + cache + activations + _RUNTIME_BYTES


def stored(dtype: str, options: Mapping[str, Any]) -> Stored | None:
    """Plain floats; int8 and int4: what their kernel multiplies, and an int8 head.

    Under `fast_math` the bound is that of bfloat16, though oneDNN is only allowed to use it.
    """
    if dtype == "int8":
        exact = _torch_kernels.resolved(dtype, options["kernel"]) == "int_mm"
        return Stored(body="int8", compute="i8" if exact else "bf16", kv_element_bytes=4)
    if dtype == "int4":
        kernel = _torch_kernels.resolved(dtype, options["kernel"])
        compute = "i8" if kernel == "dyn_quant_4bit" else "bf16"
        return Stored(body="int4-g32", head="int8", compute=compute, kv_element_bytes=4)
    if dtype == "float32" and options["fast_math"]:
        return Stored(body="float32", compute="bf16", kv_element_bytes=4)
    return plain_stored(dtype)


def load(spec: EngineSpec) -> Engine:
    """The decoder of `spec.checkpoint`, in this process, on this process's threads."""
    _torch_kernels.check(spec.dtype, spec.options["kernel"])
    from harness.engines._torch_decoder import TorchEngine

    return TorchEngine(spec)
