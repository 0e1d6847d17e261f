"""llama.cpp's engine: files that hold what is said of them, the right tokens, its own programs."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import agreement, engines, wire
from harness.engine_process import EngineProcess
from harness.engines import _llamacpp_programs as programs
from harness.engines import llamacpp
from harness.errors import ArmbenchError
from harness.model import checkpoint, synthetic
from harness.model.footprint import FORMATS, ModelShape, favoured_layers
from harness.records.run import Agreement
from tests.conftest import tiny_config
from tests.test_engine_slots import CPUS, in_child, mixed, spec_for

built = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None or importlib.util.find_spec("gguf") is None,
    reason="llama.cpp's binding is not built here: run scripts/build-llamacpp",
)
OPTIONS = dict(llamacpp.OPTIONS)
SMALL = checkpoint.builtin_config("qwen2.5-0.5b")


@pytest.fixture(scope="session")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2.5 whose rows are whole super-blocks of 256, and layers enough for a mixture."""
    folder = tmp_path_factory.mktemp("models") / "blocks"
    wide = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8}
    synthetic.build(folder, tiny_config("qwen2.5-0.5b", **wide))
    return folder


def tensors(spec: Any) -> dict[str, int]:
    """Bytes by format of the file that was prepared for `spec`."""
    held = json.loads((Path(spec.prepared) / "tensors.json").read_text())
    return {name: found["bytes"] for name, found in held.items()}


# ggml's names of formats that have another one here
SAME = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def named(sizes: dict[str, int]) -> dict[str, int]:
    return {SAME.get(name, name): size for name, size in sizes.items()}


def test_block_sizes_are_ggml_s() -> None:
    gguf = pytest.importorskip("gguf")
    for name in ("q4_0", "q5_0", "q8_0", "q4_k", "q6_k"):
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name.upper()]]
        assert FORMATS[name].bytes(3, 2 * block) == 6 * size


def test_rows_without_whole_super_blocks_take_smaller_blocks() -> None:
    assert FORMATS["q4_k"].bytes(2, 896) == FORMATS["q5_0"].bytes(2, 896)
    assert FORMATS["q6_k"].taken(896) is FORMATS["q8_0"]
    assert FORMATS["q6_k"].taken(4864) is FORMATS["q6_k"]


@pytest.mark.parametrize(("layers", "favoured"), [(2, 1), (8, 4), (24, 12), (28, 14), (36, 18)])
def test_half_of_the_layers_are_favoured(layers: int, favoured: int) -> None:
    assert favoured_layers(layers) == favoured


@pytest.mark.parametrize(
    ("dtype", "held"),
    [  # the files that llama.cpp 0.5.0-dev (ggml 0.25.3) wrote of this shape, read by gguf
        ("f16", {"f16": 987922432, "f32": 286208}),
        ("q8_0", {"q8_0": 524833792, "f32": 286208}),
        ("q4_0", {"q4_0": 201277440, "q8_0": 144643072, "f32": 286208}),
        (
            "q4_k_m",
            {
                "q4_k": 29417472,
                "q5_0": 173150208,
                "q6_k": 42900480,
                "q8_0": 146105344,
                "f32": 286208,
            },
        ),
    ],
)
def test_the_bytes_of_a_file_of_qwen_0_5b_are_known_before_it_is_written(
    dtype: str, held: dict[str, int]
) -> None:
    d = ModelShape.from_config(SMALL).sizes
    assert named(llamacpp.weights(d, dtype)) == held


def test_a_step_reads_the_whole_file_where_the_head_is_tied() -> None:
    shape = ModelShape.from_config(SMALL)
    total = sum(llamacpp.weights(shape.sizes, "q4_k_m").values())
    assert shape.weight_bytes_per_step("q4_k_m") == total


def test_mapped_weights_are_shared_unless_they_are_rearranged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    d = ModelShape.from_config(SMALL).sizes
    held = llamacpp.weights(d, "q4_0")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert llamacpp.shared_bytes(d, "q4_0", OPTIONS) == held["q8_0"] + held["float32"]
    assert llamacpp.shared_bytes(d, "q4_0", OPTIONS | {"repack": False}) == sum(held.values())
    assert llamacpp.shared_bytes(d, "q4_0", OPTIONS | {"mmap": False}) == 0
    whole = sum(llamacpp.weights(d, "q8_0").values())
    assert llamacpp.shared_bytes(d, "q8_0", OPTIONS) == whole
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert llamacpp.shared_bytes(d, "q8_0", OPTIONS) == held["float32"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"flash": "maybe"}, "unknown value of flash 'maybe'"),
        ({"kv": "q4_0"}, "unknown KV type 'q4_0'"),
        ({"kv": "q8_0", "flash": "off"}, "quantises the KV cache only under flash attention"),
        ({"ubatch": 0}, "ubatch of llamacpp must be at least 1"),
    ],
)
def test_an_option_that_llama_cpp_lacks_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ArmbenchError, match=words):
        engines.resolve_options("llamacpp", given)


