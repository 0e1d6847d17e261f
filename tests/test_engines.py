"""The engines compute the model, row by row, on threads that stay where they were put."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from harness import agreement, conversion, engines, wire
from harness.engine_process import EngineProcess
from harness.engines import EngineSpec
from harness.errors import ArmbenchError
from harness.load import driver
from harness.machine.proof import Watch
from harness.model import checkpoint
from harness.records.run import Agreement, LoadPoint, Variant

pytestmark = pytest.mark.engine
CPUS = sorted(os.sched_getaffinity(0))[:2]
LLAMACPP = pytest.param(
    "llamacpp",
    marks=pytest.mark.skipif(
        importlib.util.find_spec("llama_cpp") is None,
        reason="llama.cpp's binding is not built here: run scripts/build-llamacpp",
    ),
)
RIGHT = [
    ("torch", "float32", {}),
    ("torch", "float32", {"packed": False}),
    ("torch", "bfloat16", {}),
    ("torch", "bfloat16", {"packed": False}),
    ("onnxruntime", "float32", {}),
    ("onnxruntime", "float32", {"exporter": "optimum"}),
    ("transformers", "float32", {}),
    ("transformers", "float32", {"cache": "static", "attention": "eager"}),
    ("onnxruntime", "int8", {}),
    ("onnxruntime", "int8", {"int8": "dynamic"}),
    ("onnxruntime", "int4", {}),
    ("onnxruntime", "int4", {"block_size": 32, "symmetric": False, "head": "int8"}),
    ("onnxruntime", "int4", {"accuracy_level": 1, "head": "float32"}),
    ("onnxruntime", "int4", {"exporter": "optimum"}),
    ("onnxruntime_genai", "float32", {}),
    ("onnxruntime_genai", "int8", {}),
    ("onnxruntime_genai", "int4", {}),
    ("torch", "int8", {"kernel": "int_mm"}),
    ("torch", "int8", {"kernel": "int8pack"}),
    ("torch", "int8", {"compile": True}),
    ("torch", "int4", {"kernel": "int4pack"}),
    ("torch", "int4", {"kernel": "dyn_quant_4bit"}),
]
# Every engine, dtype and kernel on both shapes; other options on one.
COMPARED = [
    *(("qwen2", *one) for one in RIGHT),
    *(("qwen3", *one) for one in RIGHT if not one[2] or "kernel" in one[2]),
]
# int8=dynamic has one scale for a batch: there a row does depend on the others
BY_ROW = [RIGHT[0], *(one for one in RIGHT[4:] if not {"int8", "compile"} & one[2].keys())]


def ids(value: Any) -> str:
    return "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def spec_for(
    folder: Path, engine: str, dtype: str, options: dict[str, Any], cpus: list[int] = CPUS
) -> EngineSpec:
    variant = Variant(
        engine=engine,
        dtype=dtype,
        threads=len(cpus),
        options=engines.resolve_options(engine, options),
    )
    opened = checkpoint.open_folder(folder)
    key = checkpoint.fingerprint(checkpoint.identify(opened))
    prepared, _ = conversion.prepare(variant, opened, key, cpus)
    return EngineSpec(
        engine=engine,
        checkpoint=str(folder),
        dtype=dtype,
        cpus=cpus,
        options=variant.options,
        prepared=str(prepared) if prepared else None,
    )


def process_for(spec: EngineSpec) -> EngineProcess:
    variables = engines.module(spec.engine).environment(spec.cpus, spec.options)
    return EngineProcess(spec.cpus, variables)


@pytest.fixture(scope="session")
def references(tmp_path_factory: pytest.TempPathFactory, qwen2: Path, qwen3: Path) -> Any:
    """Reference files of both tiny models, from transformers in a process of its own."""
    folder = tmp_path_factory.mktemp("references")
    made = {}
    for model in (qwen2, qwen3):
        samples = agreement.samples(model, 4096, synthetic=True)
        file = folder / f"{model.name}.npz"
        with EngineProcess(CPUS, {}) as process:
            process.ask(
                wire.MakeReference(str(model), samples, str(file)),
                wire.Done,
                120,
            )
        made[model.name] = file
    return made


class Seen(NamedTuple):
    """What a process of an engine did; of three rows the tokens, twice together and then alone."""

    agreement: Agreement
    together: list[list[int]]
    again: list[list[int]]
    alone: list[list[int]]


def see(spec: EngineSpec, reference: Path) -> Seen:
    rows = np.random.default_rng(1).integers(0, 4096, (3, 20)).tolist()
    with process_for(spec) as process:

        def tokens(of: list[list[int]]) -> list[list[int]]:
            return process.ask(wire.Generate(of, 12), wire.Generated, 120).tokens

        process.ask(wire.Load(spec), wire.Loaded, 120)
        found = process.ask(wire.Compare(str(reference)), wire.Compared, 120).agreement
        process.ask(wire.Allocate(3, 40), wire.Done, 120)
        together, again = tokens(rows), tokens(rows)
        process.ask(wire.Allocate(1, 40), wire.Done, 120)
        alone = [tokens([row])[0] for row in rows]
    return Seen(found, together, again, alone)


@pytest.fixture(scope="session")
def seen(
    references: dict[str, Path], qwen2: Path, qwen3: Path
) -> Callable[[str, str, str, dict[str, Any]], Seen]:
    """`see` by model, engine, dtype and options, each in a process of its own, once.

    Rows are generated only where they are asked about: compiled layers take long for a new batch.
    """
    folders = {"qwen2": qwen2, "qwen3": qwen3}
    known: dict[str, Seen] = {}

    def of(model: str, engine: str, dtype: str, options: dict[str, Any]) -> Seen:
        key = repr((model, engine, dtype, options))
        if key not in known:
            spec = spec_for(folders[model], engine, dtype, options)
            if model == "qwen2" and (engine, dtype, options) in BY_ROW:
                known[key] = see(spec, references[model])
            else:
                known[key] = Seen(agreement_of(spec, references[model]), [], [], [])
        return known[key]

    return of


def agreement_of(spec: EngineSpec, reference: Path) -> Agreement:
    with process_for(spec) as process:
        process.ask(wire.Load(spec), wire.Loaded, 120)
        return process.ask(wire.Compare(str(reference)), wire.Compared, 120).agreement


@pytest.mark.parametrize(("model", "engine", "dtype", "options"), COMPARED, ids=ids)
def test_an_engine_computes_what_transformers_computes(
    model: str,
    engine: str,
    dtype: str,
    options: dict[str, Any],
    seen: Callable[[str, str, str, dict[str, Any]], Seen],
) -> None:
    found = seen(model, engine, dtype, options).agreement
    assert agreement.shortfalls(found, agreement.bounds(dtype, "synthetic")) == []
    assert found.positions == sum(part.positions for part in found.parts) > 256


@pytest.mark.parametrize(
    ("engine", "dtype"),
    [
        ("torch", "float32"),
        ("torch", "int8"),
        ("torch", "int4"),
        ("onnxruntime", "float32"),
        ("onnxruntime", "int4"),
    ],
)
def test_an_engine_computes_the_same_model_while_it_serves(
    engine: str, dtype: str, qwen2: Path, references: dict[str, Path]
) -> None:
    spec = spec_for(qwen2, engine, dtype, {})
    with process_for(spec) as process:
        process.ask(wire.Load(spec), wire.Loaded, 120)
        asked = wire.Compare(str(references["qwen2"]), 16)
        found = process.ask(asked, wire.Compared, 120).agreement
    assert agreement.shortfalls(found, agreement.bounds(dtype, "synthetic")) == []
    assert found.positions > 256


@pytest.fixture(scope="session")
def saved_by_5(tmp_path_factory: pytest.TempPathFactory, qwen3: Path) -> Path:
    """The tiny Qwen3 with its theta where transformers 5 writes it."""
    folder = Path(shutil.copytree(qwen3, tmp_path_factory.mktemp("models") / "saved-by-5"))
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_theta": config.pop("rope_theta"), "rope_type": "default"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("engine", "options"),
    [
        ("torch", {}),
        ("transformers", {}),
        ("onnxruntime", {}),
        ("onnxruntime", {"exporter": "optimum"}),
    ],
    ids=ids,
)
def test_what_transformers_5_saved_is_the_same_model_to_every_engine(
    engine: str, options: dict[str, Any], saved_by_5: Path, references: dict[str, Path]
) -> None:
    spec = spec_for(saved_by_5, engine, "float32", options)
    found = agreement_of(spec, references["qwen3"])
    assert agreement.shortfalls(found, agreement.bounds("float32", "synthetic")) == []


def test_what_transformers_5_saved_has_the_same_reference(
    saved_by_5: Path, references: dict[str, Path], tmp_path: Path
) -> None:
    with np.load(references["qwen3"]) as known:
        samples = msgspec.json.decode(known["samples"].tobytes(), type=agreement.Samples)
        with EngineProcess(CPUS, {}) as process:
            asked = wire.MakeReference(str(saved_by_5), samples, str(tmp_path / "made.npz"))
            process.ask(asked, wire.Done, 120)
        with np.load(tmp_path / "made.npz") as made:
            assert np.abs(made["0"] - known["0"]).max() < 1e-5


def test_other_weights_are_caught_by_the_same_bounds(
    qwen2: Path, qwen3: Path, references: dict[str, Path]
) -> None:
    found = agreement_of(spec_for(qwen3, "torch", "float32", {}), references["qwen2"])
    for dtype in ("float32", "bfloat16"):
        assert agreement.shortfalls(found, agreement.bounds(dtype, "synthetic"))


def test_bfloat16_would_not_pass_for_float32(qwen3: Path, references: dict[str, Path]) -> None:
    found = agreement_of(spec_for(qwen3, "torch", "bfloat16", {}), references["qwen3"])
    assert found.delta_mean > 1e-4
    assert agreement.shortfalls(found, agreement.bounds("float32", "synthetic"))


@pytest.mark.parametrize(("engine", "dtype", "options"), BY_ROW, ids=ids)
def test_a_row_of_a_batch_gets_the_tokens_it_gets_alone(
    engine: str,
    dtype: str,
    options: dict[str, Any],
    seen: Callable[[str, str, str, dict[str, Any]], Seen],
) -> None:
    found = seen("qwen2", engine, dtype, options)
    assert len(found.alone) == 3
    assert found.together == found.again == found.alone


@pytest.mark.parametrize(
    ("engine", "dtype", "options"),
    [
        (
            "onnxruntime",
            "int4",
            {"spinning": not engines.module("onnxruntime").OPTIONS["spinning"]},
        ),
        ("onnxruntime", "int4", {"huge_pages": True}),
        ("torch", "int4", {"kernel": "int4pack", "huge_pages": True}),
    ],
    ids=ids,
)
def test_a_neutral_option_changes_no_number(
    engine: str,
    dtype: str,
    options: dict[str, Any],
    qwen2: Path,
    references: dict[str, Path],
    seen: Callable[[str, str, str, dict[str, Any]], Seen],
) -> None:
    rest = engines.numeric_options(engine, options)
    assert rest != options
    try:
        spec = spec_for(qwen2, engine, dtype, options)
    except ArmbenchError as error:
        pytest.skip(str(error))  # no huge pages here
    changed = agreement_of(spec, references["qwen2"])
    usual = seen("qwen2", engine, dtype, rest).agreement
    assert msgspec.structs.replace(changed, seconds=None) == msgspec.structs.replace(
        usual, seconds=None
    )


@pytest.mark.skipif(len(CPUS) < 2, reason="needs two allowed CPUs")
@pytest.mark.parametrize("cpus", [CPUS, CPUS[::-1], CPUS[1:]], ids=str)
@pytest.mark.parametrize("engine", ["torch", "onnxruntime", LLAMACPP])
def test_every_compute_thread_is_on_a_cpu_of_its_own(
    engine: str, cpus: list[int], qwen3: Path
) -> None:
    spec = spec_for(qwen3, engine, "float32", {}, cpus)
    load = LoadPoint(kind="offline", batch=8, input_tokens=256, output_tokens=128, requests=6)
    with process_for(spec) as process:
        process.ask(wire.Load(spec), wire.Loaded, 120)
        process.ask(wire.Allocate(8, 384), wire.Done, 120)
        driver.warm_up(process, load, seed=1, vocabulary=4096, timeout_s=120)
        with Watch(process.pid, cpus, [0], interval_s=0.05) as watch:
            driver.run_load(process, load, seed=1, repeat=0, vocabulary=4096, timeout_s=120)
        reported = process.report(60)
        proof = watch.proof(reported.runtime, reported.policy)
    assert proof.faults == []
    assert sorted(proof.threads[i].affinity for i in proof.compute) == sorted(map(str, cpus))
    assert reported.runtime.compute == len(cpus)


@pytest.mark.skipif(len(CPUS) < 2, reason="needs two allowed CPUs")
def test_an_affinity_set_without_places_is_caught(qwen3: Path) -> None:
    """The trap of torch on Linux: without OMP_PLACES the pool's threads may run anywhere."""
    spec = spec_for(qwen3, "torch", "float32", {})
    load = LoadPoint(kind="offline", batch=8, input_tokens=256, output_tokens=64, requests=4)
    with EngineProcess(CPUS, {"OMP_NUM_THREADS": "2"}) as process:
        process.ask(wire.Load(spec), wire.Loaded, 120)
        process.ask(wire.Allocate(8, 320), wire.Done, 120)
        with Watch(process.pid, CPUS, [0], interval_s=0.05) as watch:
            driver.run_load(process, load, seed=1, repeat=0, vocabulary=4096, timeout_s=120)
    assert any("not bound to one CPU" in fault for fault in watch.proof().faults)


