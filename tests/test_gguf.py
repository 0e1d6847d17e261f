"""GGUF files: every value of the checkpoint, under llama.cpp's names, with its tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import ArmbenchError
from harness.model.architecture import tensor_shapes
from harness.model.checkpoint import open_folder, read_header, tensor_files

gguf = pytest.importorskip("gguf")
_gguf = pytest.importorskip("harness.engines._gguf")

QWEN_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def bits(folder: Path, name: str) -> np.ndarray[Any, Any]:
    """The bfloat16 bits of one tensor, read anew."""
    file = folder / tensor_files(folder)[name]
    start, end = read_header(file)[name]["data_offsets"]
    data = file.read_bytes()
    base = 8 + int.from_bytes(data[:8], "little")
    return np.frombuffer(data[base + start : base + end], "<u2")


def values(folder: Path, name: str) -> np.ndarray[Any, Any]:
    return (bits(folder, name).astype(np.uint32) << 16).view(np.float32)


def written(folder: Path, file: Path, dtype: str) -> Any:
    _gguf.write_gguf(folder, file, dtype)
    return gguf.GGUFReader(file)


def field(reader: Any, key: str) -> Any:
    return reader.get_field(key).contents()


@pytest.fixture
def copy(qwen3: Path, tmp_path: Path) -> Path:
    """A tiny Qwen3 to be spoilt."""
    return Path(shutil.copytree(qwen3, tmp_path / "copy"))


@pytest.mark.parametrize("shape", ["qwen2", "qwen3"])
def test_every_value_is_there_under_its_new_name(
    shape: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(shape)
    reader = written(folder, tmp_path / "m.gguf", "float32")
    found = {tensor.name: tensor for tensor in reader.tensors}
    shapes = tensor_shapes(open_folder(folder).dimensions)
    assert set(found) == {_gguf.tensor_name(name) for name in shapes}
    for name, shape_ in shapes.items():
        tensor = found[_gguf.tensor_name(name)]
        assert tuple(reversed(tensor.shape.tolist())) == shape_
        np.testing.assert_array_equal(tensor.data.reshape(-1), values(folder, name))


def test_names_are_llama_cpp_s() -> None:
    assert _gguf.tensor_name("model.embed_tokens.weight") == "token_embd.weight"
    assert _gguf.tensor_name("lm_head.weight") == "output.weight"
    assert _gguf.tensor_name("model.layers.11.self_attn.q_proj.bias") == "blk.11.attn_q.bias"
    assert _gguf.tensor_name("model.layers.0.self_attn.k_norm.weight") == "blk.0.attn_k_norm.weight"
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, 24)
    for old in ("model.layers.3.mlp.gate_proj", "model.layers.23.post_attention_layernorm"):
        assert _gguf.tensor_name(f"{old}.weight") == f"{names.get_name(old)}.weight"


@pytest.mark.parametrize(("dtype", "kind"), [("float16", "F16"), ("bfloat16", "BF16")])
def test_matrices_are_halved_while_norms_and_biases_stay_whole(
    qwen2: Path, tmp_path: Path, dtype: str, kind: str
) -> None:
    reader = written(qwen2, tmp_path / "m.gguf", dtype)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == kinds["output.weight"] == kind
    assert kinds["blk.0.attn_q.bias"] == kinds["blk.1.ffn_norm.weight"] == "F32"
    found = {tensor.name: tensor for tensor in reader.tensors}["blk.1.ffn_down.weight"]
    name = "model.layers.1.mlp.down_proj.weight"
    if dtype == "bfloat16":
        np.testing.assert_array_equal(found.data.view("<u2").reshape(-1), bits(qwen2, name))
    else:
        halves = values(qwen2, name).astype(np.float16)
        np.testing.assert_array_equal(found.data.reshape(-1), halves)
    assert field(reader, "general.file_type") == gguf.LlamaFileType[f"MOSTLY_{kind}"]


def test_float32_is_rounded_to_bfloat16_as_ggml_rounds_it(copy: Path, tmp_path: Path) -> None:
    file = copy / "model.safetensors"
    header = read_header(file)
    size = int.from_bytes(file.read_bytes()[:8], "little")
    body = np.frombuffer(file.read_bytes()[8 + size :], "<u2").astype(np.uint32)
    noise = np.random.default_rng(1).integers(0, 2**16, body.size, dtype=np.uint32)
    noise[:4] = (0x8000, 0x7FFF, 0x8001, 0)  # a tie, its neighbours, and what is exact
    wide = ((body << 16) | noise).view(np.float32)
    for entry in header.values():
        entry["dtype"] = "F32"
        entry["data_offsets"] = [2 * offset for offset in entry["data_offsets"]]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + wide.tobytes())
    reader = written(copy, tmp_path / "m.gguf", "bfloat16")
    name = "model.layers.0.mlp.up_proj.weight"
    start, end = (offset // 4 for offset in header[name]["data_offsets"])
    found = {tensor.name: tensor for tensor in reader.tensors}[_gguf.tensor_name(name)]
    expected = gguf.quantize(wide[start:end], gguf.GGMLQuantizationType.BF16)
    np.testing.assert_array_equal(found.data.reshape(-1), expected)


def test_sizes_are_the_config_s(qwen3: Path, tmp_path: Path) -> None:
    reader = written(qwen3, tmp_path / "m.gguf", "bfloat16")
    assert field(reader, "general.architecture") == "qwen3"
    assert field(reader, "qwen3.block_count") == 2
    assert field(reader, "qwen3.attention.head_count_kv") == 2
    assert field(reader, "qwen3.attention.key_length") == 32
    assert field(reader, "qwen3.context_length") == 512
    assert field(reader, "qwen3.rope.freq_base") == 1e6


def test_a_tied_head_is_written_once(qwen2: Path, qwen3: Path, tmp_path: Path) -> None:
    untied = written(qwen2, tmp_path / "2.gguf", "bfloat16")
    tied = written(qwen3, tmp_path / "3.gguf", "bfloat16")
    assert "output.weight" in {tensor.name for tensor in untied.tensors}
    assert "output.weight" not in {tensor.name for tensor in tied.tensors}


def test_every_id_has_its_token_and_those_without_one_are_unused(
    copy: Path, tmp_path: Path
) -> None:
    file = copy / "tokenizer.json"
    described = json.loads(file.read_text())
    vocab = described["model"]["vocab"]
    described["model"]["vocab"] = {text: i for text, i in vocab.items() if i < 4000}
    file.write_text(json.dumps(described))
    reader = written(copy, tmp_path / "m.gguf", "bfloat16")
    tokens = field(reader, "tokenizer.ggml.tokens")
    kinds = field(reader, "tokenizer.ggml.token_type")
    assert tokens[:4000] == sorted(vocab, key=vocab.__getitem__)[:4000]
    assert len(tokens) == len(kinds) == 4096
    assert kinds[0] == gguf.TokenType.CONTROL  # <|endoftext|>
    assert kinds[100] == gguf.TokenType.NORMAL
    assert kinds[4000:] == [gguf.TokenType.UNUSED] * 96
    assert field(reader, "tokenizer.ggml.eos_token_id") == 0
    assert field(reader, "tokenizer.ggml.add_bos_token") is False
    assert field(reader, "tokenizer.ggml.pre") == "gpt-2"
    assert "<|im_start|>" in field(reader, "tokenizer.chat_template")


def test_a_tokenizer_larger_than_the_model_is_refused(copy: Path, tmp_path: Path) -> None:
    file = copy / "tokenizer.json"
    described = json.loads(file.read_text())
    described["model"]["vocab"]["one too many"] = 4096
    file.write_text(json.dumps(described))
    with pytest.raises(ArmbenchError, match="has id 4096, the model's vocabulary ends at 4095"):
        _gguf.write_gguf(copy, tmp_path / "m.gguf", "bfloat16")


def test_the_way_text_is_cut_is_known_or_refused(copy: Path, tmp_path: Path) -> None:
    file = copy / "tokenizer.json"
    described = json.loads(file.read_text())
    split = {"type": "Split", "pattern": {"Regex": QWEN_REGEX}, "behavior": "Isolated"}
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    described["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    described["model"]["merges"] = described["model"]["merges"][:2]
    file.write_text(json.dumps(described))
    reader = written(copy, tmp_path / "m.gguf", "bfloat16")
    assert field(reader, "tokenizer.ggml.pre") == "qwen2"
    assert field(reader, "tokenizer.ggml.merges") == ["Ġ Ġ", "Ġ t"]
    split["pattern"] = {"Regex": "."}
    file.write_text(json.dumps(described))
    with pytest.raises(ArmbenchError, match="cuts text in a way that llama"):
        _gguf.write_gguf(copy, tmp_path / "n.gguf", "bfloat16")
    assert sorted(p.name for p in tmp_path.glob("*.gguf*")) == ["m.gguf"]
    assert not list(tmp_path.glob(".n.gguf*"))


def test_a_value_that_float16_lacks_is_refused_by_name(copy: Path, tmp_path: Path) -> None:
    file = copy / "model.safetensors"
    data = bytearray(file.read_bytes())
    start = read_header(file)["model.layers.1.mlp.up_proj.weight"]["data_offsets"][0]
    base = 8 + int.from_bytes(data[:8], "little")
    data[base + start : base + start + 2] = (0x4800).to_bytes(2, "little")  # 131072
    file.write_bytes(data)
    with pytest.raises(ArmbenchError, match=r"blk\.1\.ffn_up\.weight that float16 cannot"):
        _gguf.write_gguf(copy, tmp_path / "m.gguf", "float16")
    _gguf.write_gguf(copy, tmp_path / "m.gguf", "bfloat16")


def test_an_unknown_dtype_is_refused(qwen3: Path, tmp_path: Path) -> None:
    with pytest.raises(ArmbenchError, match="unknown dtype of a GGUF file 'q4_0'"):
        _gguf.write_gguf(qwen3, tmp_path / "m.gguf", "q4_0")


def test_the_small_trained_model_is_written_with_qwen_s_cut(tmp_path: Path) -> None:
    small = Path(__file__).parent / "models" / "small-qwen3"
    reader = written(small, tmp_path / "small.gguf", "bfloat16")
    assert field(reader, "tokenizer.ggml.pre") == "qwen2"
    assert len(field(reader, "tokenizer.ggml.tokens")) == 2048
    assert "<|im_start|>" in field(reader, "tokenizer.chat_template")
