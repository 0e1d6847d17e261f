"""Which library kernels really run for a variant: seen in a pass of its own, never timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from harness import engines, wire
from harness.engine_process import EngineFailed, EngineProcess
from harness.engines import EngineSpec
from harness.errors import ArmbenchError
from harness.load.prompts import prompts
from harness.records.run import Case, KernelPath, Variant

# Enough for a prefill's kernels and a decode step's, in batches as the plan has them.
_INPUT, _OUTPUT = 64, 4
_WIDTHS = {"float32": "f32", "bfloat16": "bf16", "int8": "s8"}

Start = Callable[[EngineSpec, dict[str, str]], EngineProcess]


def trace(
    start: Start,
    spec: EngineSpec,
    variant: Variant,
    cases: Sequence[Case],
    *,
    vocabulary: int,
    timeout_s: float,
) -> KernelPath | None:
    """The kernels of `variant` at the largest batch of `cases`; None for an engine with none.

    `start` makes a fresh engine process with more variables. A failure is a reason, not an error.
    """
    variables = engines.trace_environment(variant.engine)
    if variables is None or not cases:
        return None
    load = max((case.load for case in cases), key=lambda load: load.batch)
    short = msgspec.structs.replace(
        load,
        input_tokens=min(load.input_tokens, _INPUT),
        output_tokens=min(load.output_tokens, _OUTPUT),
    )
    batch = prompts(short, seed=0, repeat=-1, vocabulary=vocabulary, requests=1)[0]
    try:
        with start(msgspec.structs.replace(spec, trace=True), variables) as process:
            process.ask(
                wire.Load(msgspec.structs.replace(spec, trace=True)), wire.Loaded, timeout_s
            )
            room = wire.Allocate(short.batch, short.input_tokens + short.output_tokens)
            process.ask(room, wire.Done, timeout_s)
            asked = wire.Trace(batch, short.output_tokens)
            path = process.ask(asked, wire.Traced, timeout_s).path
    except (EngineFailed, ArmbenchError) as error:
        return KernelPath(variant=variant, reason=getattr(error, "reason", None) or str(error))
    path.variant = variant
    path.notes += other_types(path)
    return path


def other_types(path: KernelPath) -> list[str]:
    """What is said where oneDNN's products did not read weights in the variant's dtype."""
    wanted = _WIDTHS.get(path.variant.dtype or "")
    products = [k for k in path.kernels if k.types and "wei:" in k.types]
    other = {k.types.split("wei:")[1].split()[0] for k in products if k.types} - {wanted}
    if wanted is None or not other:
        return []
    text = (
        f"oneDNN read weights as {', '.join(sorted(other))}, not {wanted}: the bytes of a decode "
        "step are not those of its bound"
    )
    return [text]
