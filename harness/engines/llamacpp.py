"""llama.cpp through its Python binding: one GGUF file, written once from the checkpoint.

The binding's low-level interface is driven directly (`llama_decode` on our own batches), so that a
step costs what llama.cpp's own loop costs. `scripts/build-llamacpp` builds and installs it for this
CPU, with llama-bench and llama-server from the same objects.

Serving: one `llama_decode` a step, each sequence in a cache of its own. Whether its bits depend on
what else a step holds is a matter of kernels. On x86 (AVX-512) they did not for q8_0, q4_0 and
blocks of 32 in q4_k_m without flash attention, which `flash = "auto"` therefore means for slots
(for batches it means what llama-bench does). With flash attention sums depend on how far the
longest sequence reaches; f16 and float32 products, and super-blocks of 256 once four rows stand
together, take other kernels by the number of rows. There a token may change where two logits
nearly tie: seen at most 2e-3 (f16) and 8e-2 (q4_k_m) standard deviations of the logits.

llama.cpp decides tensor by tensor what a quantised file holds: the head has more bits than the
body, rows that no super-block of 256 divides take blocks of 32. `stored` names that mixture and
`model.footprint` counts its bytes, which a test holds against real files.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engines import _openmp
from harness.errors import ArmbenchError, unknown_name
from harness.model.architecture import Dimensions, parameters
from harness.model.footprint import ModelShape, Quantisation, weight_format
from harness.records.run import Stored

if TYPE_CHECKING:
    from harness.engines import Engine, EngineSpec

DTYPES = ("f16", "q8_0", "q4_0", "q4_k_m", "float32", "bfloat16")
PACKAGES = ("llama_cpp",)
TRACE: Mapping[str, str] = {}  # a callback of llama.cpp's scheduler does it
serves = True
OPTIONS: Mapping[str, Any] = {
    "mmap": True,
    "repack": True,
    "flash": "auto",
    "kv": "auto",
    "ubatch": 512,
}
OPTION_HELP: Mapping[str, str] = {
    "mmap": "weights mapped from the file, so that all instances have them in memory once",
    "repack": "weights rearranged for this CPU's kernels, in memory of the process's own",
    "flash": "attention in one pass over the keys: auto, on, off",
    "kv": "type of the KV cache: f16, f32, q8_0; auto is f32 beside float32 weights, else f16",
    "ubatch": "rows that pass the layers at once",
}
FILE, TENSORS = "model.gguf", "tensors.json"  # what a conversion's folder holds
WRITER = 1  # rises when _gguf writes the same file differently
FLASH = ("auto", "on", "off")
KV_BYTES = {"f16": 2.0, "f32": 4.0, "q8_0": 34 / 32}
MOST_SLOTS = 256  # LLAMA_MAX_SEQ of llama.cpp's llama-cparams.h

# By dtype: body and head as `model.footprint` names them, and what the products are computed in.
# Quantised weights meet activations quantised to int8. Half-float weights are widened to float32 on
# x86; on Arm they multiply as half floats, for which no ceiling is measured.
_STORED: dict[str, tuple[str, str | None, str]] = {
    "f16": ("gguf-f16", None, "f32" if platform.machine() == "x86_64" else "f16"),
    "bfloat16": ("gguf-bf16", None, "bf16"),
    "float32": ("float32", None, "f32"),
    "q8_0": ("q8_0", None, "i8"),
    "q4_0": ("q4_0", "q6_k", "i8"),
    "q4_k_m": ("q4_k_m", None, "i8"),
}
# What ggml rearranges, from AVX2 or the dot-product instructions on; without them nothing.
# Source: ggml_repack_get_optimal_repack_type in ggml-cpu/repack.cpp of ggml 0.25.
_REPACKED = {
    "x86_64": ("q4_0", "q4_k"),
    "aarch64": ("q4_0", "q4_k", "q6_k", "q8_0"),
}
_RUNTIME_BYTES = 120 * 2**20  # Python, NumPy, the library: an estimate


def environment(cpus: Sequence[int], options: Mapping[str, Any]) -> dict[str, str]:
    """One OpenMP thread on each of `cpus`, the calling thread on the first."""
    quiet = {"OPENBLAS_NUM_THREADS": "1"}  # NumPy's, which has nothing to do here
    return _openmp.environment(cpus) | quiet


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ArmbenchError for a value that llama.cpp does not know, or cannot combine."""
    if options["flash"] not in FLASH:
        raise unknown_name("value of flash", str(options["flash"]), FLASH)
    if options["kv"] not in ("auto", *KV_BYTES):
        raise unknown_name("KV type", str(options["kv"]), ("auto", *KV_BYTES))
    if options["kv"] == "q8_0" and options["flash"] == "off":
        raise ArmbenchError(
            "llama.cpp quantises the KV cache only under flash attention",
            hint="set flash to auto or on, or kv to f16",
        )
    if options["ubatch"] < 1:
        raise ArmbenchError("ubatch of llamacpp must be at least 1", hint="512 is llama.cpp's own")


