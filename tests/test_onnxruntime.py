"""ONNX Runtime's graphs: what is written is what is told, and what shares a step keeps its bits."""

from __future__ import annotations

import json
import platform
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import engines, wire
from harness.engine_process import EngineFailed
from harness.engines import EngineSpec, Feed, onnxruntime
from harness.errors import ArmbenchError
from harness.model import checkpoint, synthetic
from harness.model.architecture import dimensions
from harness.model.footprint import FORMATS
from harness.records.run import Stored
from tests.conftest import tiny_config
from tests.test_checkpoint import ask_for_code
from tests.test_engine_slots import in_child, opened_slots
from tests.test_engines import CPUS, process_for, spec_for

ENGINES = ("onnxruntime", "onnxruntime_genai")
WRITTEN: list[tuple[str, dict[str, Any]]] = [
    ("int4", {}),
    ("int8", {}),
    ("int4", {"block_size": 32, "symmetric": False, "head": "int8"}),
    ("int4", {"accuracy_level": 1, "head": "float32"}),
]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"int8": "static"}, "int8 of .* is 'static'"),
        ({"block_size": 48}, "block_size of .* is 48"),
        ({"accuracy_level": 3}, "accuracy_level of .* is 3"),
        ({"head": "int4"}, "head of .* is 'int4'"),
        ({"block_base": -1}, "block_base of .* is negative"),
        ({"symmetric": 1}, "option symmetric of .* is 1"),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_option_without_meaning_is_refused_by_name(
    engine: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ArmbenchError, match=words.replace(".*", f"(engine )?{engine}")):
        engines.resolve_options(engine, options)