def program(folder: Path, name: str = "llama-bench") -> Path:
    folder.mkdir(parents=True)
    file = folder / name
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return file


def test_programs_are_found_where_they_were_named_on_path_or_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv(programs.VARIABLE, raising=False)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd i8mm\n")
    assert programs.find("llama-bench", tmp_path) is None
    for key, features in (("a", "fp asimd"), ("b", "fp asimd i8mm")):
        program(tmp_path / "cache/llamacpp" / key / "bin")
        (tmp_path / "cache/llamacpp" / key / "cpu").write_text(f"{features}\n")
    cached = tmp_path / "cache/llamacpp/b/bin/llama-bench"
    assert programs.find("llama-bench", tmp_path) == str(cached)
    assert programs.find("llama-server", tmp_path) is None
    on_path = program(tmp_path / "bin")
    assert programs.find("llama-bench", tmp_path) == str(on_path)
    named_one = program(tmp_path / "own")
    monkeypatch.setenv(programs.VARIABLE, str(tmp_path / "own"))
    assert programs.find("llama-bench", tmp_path) == str(named_one)
    monkeypatch.setenv(programs.VARIABLE, str(tmp_path / "nowhere"))
    assert programs.find("llama-bench", tmp_path) is None


@built
@pytest.mark.engine
@pytest.mark.parametrize(
    ("model", "dtype"),
    [*(("blocks", d) for d in llamacpp.DTYPES), ("qwen2", "q4_0"), ("qwen2", "q4_k_m")],
)
def test_a_file_holds_what_the_footprint_counts(
    model: str, dtype: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)
    d = checkpoint.open_folder(folder).dimensions
    spec = spec_for(folder, "llamacpp", dtype, {})
    assert tensors(spec) == named(llamacpp.weights(d, dtype))


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, blocks: Path) -> Path:
    """Transformers' logits of `blocks`, from a process of its own."""
    file = tmp_path_factory.mktemp("references") / "blocks.npz"
    samples = agreement.samples(blocks, 4096, synthetic=True)
    with EngineProcess(CPUS, {}) as process:
        process.ask(wire.MakeReference(str(blocks), samples, str(file)), wire.Done, 120)
    return file


def process_for(spec: Any) -> EngineProcess:
    return EngineProcess(spec.cpus, llamacpp.environment(spec.cpus, spec.options))


def agreement_of(spec: Any, reference: Path) -> Agreement:
    with process_for(spec) as process:
        process.ask(wire.Load(spec), wire.Loaded, 120)
        return process.ask(wire.Compare(str(reference)), wire.Compared, 120).agreement


@built
@pytest.mark.engine
@pytest.mark.parametrize("dtype", llamacpp.DTYPES)
def test_every_dtype_passes_the_guard(dtype: str, blocks: Path, reference: Path) -> None:
    found = agreement_of(spec_for(blocks, "llamacpp", dtype, {}), reference)
    assert agreement.shortfalls(found, agreement.bounds(dtype, "synthetic")) == []


def swapped_nibbles(quants: np.ndarray[Any, Any], _: np.ndarray[Any, Any]) -> None:
    quants[:] = (quants >> 4) | (quants << 4)


def wrong_scale(_: np.ndarray[Any, Any], scales: np.ndarray[Any, Any]) -> None:
    scales[::2] *= np.float16(2)  # every second block


@built
@pytest.mark.engine
@pytest.mark.parametrize("spoil", [swapped_nibbles, wrong_scale])
def test_a_broken_quantisation_is_caught(
    spoil: Callable[..., None], blocks: Path, reference: Path, tmp_path: Path
) -> None:
    gguf = pytest.importorskip("gguf")
    spec = spec_for(blocks, "llamacpp", "q4_0", {})
    folder = Path(shutil.copytree(spec.prepared or "", tmp_path / "broken"))
    spec.prepared = str(folder)
    for tensor in gguf.GGUFReader(folder / "model.gguf", "r+").tensors:
        if tensor.tensor_type.name == "Q4_0":  # blocks of a half float and 16 bytes
            rows = tensor.data.reshape(-1, 18)
            scales = rows[:, :2].copy().view(np.float16)
            spoil(rows[:, 2:], scales)
            rows[:, :2] = scales.view(np.uint8)
    found = agreement_of(spec, reference)
    assert agreement.shortfalls(found, agreement.bounds("q4_0", "synthetic"))


@pytest.fixture(scope="session")
def mixes(blocks: Path, qwen2: Path) -> Callable[[str, str], Any]:
    folders = {"blocks": blocks, "qwen2": qwen2}

    @cache
    def of(model: str, dtype: str) -> Any:
        return in_child(mixed, spec_for(folders[model], "llamacpp", dtype, {"flash": "off"}))

    return of


