"""transformers: the library's own model and cache, one forward pass for each step.

What most people run first, and the yardstick of the others. Neither `generate()` nor its
processors stand between: the loop is the harness's, so a plain timed loop shows the same speed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.engines import _openmp
from harness.errors import unknown_name
from harness.model.architecture import Dimensions, parameters

if TYPE_CHECKING:
    from harness.engines import Engine, EngineSpec

DTYPES = ("float32", "bfloat16")
PACKAGES = ("torch", "transformers", "safetensors")
OPTIONS: Mapping[str, Any] = {"attention": "sdpa", "cache": "dynamic"}
OPTION_HELP = {
    "attention": "transformers' attn_implementation: sdpa or eager",
    "cache": "dynamic grows by concatenation, static is as long as the context from the start",
}
_CHOICES = {"attention": ("sdpa", "eager"), "cache": ("dynamic", "static")}

_RUNTIME_BYTES = 600 * 2**20  # torch and transformers with their libraries: an estimate


def environment(cpus: Sequence[int], options: Mapping[str, Any]) -> dict[str, str]:
    """One OpenMP thread on each of `cpus`, the calling thread on the first."""
    return _openmp.environment(cpus)


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ArmbenchError for an attention or a cache that does not exist."""
    for key, choices in _CHOICES.items():
        if options[key] not in choices:
            raise unknown_name(f"{key} of engine transformers", str(options[key]), choices)


def memory_bytes(
    d: Dimensions, dtype: str, batch: int, context: int, options: Mapping[str, Any]
) -> int:
    """Peak bytes: weights, KV cache (twice while a dynamic one grows), activations, logits."""
    width = 4 if dtype == "float32" else 2
    tokens = batch * context
    cache = 2 * d.layers * d.kv_heads * d.head * tokens * width
    layer = cache // d.layers if options["cache"] == "dynamic" else 0  # copied one at a time
    activations = tokens * (3 * d.intermediate + 6 * d.hidden) * width
    logits = batch * d.vocabulary * 8
    return parameters(d) * width + cache + layer + activations + logits + _RUNTIME_BYTES


def load(spec: EngineSpec) -> Engine:
    """The model of `spec.checkpoint`, in this process, on this process's threads."""
    from harness.engines._transformers_model import TransformersEngine

    return TransformersEngine(spec)