@pytest.mark.parametrize("engine", ENGINES)
def test_arms_fast_math_is_refused_where_it_does_nothing(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(ArmbenchError, match="this machine is x86_64"):
        engines.resolve_options(engine, {"fast_math": True})
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(ArmbenchError, match="bfloat16 arithmetic, and this CPU has none"):
        engines.resolve_options(engine, {"fast_math": True})
    monkeypatch.setattr(onnxruntime, "features_of", lambda _: ["asimddp", "bf16"])
    options = engines.resolve_options(engine, {"fast_math": True})
    told = engines.stored(engine, "float32", options)
    assert told is not None
    assert told.compute == "bf16"


@pytest.mark.parametrize(
    ("dtype", "options", "told"),
    [
        ("float32", {"head": "int8"}, ("float32", None, "f32")),
        ("int8", {"int8": "dynamic"}, ("int8", None, "i8")),
        ("int8", {"block_size": 64}, ("int8-g64", None, "i8")),
        ("int4", {"symmetric": False, "block_size": 128}, ("int4-g128-zero", None, "i8")),
        ("int4", {"head": "int8", "block_size": 32}, ("int4-g32", "int8-g32", "i8")),
        (
            "int4",
            {"accuracy_level": 1, "head": "float32", "block_size": 32},
            ("int4-g32", "float32", "f32"),
        ),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_formats_are_told_by_the_names_of_the_footprint(
    engine: str, dtype: str, options: dict[str, Any], told: tuple[str, str | None, str]
) -> None:
    found = engines.stored(engine, dtype, engines.resolve_options(engine, options))
    body, head, compute = told
    assert found == Stored(body=body, head=head, compute=compute, kv_element_bytes=4)
    assert {body, head or body} <= set(FORMATS)


def products(folder: Path) -> dict[str, tuple[int, int, int]]:
    """(outputs, inputs, stored bytes) of each MatMulNBits or MatMul of a weight, by name."""
    import onnx

    graph = onnx.load(str(folder / "model.onnx")).graph
    weights = {w.name: w for w in graph.initializer}
    found = {}
    for node in graph.node:
        given = [weights[name] for name in node.input[1:] if name in weights]
        if node.op_type == "MatMulNBits":
            a = {x.name: x.i for x in node.attribute}
            found[node.name] = (a["N"], a["K"], sum(len(w.raw_data) for w in given))
        elif node.op_type == "MatMul" and given:
            inputs, outputs = given[0].dims
            found[node.name] = (outputs, inputs, len(given[0].raw_data))
    return found


@pytest.mark.engine
@pytest.mark.parametrize(("dtype", "options"), WRITTEN, ids=str)
def test_a_graph_stores_the_bytes_that_its_formats_say(
    dtype: str, options: dict[str, Any], qwen3: Path
) -> None:
    spec = spec_for(qwen3, "onnxruntime", dtype, options)
    assert spec.prepared is not None
    told = engines.stored("onnxruntime", dtype, spec.options)
    assert told is not None
    found = products(Path(spec.prepared))
    heads = [name for name in found if "lm_head" in name]
    assert len(heads) == 1
    assert len(found) == 2 * 5 + 1  # of two layers: qkv, o, gate, up, down; the head
    for name, (outputs, inputs, size) in found.items():
        kept = (told.head or told.body) if name in heads else told.body
        assert size == FORMATS[kept].bytes(outputs, inputs), name


@pytest.mark.engine
@pytest.mark.parametrize("exporter", ["builder", "optimum"])
def test_no_exporter_runs_code_from_the_checkpoint(
    exporter: str, qwen3: Path, tmp_path: Path
) -> None:
    """Were it there: `open_folder` refuses it before."""
    folder, ran = shutil.copytree(qwen3, tmp_path / "own"), tmp_path / "ran"
    base = "from transformers import PreTrainedTokenizerFast as Base\n"
    ask_for_code(folder, f"{base}open({str(ran)!r}, 'w')\nclass Own(Base):\n    pass\n")
    options = engines.resolve_options("onnxruntime", {"exporter": exporter})
    spec = EngineSpec(
        engine="onnxruntime", checkpoint=str(folder), dtype="float32", cpus=CPUS, options=options
    )
    with process_for(spec) as process, suppress(EngineFailed):
        process.ask(wire.Prepare(spec, str(tmp_path / "graph")), wire.Done, 120)
    assert not ran.exists()


@pytest.mark.engine
def test_both_engines_share_a_conversion(qwen3: Path) -> None:
    folders = {spec_for(qwen3, engine, "int4", {}).prepared for engine in ENGINES}
    assert len(folders) == 1


def test_what_a_dtype_does_not_depend_on_makes_no_second_conversion() -> None:
    plain = engines.resolve_options("onnxruntime", {})
    other = plain | {"block_size": 64, "spinning": False, "head": "int8"}
    assert onnxruntime.prepare_options("float32", plain) == onnxruntime.prepare_options(
        "float32", other
    )
    assert onnxruntime.prepare_options("int4", plain) != onnxruntime.prepare_options("int4", other)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_quantised_model_needs_less_memory_than_a_whole_one(dtype: str) -> None:
    d = dimensions(checkpoint.builtin_config("qwen2.5-7b"))
    options = engines.resolve_options("onnxruntime", {})

    def needed(kept: str) -> int:
        return onnxruntime.memory_bytes(d, kept, 1, 512, options)

    assert onnxruntime.stored_bytes(d, dtype, options) < needed(dtype) < needed("float32")


@pytest.mark.engine
def test_dynamic_int8_does_not_serve_and_says_why(qwen2: Path) -> None:
    spec = spec_for(qwen2, "onnxruntime", "int8", {"int8": "dynamic"})
    assert "take int8 = 'nbits'" in in_child(opened_slots, spec)


@pytest.fixture(scope="session")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2.5 whose rows have several blocks of 64."""
    folder = tmp_path_factory.mktemp("models") / "blocks"
    config = tiny_config("qwen2.5-7b", hidden_size=256, intermediate_size=512, vocab_size=1024)
    synthetic.build(folder, config)
    return folder


def bits_in_company(engine: Any) -> tuple[int, list[list[bytes]], list[list[bytes]]]:
    """(rows passed together, logits of sequences alone, those in steps of changing company)."""
    slots, outputs = 5, 6
    chance = random.Random(3)
    prompts = [[chance.randrange(1024) for _ in range(2 + n)] for n in range(slots)]
    engine.open_slots(slots, 64)
    alone: list[list[bytes]] = []
    for prompt in prompts:
        feed = prompt
        alone.append([])
        for _ in range(outputs):
            (token,) = engine.step([Feed(1, feed)])
            feed = [token]
            alone[-1].append(engine.logits()[0].tobytes())
        engine.release(1)
    feeds = dict(enumerate(prompts))
    together: list[list[bytes]] = [[] for _ in prompts]
    while feeds:
        some = chance.sample(sorted(feeds), chance.randint(1, len(feeds)))
        tokens = engine.step([Feed(slot, feeds[slot]) for slot in some])
        for slot, token, row in zip(some, tokens, engine.logits(), strict=True):
            together[slot].append(row.tobytes())
            feeds[slot] = [token]
            if len(together[slot]) == outputs:
                del feeds[slot]
    return engine.slots.together, alone, together


@pytest.mark.engine
@pytest.mark.parametrize(("dtype", "block"), [("int4", 64), ("int8", 128)])
def test_not_one_bit_of_a_quantised_sequence_depends_on_its_company(
    dtype: str, block: int, blocks: Path
) -> None:
    _, alone, together = in_child(
        bits_in_company, spec_for(blocks, "onnxruntime", dtype, {"block_size": block})
    )
    assert together == alone


def rows_graph(folder: Path, period: int) -> None:
    """A graph in the place of a probe, whose rows depend on their number modulo `period`."""
    from onnx import TensorProto, helper, numpy_helper, save

    nodes = [
        helper.make_node("Shape", ["rows"], ["shape"], end=1),
        helper.make_node("Mod", ["shape", "period"], ["left"]),
        helper.make_node("Cast", ["left"], ["shift"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["rows", "shift"], ["sums"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in ("rows", "sums")]
    given = [numpy_helper.from_array(np.array([period]), "period")]
    graph = helper.make_graph(nodes, "rows", ends[:1], ends[1:], given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, str(folder / "rows.onnx"))


@pytest.mark.engine
@pytest.mark.parametrize(("period", "number"), [(1, 1), (2, 2), (4, 4), (1000, None)])
def test_rows_are_passed_in_the_least_number_that_keeps_their_bits(
    period: int, number: int | None, tmp_path: Path
) -> None:
    import onnxruntime as ort

    from harness.engines._onnxruntime_rows import number_of_rows

    assert number_of_rows(tmp_path, ort.SessionOptions()) == 1
    rows_graph(tmp_path, period)
    if number:
        assert number_of_rows(tmp_path, ort.SessionOptions()) == number
    else:
        with pytest.raises(ArmbenchError, match="depend on how many rows"):
            number_of_rows(tmp_path, ort.SessionOptions())


@pytest.mark.engine
@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_that_was_cut_off_fails_to_load(engine: str, qwen3: Path, tmp_path: Path) -> None:
    spec = spec_for(qwen3, engine, "int4", {})
    assert spec.prepared is not None
    broken = tmp_path / "broken"
    shutil.copytree(spec.prepared, broken)
    data = broken / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:1000])
    spec.prepared = str(broken)
    with process_for(spec) as process, pytest.raises(EngineFailed):
        process.ask(wire.Load(spec), wire.Loaded, 120)


@pytest.mark.engine
@pytest.mark.parametrize("engine", ENGINES)
def test_a_trace_names_the_products_and_their_kind(engine: str, qwen3: Path) -> None:
    spec = spec_for(qwen3, engine, "int4", {})
    spec.trace = True
    with process_for(spec) as process:
        process.ask(wire.Load(spec), wire.Loaded, 120)
        process.ask(wire.Allocate(1, 16), wire.Done, 120)
        path = process.ask(wire.Trace([[1, 2, 3]], 4), wire.Traced, 120).path
    seen = {k.name for k in path.kernels}
    assert {"MatMulNBits", "GroupQueryAttention"} <= seen
    assert path.facts["MatMulNBits"] == "11 of 4 bits, blocks of 128, accuracy level 4"


@pytest.mark.engine
def test_genai_goes_on_after_an_end_token(qwen3: Path, tmp_path: Path) -> None:
    """Lengths are the harness's to choose, and the end token is a token like any other."""
    spec = spec_for(qwen3, "onnxruntime_genai", "float32", {})
    assert spec.prepared is not None
    rows = np.random.default_rng(5).integers(0, 4096, (2, 12)).tolist()
    first = _generated(spec_for(qwen3, "onnxruntime", "float32", {}), rows)
    folder = tmp_path / "ends"
    shutil.copytree(spec.prepared, folder)
    file = folder / "genai_config.json"
    config = json.loads(file.read_text())
    config["model"]["eos_token_id"] = first[0][2]
    file.write_text(json.dumps(config))
    spec.prepared = str(folder)
    assert _generated(spec, rows) == first


def _generated(spec: engines.EngineSpec, rows: list[list[int]]) -> list[list[int]]:
    with process_for(spec) as process:
        process.ask(wire.Load(spec), wire.Loaded, 120)
        process.ask(wire.Allocate(len(rows), 32), wire.Done, 120)
        return process.ask(wire.Generate(rows, 20), wire.Generated, 120).tokens


def forced(engine: Any) -> tuple[list[bytes], list[bytes]]:
    """Logits of a batch of other tokens than were chosen, step by step and in one pass each."""
    rows = np.random.default_rng(7).integers(0, 4096, (2, 9))
    engine.allocate(2, 16)
    chosen = engine.prefill(rows[:, :4])
    engine.decode(chosen)  # chosen, and the next after it
    engine.decode(rows[:, 5])  # another than that
    engine.prefill(rows[:, :4])
    steps = []
    for at in range(4, 9):
        engine.decode(rows[:, at])
        steps.append(engine.logits())
    whole = []
    for at in range(4, 9):
        engine.prefill(rows[:, : at + 1])
        whole.append(engine.logits())
    return steps, whole


@pytest.mark.engine
def test_genai_follows_tokens_that_it_would_not_choose(qwen3: Path) -> None:
    steps, whole = in_child(forced, spec_for(qwen3, "onnxruntime_genai", "float32", {}))
    assert len(steps) == 5
    np.testing.assert_allclose(np.array(steps), np.array(whole), atol=1e-5)


def test_a_conversion_says_what_memory_and_disk_it_needs() -> None:
    d = dimensions(checkpoint.builtin_config("qwen2.5-0.5b"))
    options = engines.resolve_options("onnxruntime", {})
    whole, kept = (onnxruntime.stored_bytes(d, t, options) for t in ("float32", "int4"))
    memory, disk = onnxruntime.prepare_bytes(d, "int4", options)
    assert disk > whole + kept
    assert memory > whole