def kv_type(dtype: str, options: Mapping[str, Any]) -> str:
    """The type of the KV cache, resolved."""
    auto = "f32" if dtype == "float32" else "f16"
    return auto if options["kv"] == "auto" else str(options["kv"])


def stored(dtype: str, options: Mapping[str, Any]) -> Stored:
    """What the GGUF file of `dtype` holds, and the KV cache."""
    body, head, compute = _STORED[dtype]
    kv = KV_BYTES[kv_type(dtype, options)]
    return Stored(body=body, head=head, compute=compute, kv_element_bytes=kv)


def weights(d: Dimensions, dtype: str) -> dict[str, int]:
    """Bytes of the GGUF file's tensors by the name of their format."""
    body, head, _ = _STORED[dtype]
    scheme = Quantisation.of(body)
    if head:
        scheme = Quantisation(body=scheme.body, head=weight_format(head))
    return ModelShape(d).bytes_by_format(scheme)


def _repacked(d: Dimensions, dtype: str, options: Mapping[str, Any]) -> int:
    """Bytes that are copied into memory of the process's own, in another order."""
    rearranged = _REPACKED.get(platform.machine(), ()) if options["repack"] else ()
    return sum(size for name, size in weights(d, dtype).items() if name in rearranged)


def shared_bytes(d: Dimensions, dtype: str, options: Mapping[str, Any]) -> int:
    """Bytes of weights that processes on the same file have in common: mapped and not repacked."""
    if not options["mmap"]:
        return 0
    return sum(weights(d, dtype).values()) - _repacked(d, dtype, options)


def memory_bytes(
    d: Dimensions, dtype: str, batch: int, context: int, options: Mapping[str, Any]
) -> int:
    """Peak bytes: the file, what is repacked of it beside it, KV cache, activations, logits."""
    return serving_bytes(d, dtype, batch, context, batch * context, options)


def serving_bytes(
    d: Dimensions, dtype: str, slots: int, context: int, chunk: int, options: Mapping[str, Any]
) -> int:
    """Peak bytes with `slots` sequences of `context` tokens; the cache is written when it is made.

    The file's pages count while the weights are repacked, though the kernel may drop them after.
    """
    file, copies = sum(weights(d, dtype).values()), _repacked(d, dtype, options)
    room = -(-context // 256) * 256  # as llama.cpp rounds it
    cache = 2 * d.layers * d.kv_heads * d.head * slots * room * KV_BYTES[kv_type(dtype, options)]
    rows = min(options["ubatch"], max(slots, chunk))
    scores = 0 if options["flash"] == "on" else d.heads * rows * room * 4
    activations = rows * (3 * d.intermediate + 8 * d.hidden) * 4 + scores
    logits = 2 * slots * d.vocabulary * 4
    return int(file + copies + cache + activations + logits) + _RUNTIME_BYTES


def prepare_options(dtype: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the conversion depends on: its cache key beside the checkpoint."""
    try:
        version = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        version = "absent"
    return {"dtype": dtype, "llama-cpp-python": version, "writer": WRITER}


def prepare_packages(options: Mapping[str, Any]) -> Sequence[str]:
    """Packages that the conversion needs beyond the engine's own."""
    return ("gguf",)


def prepare_bytes(d: Dimensions, dtype: str, options: Mapping[str, Any]) -> tuple[int, int]:
    """(memory, disk) the conversion needs at its peak, in bytes.

    The largest tensor is held in float32 beside its source and its result; a quantised file is
    made from one in the checkpoint's own dtype, here taken as float32.
    """
    largest = max(d.vocabulary, d.intermediate) * d.hidden
    whole = 4 * parameters(d) if dtype.startswith("q") else 0
    return 10 * largest + 2**29, int(1.02 * (sum(weights(d, dtype).values()) + whole)) + 2**26


def prepare(spec: EngineSpec, folder: Path) -> None:
    """Write the GGUF file of `spec.checkpoint` to `folder`, in this process."""
    from harness.engines._llamacpp_convert import convert

    convert(spec, folder)


def gguf_file(spec: EngineSpec) -> Path:
    """The file that the engine loads. Raises ArmbenchError where nothing was converted."""
    if spec.prepared is None:
        raise ArmbenchError("the llamacpp engine was given no converted checkpoint")
    return Path(spec.prepared) / FILE


def load(spec: EngineSpec) -> Engine:
    """llama.cpp on the GGUF file in `spec.prepared`, in this process, on its OpenMP threads."""
    from harness.engines._llamacpp_engine import LlamaEngine

    return LlamaEngine(spec)
