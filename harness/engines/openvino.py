"""OpenVINO's CPU plugin on a graph that is written here from the checkpoint's own tensors.

float32 and bfloat16 are inference precisions. int8 (one scale for each row) and int4 (one for each
32 values) are weights that are multiplied in float32, or, with `dynamic` groups, by activations
rounded to 8 bits group by group. No exporter and none of OpenVINO's other packages are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ArmbenchError
from harness.model.architecture import Dimensions, parameters
from harness.records.run import Stored

if TYPE_CHECKING:
    from harness.engines import Engine, EngineSpec

DTYPES = ("float32", "bfloat16", "int8", "int4")
PACKAGES = ("openvino", "safetensors")
OPTIONS: Mapping[str, Any] = {"dynamic": 32, "hyper_threading": True}
OPTION_HELP: Mapping[str, str] = {
    "dynamic": "values that share a scale when int8 and int4 round activations; 0: they do not",
    "hyper_threading": "whether two threads may share a physical core",
}
_WIDTHS = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5 + 4 / 32}
_RUNTIME_BYTES = 250 * 2**20  # the library, its graph and its kernels: an estimate


def environment(cpus: Sequence[int], options: Mapping[str, Any]) -> dict[str, str]:
    """OpenVINO has a pool of its own, which pins itself; this only quiets NumPy's."""
    return {"OMP_NUM_THREADS": "1"}


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ArmbenchError for a group size below nothing."""
    if options["dynamic"] < 0:
        raise ArmbenchError("option dynamic of openvino is negative", hint="0 turns it off")


def stored(dtype: str, options: Mapping[str, Any]) -> Stored:
    """Weights as named; int8 and int4 multiply in 8 bits where activations are rounded too."""
    if dtype == "bfloat16":
        return Stored(body="bfloat16", compute="bf16", kv_element_bytes=2)
    if dtype == "float32":
        return Stored(body="float32", compute="f32", kv_element_bytes=4)
    compute = "i8" if options["dynamic"] else "f32"
    body = {"int8": "int8", "int4": "int4-g32"}[dtype]
    return Stored(body=body, compute=compute, kv_element_bytes=4)


def memory_bytes(
    d: Dimensions, dtype: str, batch: int, context: int, options: Mapping[str, Any]
) -> int:
    """Peak bytes: weights mapped from the file and packed beside it, state, activations."""
    width = 2 if dtype == "bfloat16" else 4
    state = 2 * d.layers * d.kv_heads * d.head * batch * context * width
    activations = batch * context * (2 * d.intermediate + 6 * d.hidden) * 4
    logits = batch * d.vocabulary * 4
    return 2 * _graph_bytes(d, dtype) + 2 * state + activations + logits + _RUNTIME_BYTES


def _graph_bytes(d: Dimensions, dtype: str) -> int:
    """Bytes of the graph's constants; a tied head is there once."""
    return int(parameters(d) * _WIDTHS[dtype])


def prepare_options(dtype: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the conversion depends on: its cache key beside the checkpoint."""
    return {"dtype": dtype, "graph": 1}  # the number rises when the graph is written differently


def prepare_packages(options: Mapping[str, Any]) -> Sequence[str]:
    """Packages that the conversion needs: torch reads bfloat16, which NumPy does not know."""
    return ("openvino", "safetensors", "torch")


def prepare_bytes(d: Dimensions, dtype: str, options: Mapping[str, Any]) -> tuple[int, int]:
    """(memory, disk) of the conversion at its peak: constants, and the largest matrix thrice.

    Measured for Qwen2.5-0.5B in int8 and int4: 1.8 GiB, most of it the table of tokens.
    """
    graph, largest = _graph_bytes(d, dtype), 4 * d.vocabulary * d.hidden
    return graph + 3 * largest + 2**29, int(1.05 * graph) + 2**20


def prepare(spec: EngineSpec, folder: Path) -> None:
    """Write the graph of `spec.checkpoint` to `folder`, in this process."""
    from harness.engines._openvino_weights import write

    write(Path(spec.checkpoint), spec.dtype, folder)


def load(spec: EngineSpec) -> Engine:
    """The compiled graph in `spec.prepared`, in this process, threads on `spec.cpus`."""
    from harness.engines._openvino_session import OpenVinoEngine

    return OpenVinoEngine(spec)
