"""What the comparing scripts share: engines by a short name, ready to run, and one timed trial."""

from __future__ import annotations

import sys
from typing import NamedTuple

from harness import conversion, engines, wire
from harness.cli.run import options_of
from harness.engine_process import EngineProcess
from harness.engines import EngineSpec
from harness.load import driver
from harness.model.checkpoint import Checkpoint
from harness.records.run import LoadPoint, Variant


class Rates(NamedTuple):
    """Tokens per second of one request."""

    prefill: float
    decode: float


def spec(opened: Checkpoint, key: str, setting: str, cpus: list[int]) -> EngineSpec:
    """`engine:dtype` or `engine:dtype:key=value,key=value`, converted where it needs it."""
    engine, dtype, *more = setting.split(":", 2)
    pairs = [f"{engine}.{pair}" for pair in (more[0].split(",") if more else [])]
    options = engines.resolve_options(engine, options_of(pairs, {}).get(engine, {}))
    variant = Variant(engine=engine, dtype=dtype, threads=len(cpus), options=options)
    folder, seconds = conversion.prepare(variant, opened, key, cpus)
    if seconds:
        print(f"converted for {setting} in {seconds:.0f} s", file=sys.stderr)
    return EngineSpec(
        engine=engine,
        checkpoint=str(opened.folder),
        dtype=dtype,
        cpus=cpus,
        options=options,
        prepared=str(folder) if folder else None,
    )


def process_for(one: EngineSpec) -> EngineProcess:
    variables = engines.module(one.engine).environment(one.cpus, one.options)
    return EngineProcess(one.cpus, variables)


def our_rates(one: EngineSpec, vocabulary: int, inputs: int, outputs: int, seed: int) -> Rates:
    """One request as the harness makes it: a fresh process, warmed up, then timed."""
    load = LoadPoint(
        kind="single_stream", batch=1, input_tokens=inputs, output_tokens=outputs, requests=1
    )
    with process_for(one) as process:
        process.ask(wire.Load(one), wire.Loaded, None)
        process.ask(wire.Allocate(1, inputs + outputs), wire.Done, None)
        driver.warm_up(process, load, seed=seed, vocabulary=vocabulary, timeout_s=None)
        record = driver.run_load(
            process, load, seed=seed, repeat=0, vocabulary=vocabulary, timeout_s=None
        )[0]
    start = record.started_ns or record.sent_ns
    return rates([start, *record.token_ns], inputs)


def rates(stamps_ns: list[int], inputs: int) -> Rates:
    """By the instants of the start and of each token."""
    start, first, last = stamps_ns[0], stamps_ns[1], stamps_ns[-1]
    return Rates(inputs / ((first - start) / 1e9), (len(stamps_ns) - 2) / ((last - first) / 1e9))
