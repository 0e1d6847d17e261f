"""ONNX Runtime: raw sessions on a graph made once from the checkpoint.

`exporter = "builder"` takes onnxruntime-genai's model builder: grouped-query attention on a KV
cache that is preallocated and shared between input and output, and a head that is computed for the
last position only. `exporter = "optimum"` takes Optimum's export, whose cache grows by
concatenation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ArmbenchError, unknown_name
from harness.model.architecture import Dimensions, parameters

if TYPE_CHECKING:
    from harness.engines import Engine, EngineSpec

DTYPES = ("float32",)
PACKAGES = ("onnxruntime",)
TRACE: Mapping[str, str] = {}  # a session option does it
serves = True
OPTIONS: Mapping[str, Any] = {
    "exporter": "builder",
    "spinning": True,
    "block_base": 0,  # session.dynamic_block_base; 0: each thread takes one fixed part of the work
}
EXPORTERS = {
    "builder": ("onnxruntime_genai", "onnx_ir", "torch", "transformers"),
    "optimum": ("optimum.onnxruntime", "onnx", "torch", "transformers"),
}

_RUNTIME_BYTES = 150 * 2**20  # the library and its arenas at rest: an estimate


def environment(cpus: Sequence[int], options: Mapping[str, Any]) -> dict[str, str]:
    """ONNX Runtime has its own pool, pinned by session options; this only quiets NumPy's."""
    return {"OMP_NUM_THREADS": "1"}


def memory_bytes(
    d: Dimensions, dtype: str, batch: int, context: int, options: Mapping[str, Any]
) -> int:
    """Peak bytes: weights with packed copies beside them, KV cache, logits, activations.

    A tied head is stored twice in the graph. The copies stand beside the initialisers while the
    session is made.
    """
    rows = context if options["exporter"] == "optimum" else 1
    logits = batch * rows * d.vocabulary * 4
    return (
        _model_bytes(d)
        + 2 * _cache_bytes(d, batch * context)
        + logits
        + _activations(d, batch * context)
    )


def serving_bytes(
    d: Dimensions, dtype: str, slots: int, context: int, chunk: int, options: Mapping[str, Any]
) -> int:
    """Peak bytes with all slots full, where a step passes `chunk` prompt tokens at most."""
    logits = 2 * slots * d.vocabulary * 4
    cache = _cache_bytes(d, slots * context)
    return _model_bytes(d) + cache + logits + _activations(d, max(slots, chunk))


def _model_bytes(d: Dimensions) -> int:
    embedding = d.vocabulary * d.hidden if d.tied else 0
    return int(1.75 * 4 * (parameters(d) + embedding)) + _RUNTIME_BYTES


def _cache_bytes(d: Dimensions, tokens: int) -> int:
    return 2 * d.layers * d.kv_heads * d.head * tokens * 4


def _activations(d: Dimensions, rows: int) -> int:
    return rows * (2 * d.intermediate + 6 * d.hidden) * 4


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ArmbenchError for an exporter that does not exist."""
    if options["exporter"] not in EXPORTERS:
        raise unknown_name("exporter", str(options["exporter"]), EXPORTERS)
    if options["block_base"] < 0:
        raise ArmbenchError("block_base of onnxruntime is negative", hint="0 turns it off")


def prepare_options(dtype: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the conversion depends on: its cache key beside the checkpoint."""
    return {"dtype": dtype, "exporter": options["exporter"]}


def prepare_packages(options: Mapping[str, Any]) -> Sequence[str]:
    """Packages that the conversion needs beyond the engine's own."""
    return EXPORTERS[options["exporter"]]


def prepare_bytes(d: Dimensions, dtype: str, options: Mapping[str, Any]) -> tuple[int, int]:
    """(memory, disk) the conversion needs at its peak, in bytes.

    Estimates: Optimum is said to need about 10 GB for Qwen2.5-0.5B, five times its float32
    weights; the builder is taken at half of that. Neither was measured here.
    """
    weights = 4 * (parameters(d) + (d.vocabulary * d.hidden if d.tied else 0))
    times = {"builder": 2.5, "optimum": 5.0}[options["exporter"]]
    return int(times * weights) + 2**30, int(1.05 * weights)


def prepare(spec: EngineSpec, folder: Path) -> None:
    """Write the graph of `spec.checkpoint` to `folder`; no network, in this process.

    Raises ArmbenchError where the exporter fails to write a graph.
    """
    if spec.options["exporter"] == "builder":
        _build(spec, folder)
    else:
        _export(spec, folder)
    if not (folder / "model.onnx").is_file():
        raise ArmbenchError(f"the exporter {spec.options['exporter']} wrote no model.onnx")


def _build(spec: EngineSpec, folder: Path) -> None:
    from onnxruntime_genai.models.builder import create_model

    create_model(
        "local",
        spec.checkpoint,
        str(folder),
        {"float32": "fp32"}[spec.dtype],
        "cpu",
        str(folder / "cache"),
        prune_lm_head=True,
    )


def _export(spec: EngineSpec, folder: Path) -> None:
    from optimum.exporters.onnx import main_export

    main_export(
        spec.checkpoint,
        output=folder,
        task="text-generation-with-past",
        local_files_only=True,
        do_validation=False,
    )


def load(spec: EngineSpec) -> Engine:
    """A session on the graph in `spec.prepared`, in this process, threads on `spec.cpus`."""
    from harness.engines._onnxruntime_session import OnnxEngine

    return OnnxEngine(spec)
