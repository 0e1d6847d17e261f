"""ONNX Runtime: raw sessions on a graph made once from the checkpoint.

`exporter = "builder"` takes onnxruntime-genai's model builder: grouped-query attention on a KV
cache that is preallocated and shared between input and output, and a head that is computed for the
last position only. `exporter = "optimum"` takes Optimum's export, whose cache grows by
concatenation.

int4, and int8 unless told otherwise, are MatMulNBits: blocks of `block_size` weights share a
float32 scale, and at `accuracy_level` 4 each block of activations is quantised to 8 bits as well.
`int8 = "dynamic"` has one scale for each output channel and one for the activations of a whole
product, all rows of it together: it cannot serve.

Tokens per second of Qwen2.5-0.5B's shape, prompt 512, output 128, two threads of a Xeon with
AVX-512 VNNI, ONNX Runtime 1.32, other work 0.05 to 0.1 cores, n of 1 to 3:

    setting               prefill      decode
    float32               300          12.7
    int8, blocks of 128   350          36.3
    int8, dynamic         693          39.9
    int4, blocks of 32    225 to 238   38.6 to 41.6
    int4, blocks of 64    255 to 260   44.2 to 46.6
    int4, blocks of 128   309 to 326   46.5 to 49.4
    int4, blocks of 256   336          46.1

So 128 is the default; `block_base` 4 or 8 changed nothing beyond noise, `spinning` off cost a
tenth. int8 stays at blocks, the slower, because only they serve.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engines import _huge_pages
from harness.errors import ArmbenchError, unknown_name
from harness.machine.cpuinfo import features_of, read_processors
from harness.machine.tree import Tree
from harness.model.architecture import Dimensions
from harness.model.footprint import ModelShape, Quantisation, weight_format
from harness.records.run import Stored

if TYPE_CHECKING:
    from harness.engines import Engine, EngineSpec

DTYPES = ("float32", "int8", "int4")
PACKAGES = ("onnxruntime",)
TRACE: Mapping[str, str] = {}  # a session option does it
serves = True
KLEIDIAI = True
OPTIONS: Mapping[str, Any] = {
    "exporter": "builder",
    "int8": "nbits",
    "block_size": 128,
    "symmetric": True,
    "accuracy_level": 4,
    "head": "body",
    "spinning": True,
    "block_base": 0,
    "fast_math": False,
    "kleidiai": True,
    "huge_pages": False,
}
OPTION_HELP: Mapping[str, str] = {
    "exporter": "builder: onnxruntime-genai's, with a KV cache in place; optimum: Optimum's export",
    "int8": "nbits: scales by block, serves; dynamic: one scale for a product's activations",
    "block_size": "weights of MatMulNBits that share a scale: 16, 32, 64, 128, 256",
    "symmetric": "no zero points beside the scales of MatMulNBits",
    "accuracy_level": "what MatMulNBits computes in: 4 int8, 1 float32, 0 as the library likes",
    "head": "format of the head: body (as the rest), int8, float32",
    "spinning": "whether idle threads of the pool spin for a while",
    "block_base": "session.dynamic_block_base: parts of work shrink; 0: one fixed part a thread",
    "fast_math": "float32 products by bfloat16 instructions, on Arm",
    "kleidiai": "Arm's own kernels, where the library was built with them",
    "huge_pages": _huge_pages.HELP,
}
TUNABLE: Mapping[str, Sequence[Any]] = {"spinning": [True, False], "huge_pages": [False, True]}
NEUTRAL = ("spinning", "huge_pages")
TUNABLE_IN: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "float32": {"fast_math": [False, True]},
    "int8": {"int8": ["nbits", "dynamic"]},
}
# With what each needs; onnxruntime's own quantisers write the products of int8 and int4.
EXPORTERS = {
    "builder": ("onnxruntime_genai", "onnxruntime", "onnx", "onnx_ir", "torch", "transformers"),
    "optimum": ("optimum.onnxruntime", "onnxruntime", "onnx", "onnx_ir", "torch", "transformers"),
}
GRAPH = 1  # rises when _onnxruntime_build writes the same graph differently
CHOICES: Mapping[str, Sequence[Any]] = {
    "int8": ("nbits", "dynamic"),
    "block_size": (16, 32, 64, 128, 256),
    "accuracy_level": (0, 1, 4),  # 2 and 3 are half precision, which no kernel of MLAS takes here
    "head": ("body", "int8", "float32"),
}

_INT8_LEVEL = 4  # the accuracy level of MatMulNBits that quantises activations
# Peak bytes for each byte of weights that are multiplied with, which kernels repack while the file
# is mapped beside. By the peak resident size at Qwen2.5-0.5B's shape: 1.2 for float32 (n = 2); in
# 8 and 4 bits (n = 8) it never came to 1, taken with care. Optimum's was not measured.
_COPIES = {"float32": 1.25, "int8": 1.5, "int4": 1.5}
_OPTIMUM_COPIES = 1.75
_OPTIMUM_TIMES = 5.0
_RUNTIME_BYTES = 150 * 2**20  # the library and its arenas at rest: an estimate


def environment(cpus: Sequence[int], options: Mapping[str, Any]) -> dict[str, str]:
    """ONNX Runtime has its own pool, pinned by session options; this quiets NumPy's."""
    return {"OMP_NUM_THREADS": "1"} | _huge_pages.environment(options)


