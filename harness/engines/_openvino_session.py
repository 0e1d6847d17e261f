"""The compiled graph behind the openvino engine, and where its threads are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov

from harness.engines._openvino_graph import inputs
from harness.errors import ArmbenchError
from harness.model.architecture import dimensions
from harness.records.run import RuntimeThreads

if TYPE_CHECKING:
    from harness.engines import EngineSpec, Logits, Tokens


def properties(spec: EngineSpec) -> dict[str, Any]:
    """Settings of the CPU plugin: its defaults would round float32 and the KV cache to fewer bits.

    Pinning is left to it: one thread to each CPU of the process while it works, in an order of its
    own. Affinities set from here are undone whenever a thread leaves its pool.
    """
    precision = "bf16" if spec.dtype == "bfloat16" else "f32"
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(spec.options["dynamic"]),
        "INFERENCE_NUM_THREADS": len(spec.cpus),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": True,
        "ENABLE_HYPER_THREADING": spec.options["hyper_threading"],
    }


class OpenVinoEngine:
    """The engine protocol over one compiled graph, whose state is the KV cache."""

    def __init__(self, spec: EngineSpec) -> None:
        if spec.prepared is None:
            raise ArmbenchError("the openvino engine was given no converted checkpoint")
        self.d = dimensions(json.loads((Path(spec.checkpoint) / "config.json").read_text()))
        core = ov.Core()
        able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if spec.dtype == "bfloat16" and "BF16" not in able:
            raise ArmbenchError(
                f"OpenVINO computes no bfloat16 on this CPU (it names {', '.join(sorted(able))})",
                hint="take float32, int8 or int4",
            )
        graph = Path(spec.prepared) / "model.xml"
        self.compiled = core.compile_model(str(graph), "CPU", properties(spec))
        self.request = self.compiled.create_infer_request()
        self.length = 0
        self.last: Logits = np.empty((0, self.d.vocabulary), dtype=np.float32)

    def allocate(self, batch: int, context: int) -> None:
        """Nothing: the state grows with what it holds."""

    def _step(self, tokens: Tokens) -> Tokens:
        batch, count = tokens.shape
        end = self.length + count
        fed = inputs(self.d, batch, self.length, end) | {"tokens": np.ascontiguousarray(tokens)}
        self.request.infer(fed)
        self.length = end
        self.last = self.request.get_tensor("logits").data[:, -1]
        picked: Tokens = self.last.argmax(axis=-1)
        return picked

    def prefill(self, tokens: Tokens) -> Tokens:
        self.request.reset_state()
        self.length = 0
        return self._step(tokens)

    def decode(self, tokens: Tokens) -> Tokens:
        return self._step(tokens[:, None])

    def logits(self) -> Logits:
        return self.last.copy()

    def facts(self) -> dict[str, Any]:
        """Versions, and the primitives that the plugin chose, each with its count."""
        chosen: dict[str, int] = {}
        for node in self.compiled.get_runtime_model().get_ordered_ops():
            about = node.get_rt_info()
            kind = _text(about["layerType"])
            if kind in {"FullyConnected", "ScaledDotProductAttention", "MatMul", "RoPE", "RMS"}:
                name = f"{kind} {_text(about['primitiveType'])}"
                chosen[name] = chosen.get(name, 0) + 1
        return {
            "openvino": ov.__version__,
            "primitives": [f"{name} ×{count}" for name, count in sorted(chosen.items())],
            "kv_cache": str(self.compiled.get_property("KV_CACHE_PRECISION")),
        }

    def runtime(self) -> RuntimeThreads:
        return RuntimeThreads(
            runtime="openvino",
            compute=int(self.compiled.get_property("INFERENCE_NUM_THREADS")),
            interop=int(self.compiled.get_property("NUM_STREAMS")),
            reason="OpenVINO pins its threads while they work, and does not tell where",
        )


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))
