"""Which kernels ran: read from what the libraries print, and seen in real engine processes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness import engines, evidence
from harness.engine_process import EngineProcess
from harness.engines import EngineSpec
from harness.engines._traces import is_reference, read_mkl, read_onednn, read_profile
from harness.records.run import Case, KernelPath, KernelSeen, LoadPoint, Variant

HEAD = "onednn_verbose,v1,primitive,exec,cpu,"
TYPES = "src:f32::blocked:ab::f0 wei:f32::blocked:AB16b64a::f0 bia:undef::undef::: dst:f32::b"


def call(primitive: str, kernel: str, took: float) -> str:
    return f"{HEAD}{primitive},{kernel},forward_inference,{TYPES},attr,,mb1ic8oc8,{took}"


def test_onednn_lines_become_kernels_with_types_and_isa() -> None:
    kernels, facts = read_onednn(
        [
            "onednn_verbose,v1,info,oneDNN v3.12.0 (commit 80afa71)",
            "onednn_verbose,v1,info,cpu,isa:AArch64 SVE (256 bits)",
            "onednn_verbose,v1,primitive,info,template:operation,engine,primitive,exec_time",
            call("inner_product", "brg_matmul:sve_256", 2.0),
            call("inner_product", "brg_matmul:sve_256", 1.0),
            "something else, printed by the engine",
            HEAD + "cut off",
        ]
    )
    assert facts == {"oneDNN": "v3.12.0 (commit 80afa71)", "oneDNN isa": "AArch64 SVE (256 bits)"}
    (only,) = kernels
    assert (only.name, only.calls) == ("inner_product brg_matmul:sve_256", 2)
    assert only.seconds == pytest.approx(0.003)
    assert only.types == "src:f32 wei:f32 dst:f32"
    assert not only.reference


@pytest.mark.parametrize(
    ("name", "slow"),
    [
        ("matmul ref:any", True),
        ("inner_product gemm:ref", True),
        ("matmul ref_int8:any", True),
        ("reorder simple:any", True),
        ("matmul brg_matmul:avx512_core", False),
        ("inner_product gemm:acl", False),
        ("matmul gemm:jit", False),
        ("reorder jit:uni", False),
    ],
)
def test_portable_code_is_told_from_fast_kernels(name: str, slow: bool) -> None:
    assert is_reference(name) == slow


def test_a_reference_kernel_counts_from_one_percent_of_the_time() -> None:
    lines = [call("matmul", "brg:avx2", 99.5), call("reorder", "simple:any", 0.5)]
    assert [k.reference for k in read_onednn(lines)[0]] == [False, False]
    lines = [call("matmul", "brg:avx2", 90.0), call("matmul", "ref:any", 10.0)]
    assert [k.reference for k in read_onednn(lines)[0]] == [False, True]


def test_mkl_calls_are_counted_in_their_units() -> None:
    kernels, facts = read_mkl(
        [
            "MKL_VERBOSE oneMKL 2024.0 Update 2 for Intel(R) 64 architecture, Lnx 2.60GHz",
            "MKL_VERBOSE SGEMM(T,N,896,1,896,0x7f,0x55,896) 254.21us CNR:OFF Dyn:1",
            "MKL_VERBOSE SGEMM(T,N,896,1,896,0x7f,0x55,896) 1.5ms CNR:OFF Dyn:1",
        ]
    )
    assert [(k.name, k.calls) for k in kernels] == [("MKL SGEMM", 2)]
    assert kernels[0].seconds == pytest.approx(0.00175421)
    assert facts["MKL"].startswith("oneMKL 2024.0")


def test_a_profile_is_counted_by_operator() -> None:
    node = {
        "cat": "Node",
        "name": "/model/MatMul_kernel_time",
        "dur": 250,
        "args": {
            "op_name": "MatMul",
            "provider": "CPUExecutionProvider",
            "input_type_shape": [{"float": [1, 8]}, {"float": [8, 8]}],
        },
    }
    other = {"cat": "Session", "name": "model_run", "dur": 999, "args": {}}
    kernels, facts = read_profile(json.dumps([other, node, node]))
    (only,) = kernels
    assert (only.name, only.calls, only.types) == ("MatMul", 2, "float")
    assert only.seconds == pytest.approx(0.0005)
    assert facts["providers"] == "CPUExecutionProvider"


def test_weights_read_in_another_type_than_the_bound_counts_are_told() -> None:
    variant = Variant(engine="torch", dtype="bfloat16", threads=1)
    seen = KernelSeen(name="matmul x", calls=1, types="src:f32 wei:f32 dst:f32")
    assert "f32, not bf16" in evidence.other_types(KernelPath(variant=variant, kernels=[seen]))[0]
    seen.types = "src:bf16 wei:bf16 dst:bf16"
    assert evidence.other_types(KernelPath(variant=variant, kernels=[seen])) == []


def traced(engine: str, checkpoint: Path, **changes: Any) -> KernelPath | None:
    cpu = min(os.sched_getaffinity(0))
    options = engines.resolve_options(engine, {})
    variant = Variant(engine=engine, dtype="float32", threads=1, options=options)
    load = LoadPoint(kind="offline", batch=2, input_tokens=16, output_tokens=4, requests=1)
    spec = EngineSpec(
        engine=engine, checkpoint=str(checkpoint), dtype="float32", cpus=[cpu], options=options
    )

    def start(spec: EngineSpec, more: dict[str, str]) -> EngineProcess:
        variables = engines.module(engine).environment(spec.cpus, options)
        return EngineProcess(spec.cpus, variables | more)

    case = Case(id=0, variant=variant, load=load)
    return evidence.trace(start, spec, variant, [case], vocabulary=4096, timeout_s=120)


@pytest.mark.engine
def test_torch_shows_the_kernels_of_its_packed_products(qwen3: Path) -> None:
    pytest.importorskip("torch")
    path = traced("torch", qwen3)
    assert path is not None
    assert path.reason is None
    products = [k for k in path.kernels if k.types and "wei:f32" in k.types]
    assert products
    assert "oneDNN isa" in path.facts
    assert path.facts["cpu_capability"]
    assert path.notes == []


def test_the_fake_engine_runs_no_library(qwen3: Path) -> None:
    assert traced("fake", qwen3) is None


def test_an_engine_that_cannot_be_traced_here_is_a_reason_not_a_failed_run(qwen3: Path) -> None:
    path = traced("onnxruntime", qwen3)  # without its conversion
    assert path is not None
    assert path.kernels == []
    assert path.reason
