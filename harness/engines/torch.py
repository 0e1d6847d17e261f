"""PyTorch: a lean greedy decoder on the checkpoint's own weights.

int8 and int4 are quantised where they are loaded (`_torch_quantised`); `kernel` forces one of
their kernels. The embedding and the head are int8 in both, one matrix where they are tied.

Linear layers run on weights packed once for oneDNN (`packed`). On the one machine where both were
timed (AMD Zen 5, 2 threads, float32, batch 1) they read about twice the bytes per second of the
MKL path behind `torch.nn.functional.linear`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.engines import _torch_kernels, plain_stored
from harness.model.architecture import Dimensions, parameters
from harness.records.run import Stored

if TYPE_CHECKING:
    from harness.engines import Engine, EngineSpec

DTYPES = ("float32", "bfloat16", "int8", "int4")
PACKAGES = ("torch", "safetensors")
TRACE = {"ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1"}
serves = True
OPTIONS: Mapping[str, Any] = {"packed": True, "kernel": "auto", "compile": False}
OPTION_HELP = {
    "packed": "floats on weights packed for oneDNN, where this build of torch has them",
    "kernel": "of int8: auto, int_mm; of int4: auto, int4pack, dyn_quant_4bit (KleidiAI on Arm)",
    "compile": "norms, rotation, gate and rounding compiled by inductor; not while it serves",
}
TUNABLE: Mapping[str, Sequence[Any]] = {"compile": [False, True]}

_RUNTIME_BYTES = 400 * 2**20  # torch itself with its libraries: an estimate on the safe side


def environment(cpus: Sequence[int], options: Mapping[str, Any]) -> dict[str, str]:
    """One OpenMP thread on each of `cpus`, the calling thread on the first.

    Torch's Linux wheels carry libgomp, which reads these once, when it is loaded.
    """
    return {
        "OMP_NUM_THREADS": str(len(cpus)),
        "OMP_PLACES": ",".join(f"{{{cpu}}}" for cpu in cpus),
        "OMP_PROC_BIND": "close",
        "OMP_DYNAMIC": "false",
    }


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
        embedding *= 2  # while one is quantised, it, its quotient and its rounding exist
    else:
        weights = parameters(d) * width + (embedding * width if d.tied and options["packed"] else 0)
    cache = 2 * d.layers * d.kv_heads * d.head * cached * width
    activations = rows * (2 * d.intermediate + 6 * d.hidden) * width
    packing = embedding * width  # the rows on which _torch_slots tries the layers take less
    return weights + packing + cache + activations + _RUNTIME_BYTES


def stored(dtype: str, options: Mapping[str, Any]) -> Stored | None:
    """Plain floats; int8: exact products of 8 bits; int4: its kernel's type, and an int8 head."""
    if dtype == "int8":
        return Stored(body="int8", compute="i8", kv_element_bytes=4)
    if dtype == "int4":  # which kernel `auto` takes is known where torch is: the lower ceiling
        compute = "i8" if options["kernel"] == "dyn_quant_4bit" else "bf16"
        return Stored(body="int4-g32", head="int8", compute=compute, kv_element_bytes=4)
    return plain_stored(dtype)


def load(spec: EngineSpec) -> Engine:
    """The decoder of `spec.checkpoint`, in this process, on this process's threads."""
    _torch_kernels.check(spec.dtype, spec.options["kernel"])
    from harness.engines._torch_decoder import TorchEngine

    return TorchEngine(spec)
