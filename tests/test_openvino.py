"""OpenVINO on the graph written here: right in every dtype, threads where they belong."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import agreement, engines, wire
from harness.errors import ArmbenchError
from harness.load import driver
from harness.machine.proof import Watch
from harness.model.footprint import weight_format
from harness.records.run import LoadPoint
from tests.test_engines import agreement_of, process_for, references, spec_for

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
    ),
]
CPUS = sorted(os.sched_getaffinity(0))[:2]
assert references  # a fixture


@pytest.mark.parametrize(
    ("model", "dtype", "options"),
    [
        ("qwen3", "float32", {}),
        ("qwen2", "float32", {}),
        ("qwen3", "bfloat16", {}),
        ("qwen2", "int8", {}),
        ("qwen3", "int8", {"dynamic": 0}),
        ("qwen2", "int4", {}),
        ("qwen3", "int4", {"dynamic": 0}),
    ],
)
def test_it_computes_what_transformers_computes(
    model: str,
    dtype: str,
    options: dict[str, Any],
    references: dict[str, Path],
    request: pytest.FixtureRequest,
) -> None:
    spec = spec_for(request.getfixturevalue(model), "openvino", dtype, options)
    try:
        found = agreement_of(spec, references[model])
    except ArmbenchError as error:
        assert dtype == "bfloat16"
        assert "no bfloat16 on this CPU" in error.message
        pytest.skip(error.message)
    assert agreement.shortfalls(found, agreement.bounds(dtype, "synthetic")) == []


def test_every_dtype_is_stored_in_a_format_that_the_footprint_knows() -> None:
    for dtype in engines.module("openvino").DTYPES:
        stored = engines.stored("openvino", dtype, engines.resolve_options("openvino", {}))
        assert stored is not None
        assert weight_format(stored.body).name == stored.body


def test_int4_would_not_pass_for_float32(qwen3: Path, references: dict[str, Path]) -> None:
    found = agreement_of(spec_for(qwen3, "openvino", "int4", {}), references["qwen3"])
    assert agreement.shortfalls(found, agreement.bounds("float32", "synthetic"))


def test_swapped_nibbles_are_caught(
    qwen3: Path, references: dict[str, Path], tmp_path: Path
) -> None:
    spec = spec_for(qwen3, "openvino", "int4", {})
    assert spec.prepared is not None
    text = (Path(spec.prepared) / "model.xml").read_text()
    (tmp_path / "model.xml").write_text(text)
    constants = np.fromfile(Path(spec.prepared) / "model.bin", dtype=np.uint8)
    packed = re.findall(r'element_type="i4" shape="[^"]*" offset="(\d+)" size="(\d+)"', text)
    assert len(packed) == 1 + 2 * 7  # the table of tokens, seven matrices in each layer
    for offset, size in packed:
        part = constants[int(offset) : int(offset) + int(size)]
        part[:] = part << 4 | part >> 4
    constants.tofile(tmp_path / "model.bin")
    spec.prepared = str(tmp_path)
    found = agreement_of(spec, references["qwen3"])
    assert agreement.shortfalls(found, agreement.bounds("int4", "synthetic"))


def test_a_row_of_a_batch_gets_the_tokens_it_gets_alone(qwen2: Path) -> None:
    spec = spec_for(qwen2, "openvino", "float32", {})
    rows = np.random.default_rng(1).integers(0, 4096, (3, 20)).tolist()
    with process_for(spec) as process:
        process.ask(wire.Load(spec), wire.Loaded, 120)
        process.ask(wire.Allocate(3, 40), wire.Done, 120)
        together = process.ask(wire.Generate(rows, 12), wire.Generated, 120).tokens
        process.ask(wire.Allocate(1, 40), wire.Done, 120)
        alone = [
            process.ask(wire.Generate([row], 12), wire.Generated, 120).tokens[0] for row in rows
        ]
    assert together == alone


@pytest.mark.skipif(len(CPUS) < 2, reason="needs two allowed CPUs")
@pytest.mark.parametrize("cpus", [CPUS, CPUS[::-1], CPUS[1:]], ids=str)
def test_every_compute_thread_is_on_a_cpu_of_its_own(cpus: list[int], qwen3: Path) -> None:
    spec = spec_for(qwen3, "openvino", "float32", {}, cpus)
    load = LoadPoint(kind="offline", batch=8, input_tokens=384, output_tokens=4, requests=24)
    with process_for(spec) as process:
        process.ask(wire.Load(spec), wire.Loaded, 120)
        process.ask(wire.Allocate(8, 388), wire.Done, 120)
        driver.warm_up(process, load, seed=1, vocabulary=4096, timeout_s=120)
        with Watch(process.pid, cpus, [0], interval_s=0.05) as watch:
            driver.run_load(process, load, seed=1, repeat=0, vocabulary=4096, timeout_s=120)
        reported = process.report(60)
        proof = watch.proof(reported.runtime, reported.policy)
    assert proof.faults == []
    assert sorted(proof.threads[i].affinity for i in proof.compute) == sorted(map(str, cpus))
    assert any(line.startswith("FullyConnected") for line in reported.facts["primitives"])