def memory_bytes(
    d: Dimensions, dtype: str, batch: int, context: int, options: Mapping[str, Any]
) -> int:
    """Peak bytes: weights with packed copies beside them, KV cache, logits, activations."""
    rows = context if options["exporter"] == "optimum" else 1
    logits = batch * rows * d.vocabulary * 4
    return (
        model_bytes(d, dtype, options)
        + 2 * cache_bytes(d, batch * context)
        + logits
        + activation_bytes(d, batch * context)
    )


def serving_bytes(
    d: Dimensions, dtype: str, slots: int, context: int, chunk: int, options: Mapping[str, Any]
) -> int:
    """Peak bytes with all slots full, where a step passes `chunk` prompt tokens at most."""
    logits = 2 * slots * d.vocabulary * 4
    cache = cache_bytes(d, slots * context)
    rows = activation_bytes(d, max(slots, chunk))
    return model_bytes(d, dtype, options) + cache + logits + rows


def model_bytes(d: Dimensions, dtype: str, options: Mapping[str, Any]) -> int:
    """Peak bytes of a session without its cache."""
    copies = _OPTIMUM_COPIES if options["exporter"] == "optimum" else _COPIES[dtype]
    embedding = _embedding_bytes(d)
    products = stored_bytes(d, dtype, options) - embedding
    return int(copies * products) + embedding + _RUNTIME_BYTES


def shared_bytes(d: Dimensions, dtype: str, options: Mapping[str, Any]) -> int:
    """Bytes of the peak that a further instance does not take: the embedding, mapped from the file.

    Products are repacked in memory of each instance's own, and so is a float32 embedding that is
    the transposed head.
    """
    mapped = dtype != "float32" and not uses_dynamic(dtype, options)
    return _embedding_bytes(d) if mapped else 0


def _embedding_bytes(d: Dimensions) -> int:
    return 4 * d.vocabulary * d.hidden


def stored_bytes(d: Dimensions, dtype: str, options: Mapping[str, Any]) -> int:
    """Bytes of the graph's weights: the embedding stays float32, beside the head."""
    kept = stored(dtype, options)
    head = weight_format(kept.head) if kept.head else None
    scheme = Quantisation(
        body=weight_format(kept.body), head=head, embedding=weight_format("float32")
    )
    return ModelShape(d).weight_bytes(scheme)


def cache_bytes(d: Dimensions, tokens: int) -> int:
    """Bytes of the KV cache of `tokens` tokens."""
    return 2 * d.layers * d.kv_heads * d.head * tokens * 4


def activation_bytes(d: Dimensions, rows: int) -> int:
    """Bytes of what a layer works on while it passes `rows` tokens."""
    return rows * (2 * d.intermediate + 6 * d.hidden) * 4


def stored(dtype: str, options: Mapping[str, Any]) -> Stored:
    """How the graph keeps the model, as written: MatMulNBits repacks it, with the same bytes."""
    body = _format(dtype, options)
    head = body if dtype == "float32" or options["head"] == "body" else options["head"]
    return Stored(
        body=body,
        head=None if head == body else _format(head, options),
        compute=_compute(dtype, options),
        kv_element_bytes=4,
    )


def _format(dtype: str, options: Mapping[str, Any]) -> str:
    if dtype == "float32" or uses_dynamic(dtype, options):
        return dtype
    return f"{dtype}-g{options['block_size']}" + ("" if options["symmetric"] else "-zero")


