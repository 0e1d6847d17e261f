"""onnxruntime-genai: Microsoft's generation loop on ONNX Runtime, over the builder's graph.

The graph is the one of engine onnxruntime. The library keeps the KV cache, picks the tokens and
batches by itself: all sequences of a batch begin together, with prompts of one length. Its other
loop, `Engine`, for requests that come and go, stops at a graph whose head is computed for the last
position only (0.14.1: "invalid dimensions for output: logits"). So this engine does not serve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engines import onnxruntime as raw
from harness.model.architecture import Dimensions

if TYPE_CHECKING:
    from harness.engines import Engine, EngineSpec
    from harness.records.run import Stored

DTYPES = raw.DTYPES
PACKAGES = ("onnxruntime_genai",)
TRACE: Mapping[str, str] = {}  # a session option does it
KLEIDIAI = True
CONVERSION_OF = "onnxruntime"  # one graph for both
OPTIONS: Mapping[str, Any] = {k: v for k, v in raw.OPTIONS.items() if k != "exporter"}
OPTION_HELP: Mapping[str, str] = {k: raw.OPTION_HELP[k] for k in OPTIONS}
TUNABLE, TUNABLE_IN, NEUTRAL = raw.TUNABLE, raw.TUNABLE_IN, raw.NEUTRAL


def _as_raw(options: Mapping[str, Any]) -> dict[str, Any]:
    return {**options, "exporter": "builder"}


def environment(cpus: Sequence[int], options: Mapping[str, Any]) -> dict[str, str]:
    """As of engine onnxruntime; threads are the session's."""
    return raw.environment(cpus, _as_raw(options))


def memory_bytes(
    d: Dimensions, dtype: str, batch: int, context: int, options: Mapping[str, Any]
) -> int:
    """Peak bytes: the raw session's, and the library's copies of the logits."""
    copies = 3 * batch * d.vocabulary * 4
    return raw.memory_bytes(d, dtype, batch, context, _as_raw(options)) + copies


def stored(dtype: str, options: Mapping[str, Any]) -> Stored:
    """How the graph keeps the model."""
    return raw.stored(dtype, _as_raw(options))


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ArmbenchError for a choice that does not exist, or not on this machine."""
    raw.check_choices("onnxruntime_genai", options)


def prepare_options(dtype: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the conversion depends on: the same as engine onnxruntime's."""
    return raw.prepare_options(dtype, _as_raw(options))


def prepare_packages(options: Mapping[str, Any]) -> Sequence[str]:
    """Packages that the conversion needs beyond the engine's own."""
    return raw.prepare_packages(_as_raw(options))


def prepare_bytes(d: Dimensions, dtype: str, options: Mapping[str, Any]) -> tuple[int, int]:
    """(memory, disk) the conversion needs at its peak, in bytes."""
    return raw.prepare_bytes(d, dtype, _as_raw(options))


def prepare(spec: EngineSpec, folder: Path) -> None:
    """Write the graph of `spec.checkpoint` to `folder`, as engine onnxruntime does."""
    import msgspec

    raw.prepare(msgspec.structs.replace(spec, options=_as_raw(spec.options)), folder)


def load(spec: EngineSpec) -> Engine:
    """A generator on the graph in `spec.prepared`, in this process, threads on `spec.cpus`."""
    from harness.engines._genai_generator import GenaiEngine

    return GenaiEngine(spec)
