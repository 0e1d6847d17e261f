"""A Qwen2 or Qwen3 checkpoint as one GGUF file, for llama.cpp. Loaded in a child only.

Sources: ggml's docs/gguf.md for the container and the general, attention, rope and tokenizer keys;
the package gguf for tensor names of the architectures qwen2 and qwen3.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import gguf
import numpy as np

from harness.engines._gguf_tokenizer import add_tokenizer
from harness.errors import ArmbenchError, unknown_name
from harness.model.architecture import tensor_shapes
from harness.model.checkpoint import Checkpoint, open_folder, read_header, tensor_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

Dtype = Literal["float32", "float16", "bfloat16"]
FAMILIES = ("qwen2", "qwen3")
_BLOCK = 1 << 22  # values converted at a time

_FLOAT32 = gguf.GGMLQuantizationType.F32
_STORED = {
    "float32": (_FLOAT32, gguf.LlamaFileType.ALL_F32),
    "float16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
_ARRAY: dict[gguf.GGMLQuantizationType, np.dtype[Any]] = {
    _FLOAT32: np.dtype("<f4"),
    gguf.GGMLQuantizationType.F16: np.dtype("<f2"),
    gguf.GGMLQuantizationType.BF16: np.dtype("<u2"),  # NumPy has no bfloat16: its bits
}
_SOURCE: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}

_OUTER = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class _Tensor(NamedTuple):
    """One tensor as it will lie in the GGUF file, and where its values come from."""

    name: str
    shape: tuple[int, ...]
    stored: gguf.GGMLQuantizationType
    file: Path
    offset: int
    dtype: str


def tensor_name(name: str) -> str:
    """GGUF's name of checkpoint tensor `name`. Raises KeyError for one that it has no name for."""
    module, _, kind = name.rpartition(".")
    if module in _OUTER:
        return f"{_OUTER[module]}.{kind}"
    layer, _, part = module.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_LAYER[part]}.{kind}"


def write_gguf(folder: Path, file: Path, dtype: Dtype) -> None:
    """Write the checkpoint in `folder` to `file`, which appears only when it is complete.

    Matrices are stored in `dtype`, norms and biases in float32 as llama.cpp expects. A tied head
    is not written twice. Raises ArmbenchError for another architecture, a tokenizer that
    llama.cpp would cut differently, a value beyond float16.
    """
    if dtype not in _STORED:
        raise unknown_name("dtype of a GGUF file", dtype, _STORED)
    checkpoint = open_folder(folder)
    if checkpoint.dimensions.family not in FAMILIES:
        raise unknown_name("architecture for GGUF", checkpoint.dimensions.family, FAMILIES)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        _write(checkpoint, draft, dtype)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _write(checkpoint: Checkpoint, file: Path, dtype: Dtype) -> None:
    stored, kind = _STORED[dtype]
    writer = gguf.GGUFWriter(file, checkpoint.dimensions.family)
    try:
        _add_sizes(writer, checkpoint)
        writer.add_file_type(kind)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        add_tokenizer(writer, checkpoint.folder, checkpoint.dimensions.vocabulary)
        tensors = list(_tensors(checkpoint, stored))
        for t in tensors:
            array = _ARRAY[t.stored]
            size = math.prod(t.shape) * array.itemsize
            writer.add_tensor_info(t.name, t.shape, array, size, raw_dtype=t.stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for t in tensors:
            writer.write_tensor_data(_values(t))
    finally:
        writer.close()


def _add_sizes(writer: gguf.GGUFWriter, checkpoint: Checkpoint) -> None:
    d = checkpoint.dimensions
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(checkpoint.name)
    writer.add_context_length(d.context)
    writer.add_embedding_length(d.hidden)
    writer.add_block_count(d.layers)
    writer.add_feed_forward_length(d.intermediate)
    writer.add_head_count(d.heads)
    writer.add_head_count_kv(d.kv_heads)
    writer.add_key_length(d.head)
    writer.add_value_length(d.head)
    writer.add_layer_norm_rms_eps(d.norm_eps)
    writer.add_rope_freq_base(d.rope_theta)
    writer.add_vocab_size(d.vocabulary)


def _tensors(checkpoint: Checkpoint, stored: gguf.GGMLQuantizationType) -> Iterator[_Tensor]:
    """Every tensor of the checkpoint in the order of its layers."""
    folder = checkpoint.folder
    files = tensor_files(folder)
    headers = {name: read_header(folder / name) for name in set(files.values())}
    starts = {name: _data_start(folder / name) for name in headers}
    for name, shape in tensor_shapes(checkpoint.dimensions).items():
        held = files[name]
        entry = headers[held][name]
        yield _Tensor(
            name=tensor_name(name),
            shape=shape,
            stored=stored if len(shape) > 1 else _FLOAT32,
            file=folder / held,
            offset=starts[held] + entry["data_offsets"][0],
            dtype=entry["dtype"],
        )


def _data_start(file: Path) -> int:
    with file.open("rb") as opened:
        return 8 + int.from_bytes(opened.read(8), "little")


def _values(t: _Tensor) -> NDArray[Any]:
    """The tensor's values as they are stored; converted in blocks, to bound the memory."""
    count = math.prod(t.shape)
    source: NDArray[Any] = np.memmap(t.file, _SOURCE[t.dtype], "r", t.offset, (count,))
    if t.dtype == "BF16" and t.stored == gguf.GGMLQuantizationType.BF16:
        return source.reshape(t.shape)
    result: NDArray[Any] = np.empty(count, _ARRAY[t.stored])
    for start in range(0, count, _BLOCK):
        part = slice(start, start + _BLOCK)
        result[part] = _converted(_float32(source[part], t.dtype), t)
    return result.reshape(t.shape)


def _float32(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _converted(values: NDArray[np.float32], t: _Tensor) -> NDArray[Any]:
    if t.stored == gguf.GGMLQuantizationType.BF16:  # rounded to nearest, ties to even
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    if t.stored == gguf.GGMLQuantizationType.F16:
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not np.isfinite(halves).all() and np.isfinite(values).all():
            raise ArmbenchError(
                f"{t.file} holds a value in {t.name} that float16 cannot",
                hint="write the GGUF file in bfloat16 or float32",
            )
        return halves
    return values