def _compute(dtype: str, options: Mapping[str, Any]) -> str:
    if dtype == "float32":
        return "bf16" if options["fast_math"] else "f32"
    exact = options["accuracy_level"] != _INT8_LEVEL and not uses_dynamic(dtype, options)
    return "f32" if exact else "i8"


def uses_dynamic(dtype: str, options: Mapping[str, Any]) -> bool:
    """Whether products have their activations quantised all together."""
    return dtype == "int8" and options["int8"] == "dynamic"


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ArmbenchError for a choice that does not exist, or not on this machine."""
    if options["exporter"] not in EXPORTERS:
        raise unknown_name("exporter", str(options["exporter"]), EXPORTERS)
    check_choices("onnxruntime", options)


def check_choices(engine: str, options: Mapping[str, Any]) -> None:
    """Raise ArmbenchError where one of `options` of `engine` has a value that it can't have."""
    for key, values in CHOICES.items():
        if options[key] not in values:
            raise ArmbenchError(
                f"{key} of {engine} is {options[key]!r}",
                hint=f"one of {', '.join(map(str, values))}",
            )
    if options["block_base"] < 0:
        raise ArmbenchError(f"block_base of {engine} is negative", hint="0 turns it off")
    if options["fast_math"] and platform.machine() != "aarch64":
        raise ArmbenchError(
            f"fast_math of {engine} is bfloat16 arithmetic of Arm CPUs, and this machine is "
            f"{platform.machine()}",
            hint="leave it off here",
        )
    if options["fast_math"] and "bf16" not in features_of(read_processors(Tree())):
        raise ArmbenchError(
            f"fast_math of {engine} is bfloat16 arithmetic, and this CPU has none",
            hint="leave it off here: it needs bf16",
        )
    _huge_pages.check(engine, options)


def prepare_options(dtype: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the conversion depends on: its cache key beside the checkpoint."""
    wanted = {"dtype": dtype, "exporter": options["exporter"], "graph": GRAPH}
    if dtype == "float32":
        return wanted
    wanted["head"] = options["head"]
    if uses_dynamic(dtype, options):
        return wanted | {"int8": "dynamic", "reduce_range": reduced_range()}
    return wanted | {k: options[k] for k in ("block_size", "symmetric", "accuracy_level")}


def reduced_range() -> bool:
    """Whether weights must keep to 7 bits here, lest sums of their products overflow.

    Without VNNI, x86 adds two products in 16 bits, which saturate where weights have all 8 bits
    (ONNX Runtime's documentation, Quantize ONNX Models, on `reduce_range`).
    """
    features = features_of(read_processors(Tree()))
    return platform.machine() == "x86_64" and not {"avx512_vnni", "avx_vnni"} & set(features)


def prepare_packages(options: Mapping[str, Any]) -> Sequence[str]:
    """Packages that the conversion needs beyond the engine's own."""
    return EXPORTERS[options["exporter"]]


def prepare_bytes(d: Dimensions, dtype: str, options: Mapping[str, Any]) -> tuple[int, int]:
    """(memory, disk) the conversion needs at its peak, in bytes.

    By the peak resident size of the converting child at Qwen2.5-0.5B's shape, in float32 weights
    with the embedding apart from the head, beyond half a GiB: 1.45 times for float32, 1.75 for
    blocks of 4 bits, 2.0 of 8, 4.1 for dynamic int8 (n = 1 each, another n = 5 a little lower).
    Optimum is said to need about 10 GB for it; that was not measured.
    """
    whole = stored_bytes(d, "float32", options)
    times = 4.3 if uses_dynamic(dtype, options) else 2.1
    times = _OPTIMUM_TIMES if options["exporter"] == "optimum" else times
    kept = stored_bytes(d, dtype, options)
    return int(times * whole) + 2**29, int(1.05 * (whole + (0 if dtype == "float32" else kept)))


def prepare(spec: EngineSpec, folder: Path) -> None:
    """Write the graph of `spec.checkpoint` to `folder`; no network, in this process.

    Raises ArmbenchError where the exporter fails to write a graph.
    """
    from harness.engines._onnxruntime_build import make

    make(spec, folder)


def load(spec: EngineSpec) -> Engine:
    """A session on the graph in `spec.prepared`, in this process, threads on `spec.cpus`."""
    from harness.engines._onnxruntime_session import OnnxEngine

    return OnnxEngine(spec)
