"""PyTorch: a lean greedy decoder on the checkpoint's own weights.

Linear layers run on weights packed once for oneDNN (`packed`). On the one machine where both were
timed (AMD Zen 5, 2 threads, float32, batch 1) they read about twice the bytes per second of the
MKL path behind `torch.nn.functional.linear`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.model.architecture import Dimensions, parameters

if TYPE_CHECKING:
    from harness.engines import Engine, EngineSpec

DTYPES = ("float32", "bfloat16")
PACKAGES = ("torch", "safetensors")
TRACE = {"ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1"}
serves = True
OPTIONS: Mapping[str, Any] = {"packed": True}

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
    width = 4 if dtype == "float32" else 2
    mask = (64 * d.heads // d.kv_heads + 8) * context * width  # as in _torch_slots
    logits = slots * d.vocabulary * 4
    return _bytes(d, dtype, slots * context, slots + chunk, options) + mask + logits


def _bytes(d: Dimensions, dtype: str, cached: int, rows: int, options: Mapping[str, Any]) -> int:
    """Weights, KV of `cached` tokens, activations of `rows` tokens, and torch itself."""
    width = 4 if dtype == "float32" else 2
    embedding = d.vocabulary * d.hidden
    weights = parameters(d) * width + (embedding * width if d.tied and options["packed"] else 0)
    cache = 2 * d.layers * d.kv_heads * d.head * cached * width
    activations = rows * (2 * d.intermediate + 6 * d.hidden) * width
    packing = embedding * width  # the rows on which _torch_slots tries the layers take less
    return weights + packing + cache + activations + _RUNTIME_BYTES


def load(spec: EngineSpec) -> Engine:
    """The decoder of `spec.checkpoint`, in this process, on this process's threads."""
    from harness.engines._torch_decoder import TorchEngine

    return TorchEngine(spec)
