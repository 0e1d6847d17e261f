"""Results and values to compare, made without a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.comparing.samples import Group, Runs
from harness.records.comparison import CaseValues, RunValues
from harness.records.machine import (
    Cloud,
    Conditions,
    Cpu,
    Limits,
    Machine,
    Memory,
    Reading,
    Topology,
)
from harness.records.run import (
    SCHEMA,
    Case,
    LoadPoint,
    ModelIdentity,
    Plan,
    RequestRecord,
    Result,
    Trial,
    Variant,
)

QUESTION = {
    "model": "qwen3-0.6b",
    "config": "c0ffee",
    "weights": "synthetic",
    "engine": "torch",
    "dtype": "float32",
    "threads": "2",
    "instances": "1",
    "options": "",
    "serve": "",
    "load": "single_stream",
    "batch": "1",
    "input_tokens": "64",
    "output_tokens": "32",
    "requests": "1",
    "serving": "",
    "slo": "",
    "endpoint": "",
    "sampling": "",
}


def case_values(
    columns: Mapping[str, Sequence[float | None]] | None = None, **parts: str
) -> CaseValues:
    """One case with columns of values; `parts` override those of the question."""
    question = {**QUESTION, **parts}
    columns = {"decode_tok_per_s": [10.0, 10.1, 9.9]} if columns is None else columns
    count = max((len(column) for column in columns.values()), default=0)
    return CaseValues(
        label=" ".join(question[k] for k in ("engine", "dtype", "load")),
        question=question,
        repeats=list(range(count)),
        values={name: list(column) for name, column in columns.items()},
        asked=count,
    )


def run_values(*cases: CaseValues, file: str = "a.json", **more: Any) -> RunValues:
    """One run of these cases on a machine of two cores."""
    facts = {"cpu.product": "Graviton4", "software.torch": "2.13.0"}
    defaults: dict[str, Any] = {
        "created": "2026-11-01T00:00:00+00:00",
        "machine": "aws-c8g.large",
        "plan": "quick",
        "facts": facts,
        "vcpus": 2,
        "physical_cores": 2,
    }
    return RunValues(file=file, cases=list(cases), **{**defaults, **more})


def side(label: str, *runs: RunValues) -> Runs:
    return Runs(label=label, runs=list(runs))


def one(label: str, columns: Mapping[str, Sequence[float | None]], **parts: str) -> Runs:
    """A side of one run with one case."""
    return side(label, run_values(case_values(columns, **parts), file=f"{label}.json"))


def group(runs: Runs) -> Group:
    return runs.groups()[0]


def machine(cores: int = 2, *, threads_per_core: int = 1, product: str = "Graviton4") -> Machine:
    cpus = cores * threads_per_core
    return Machine(
        architecture="aarch64",
        cpu=Cpu(product=product, features=["asimddp", "i8mm"]),
        topology=Topology(
            cpus=cpus,
            online=f"0-{cpus - 1}",
            physical_cores=cores,
            threads_per_core=threads_per_core,
            packages=1,
            numa_nodes=1,
            vcpu="core" if threads_per_core == 1 else "hardware thread",
        ),
        memory=Memory(total_bytes=2**34),
        limits=Limits(allowed_cpus=f"0-{cpus - 1}"),
        cloud=Cloud(provider="aws", instance="c8g.large"),
        kernel="6.8.0",
    )


def trial(
    case: int = 0,
    repeat: int = 0,
    *,
    step_ms: float = 10.0,
    tokens: int = 32,
    digest: str = "d",
    joules: tuple[float, float] | None = None,
) -> Trial:
    """A trial of one request whose decode steps take `step_ms`."""
    start = 1_000_000_000
    stamps = [start + 50_000_000 + round(i * step_ms * 1e6) for i in range(tokens)]
    record = RequestRecord(
        id=0,
        slot=0,
        due_ns=start,
        sent_ns=start,
        started_ns=start,
        input_tokens=64,
        token_ns=stamps,
        output_sha256=f"{digest}{repeat}",
    )
    ends = (
        [
            Conditions(at_ns=at, readings={"energy_j": Reading(value=value)})
            for at, value in zip((0, 1_000_000_000), joules, strict=True)
        ]
        if joules
        else [None, None]
    )
    return Trial(
        case=case,
        repeat=repeat,
        order=repeat,
        started_at="2026-11-01T00:00:00+00:00",
        state="ok",
        records=[record],
        window_ns=(start, stamps[-1]),
        before=ends[0],
        after=ends[1],
    )


def result(
    steps_ms: Sequence[float] = (10.0, 10.1, 9.9),
    *,
    engine: str = "torch",
    on: Machine | None = None,
    model: Mapping[str, Any] | None = None,
    plan: Mapping[str, Any] | None = None,
    load: Mapping[str, Any] | None = None,
    threads: int = 2,
    **more: Any,
) -> Result:
    """A result of one case whose repeats have these decode steps."""
    point = {
        "kind": "single_stream",
        "batch": 1,
        "input_tokens": 64,
        "output_tokens": 32,
        "requests": 1,
        **(load or {}),
    }
    wanted: dict[str, Any] = {
        "name": "quick",
        "model": "qwen3-0.6b",
        "cases": [
            Case(
                id=0,
                variant=Variant(engine=engine, dtype="float32", threads=threads),
                load=LoadPoint(**point),
            )
        ],
        "repeats": len(steps_ms),
        "seed": 1,
        "cpus": [0, 1],
        "driver_cpus": [0, 1],
        "time_budget_s": None,
        "trial_timeout_s": None,
        "prompt_set_sha256": "abcd" * 16,
    }
    identity: dict[str, Any] = {
        "name": "qwen3-0.6b",
        "weights": "synthetic",
        "family": "qwen3",
        "parameters": 1,
        "config_sha256": "c" * 64,
        "files": {"m": "1" * 64},
    }
    made: dict[str, Any] = {
        "schema": SCHEMA,
        "armbench": "0.1.0",
        "created": "2026-11-01T00:00:00+00:00",
        "plan": Plan(**{**wanted, **(plan or {})}),
        "model": ModelIdentity(**{**identity, **(model or {})}),
        "machine": on or machine(),
        "software": {"torch": "2.13.0"},
        "finished": True,
        "trials": [trial(repeat=i, step_ms=step) for i, step in enumerate(steps_ms)],
    }
    return Result(**{**made, **more})