@pytest.mark.parametrize(
    ("dtype", "kernel", "name"),
    [
        ("int8", "int_mm", "aten::_int_mm"),
        ("int8", "int8pack", "aten::_weight_int8pack_mm"),
        ("int4", "int4pack", "aten::_weight_int4pack_mm_for_cpu"),
        ("int4", "dyn_quant_4bit", "aten::_dyn_quant_matmul_4bit"),
    ],
)
def test_the_trace_of_torch_names_its_quantised_product(
    dtype: str, kernel: str, name: str, qwen2: Path
) -> None:
    spec = spec_for(qwen2, "torch", dtype, {"kernel": kernel})
    spec.trace = True
    with process_for(spec) as process:
        process.ask(wire.Load(spec), wire.Loaded, 120)
        process.ask(wire.Allocate(1, 40), wire.Done, 120)
        path = process.ask(wire.Trace([[1, 2, 3]], 4), wire.Traced, 120).path
    (seen,) = [k for k in path.kernels if k.name == name]
    assert seen.calls >= 4 * 2 * 4  # passes, layers, products of a layer
    kleidiai = "aarch64" in os.uname().machine
    onednn = any(k.name != name for k in path.kernels)
    slow = {"dyn_quant_4bit": not kleidiai, "int_mm": not onednn}
    assert seen.reference is slow.get(kernel, False)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [("int8", {"kernel": "int4pack"}), ("int4", {"kernel": "int_mm"}), ("int8", {"kernel": "x"})],
)
def test_a_kernel_that_a_dtype_does_not_have_is_refused(
    dtype: str, options: dict[str, Any], qwen2: Path
) -> None:
    spec = spec_for(qwen2, "torch", dtype, options)
    with process_for(spec) as process, pytest.raises(ArmbenchError, match="no kernel"):
        process.ask(wire.Load(spec), wire.Loaded, 120)


def test_a_checkpoint_of_the_other_kind_of_head_loads(tmp_path: Path, qwen2: Path) -> None:
    opened = checkpoint.open_folder(qwen2)
    assert "lm_head.weight" in checkpoint.tensor_files(qwen2)
    assert not opened.dimensions.tied