SERVED = [("qwen2", "q4_0"), ("qwen2", "q8_0"), ("qwen2", "f16")]


@built
@pytest.mark.engine
@pytest.mark.parametrize(("model", "dtype"), [*SERVED, ("blocks", "q4_k_m")])
def test_a_sequence_gets_the_tokens_it_gets_alone(
    model: str, dtype: str, mixes: Callable[[str, str], Any]
) -> None:
    by_itself, together, plain = mixes(model, dtype)
    assert [got.tokens for got in together] == [got.tokens for got in by_itself]
    assert [got.tokens for got in by_itself] == plain


@built
@pytest.mark.engine
@pytest.mark.skipif(platform.machine() != "x86_64", reason="seen with ggml's x86 kernels only")
@pytest.mark.parametrize(("model", "dtype"), SERVED[:2])
def test_with_blocks_of_32_not_one_bit_depends_on_the_mix(
    model: str, dtype: str, mixes: Callable[[str, str], Any]
) -> None:
    by_itself, together, _ = mixes(model, dtype)
    assert [got.logits for got in together] == [got.logits for got in by_itself]


def told(engine: Any) -> dict[str, Any]:
    engine.allocate(1, 16)
    batch = dict(engine.facts())
    engine.open_slots(2, 16)
    return {"batch": batch, "slots": engine.facts()}


@built
@pytest.mark.engine
def test_it_tells_what_was_rearranged_and_how_attention_runs(blocks: Path) -> None:
    found = in_child(told, spec_for(blocks, "llamacpp", "q4_0", {}))
    assert "tensors as q4_0_" in found["batch"]["repacked"]
    assert "CPU_REPACK" in found["batch"]["buffers"]
    told_of = [found[part]["flash_attention"] for part in ("batch", "slots")]
    assert told_of == ["enabled", "disabled"]
    plain = in_child(told, spec_for(blocks, "llamacpp", "q4_0", {"repack": False}))
    assert plain["batch"]["repacked"] == "nothing"


@built
@pytest.mark.engine
def test_a_trace_names_products_by_the_format_and_buffer_of_their_weights(blocks: Path) -> None:
    spec = spec_for(blocks, "llamacpp", "q4_0", {})
    spec.trace = True
    with process_for(spec) as process:
        process.ask(wire.Load(spec), wire.Loaded, 120)
        process.ask(wire.Allocate(1, 32), wire.Done, 120)
        path = process.ask(wire.Trace([[1] * 16], 4), wire.Traced, 120).path
    products = [k for k in path.kernels if k.name == "MUL_MAT in CPU_REPACK"]
    assert [k.types for k in products] == ["q4_0 × f32"]
    assert products[0].calls == 4 * 8 * 7  # passes, layers, products of a layer
    assert (products[0].seconds or 0) > 0
    assert "REPACK = 1" in path.facts["llama.cpp"]


@built
@pytest.mark.engine
def test_a_checkpoint_without_tokenizer_runs_all_the_same(blocks: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(blocks, tmp_path / "bare"))
    (bare / "tokenizer.json").unlink()
    with_one, without = (
        in_child(first_tokens, spec_for(folder, "llamacpp", "q8_0", {}))
        for folder in (blocks, bare)
    )
    assert with_one == without


def first_tokens(engine: Any) -> list[int]:
    engine.allocate(2, 40)
    tokens = engine.prefill(np.arange(60).reshape(2, 30))
    made = tokens.tolist()
    for _ in range(8):
        tokens = engine.decode(tokens)
        made += tokens.tolist()
    return made


def refusals(engine: Any) -> list[str]:
    said = []
    for work in (
        lambda: engine.prefill(np.ones((1, 4), dtype=np.int64)),
        lambda: engine.allocate(257, 8),
    ):
        with pytest.raises(ArmbenchError) as error:
            work()
        said.append(error.value.message)
    return said


@built
@pytest.mark.engine
def test_what_cannot_be_done_is_refused_in_plain_words(blocks: Path) -> None:
    before, many = in_child(refusals, spec_for(blocks, "llamacpp", "q8_0", {}))
    assert before == "no room was made for sequences"
    assert many == "257 sequences were asked for, llama.cpp has at most 256"


@built
@pytest.mark.engine
def test_a_file_that_is_cut_off_is_refused(blocks: Path, tmp_path: Path) -> None:
    spec = spec_for(blocks, "llamacpp", "q8_0", {})
    folder = Path(shutil.copytree(spec.prepared or "", tmp_path / "cut"))
    os.truncate(folder / "model.gguf", (folder / "model.gguf").stat().st_size // 2)
    spec.prepared = str(folder)
    with pytest.raises(ArmbenchError, match=r"llama.cpp cannot load .*model\.gguf"):
        in_child(first_tokens, spec)
