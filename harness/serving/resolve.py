"""From what a user asks of a server to what its process needs: model, CPUs, memory, conversion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness import conversion, engines
from harness.engine_process import EngineFailed
from harness.engines import EngineSpec
from harness.errors import ArmbenchError
from harness.machine.detect import detect
from harness.machine.limits import available_bytes
from harness.machine.placement import Placement, default_instances, default_threads, place
from harness.machine.wish import parse_wish
from harness.model import checkpoint as checkpoints
from harness.model.architecture import Dimensions
from harness.model.checkpoint import Checkpoint
from harness.records.load import ServeSetting
from harness.records.machine import Machine
from harness.records.run import Variant
from harness.serving.options import DEFAULT_CONTEXT, ServeOptions, Service
from harness.units import format_bytes, format_cpu_list

Say = Callable[[str], None]


def resolve(options: ServeOptions, say: Say) -> Service:
    """All that serving by `options` needs; converts the checkpoint where the engine wants that.

    `say` is called with what is being done. Raises ArmbenchError where it can't be served here.
    """
    check_engine(options.engine, options.dtype)
    own = engines.resolve_options(options.engine, options.options)
    _, d = checkpoints.peek(options.model)
    setting = serve_setting(options, d)
    machine = detect()
    wish = parse_wish(options.placement)
    instances = default_instances(machine, wish) if options.instances is None else options.instances
    _positive("instances", instances)
    threads = options.threads or default_threads(machine, wish, instances)
    placement = place(machine, threads, wish, instances)
    check_memory(options.engine, options.dtype, own, setting, d, machine, instances)
    say("opening the checkpoint")
    model = checkpoints.resolve(options.model, progress=_progress(say))
    for note in _notes(placement):
        say(f"note: {note}")
    spec = EngineSpec(
        engine=options.engine,
        checkpoint=str(model.folder),
        dtype=options.dtype,
        cpus=placement.cpus,
        options=own,
    )
    spec.prepared = _converted(spec, model, say)
    return Service(
        spec=spec,
        name=options.name or model.name,
        vocabulary=d.vocabulary,
        setting=setting,
        driver_cpus=placement.driver,
        instances=placement.instances,
        max_waiting=_positive("max_waiting", options.max_waiting, least=0),
        host=options.host,
        port=_positive("port", options.port, least=0, most=65535),
        drain_s=options.drain_s,
        step_timeout_s=options.step_timeout_s,
    )


def _notes(placement: Placement) -> list[str]:
    """What a user should know of where it runs; a server takes more than a run's driver does."""
    notes = [note for note in placement.notes if not note.startswith("the driver")]
    if placement.shared:
        every = {cpu for one in placement.instances for cpu in one.cpus}
        cpus = format_cpu_list(set(placement.driver) & every)
        notes.append(f"HTTP shares CPUs {cpus} with the engine, and takes its time from it")
    return notes


def check_engine(engine: str, dtype: str) -> None:
    """Raise ArmbenchError where `engine` can't serve, is not installed, or has no `dtype`."""
    module = engines.module(engine)
    if not getattr(module, "serves", False):
        able = [n for n in engines.names() if getattr(engines.module(n), "serves", False)]
        raise ArmbenchError(
            f"engine {engine} can't serve", hint=f"choose one of {', '.join(able) or 'none'}"
        )
    if dtype not in module.DTYPES:
        raise ArmbenchError(
            f"engine {engine} has no dtype {dtype!r}", hint=f"choose {', '.join(module.DTYPES)}"
        )
    if missing := engines.missing_packages(engine):
        raise ArmbenchError(
            f"engine {engine} needs {', '.join(missing)}, not installed here",
            hint=f"pip install 'armbench[{engine}]', or choose --engine",
        )


def serve_setting(options: ServeOptions, d: Dimensions) -> ServeSetting:
    """Slots, context, chunk and KV budget, with defaults filled in. Raises ArmbenchError."""
    slots = _positive("slots", options.slots)
    context = min(d.context, DEFAULT_CONTEXT) if options.context is None else options.context
    if not 2 <= context <= d.context:
        raise ArmbenchError(
            f"context is {context}", hint=f"give 2 to {d.context}, the most that the model has"
        )
    kv = slots * context if options.kv_tokens is None else options.kv_tokens
    if not 2 <= kv <= slots * context:
        raise ArmbenchError(
            f"kv_tokens is {kv}", hint=f"give 2 to {slots * context}, slots times context"
        )
    chunk = _positive("chunk", options.chunk)
    return ServeSetting(slots=slots, context=context, chunk=chunk, kv_tokens=kv)


def _positive(name: str, value: int, *, least: int = 1, most: int = 1_000_000) -> int:
    if not least <= value <= most:
        raise ArmbenchError(f"{name} is {value}", hint=f"give a whole number {least} to {most}")
    return value


def check_memory(
    engine: str,
    dtype: str,
    options: Mapping[str, Any],
    setting: ServeSetting,
    d: Dimensions,
    machine: Machine,
    instances: int = 1,
) -> None:
    """Raise ArmbenchError where engines and slots would not fit into the memory there is now."""
    one = engines.serving_bytes(engine, d, dtype, setting, options)
    shared = engines.shared_bytes(engine, d, dtype, options)
    needed = one + (instances - 1) * max(0, one - shared)
    available = available_bytes(machine.limits)
    if needed > available:
        raise ArmbenchError(
            f"{setting.slots} sequences of {setting.context} tokens need about "
            f"{format_bytes(needed)} of memory with the model"
            f"{f', {instances} times,' if instances > 1 else ','} {format_bytes(available)} are "
            "available",
            hint="take fewer slots or instances, a smaller context or model, bfloat16, or a larger "
            "machine",
        )


def _progress(say: Say) -> Callable[[int, int], None]:
    told = -1

    def progress(done: int, total: int) -> None:
        nonlocal told
        tenth = 10 * done // total
        if tenth > told:
            told = tenth
            say(f"writing synthetic weights: {10 * tenth} %")

    return progress


def _converted(spec: EngineSpec, model: Checkpoint, say: Say) -> str | None:
    """The folder of the conversion for `spec`, where its engine has one."""
    if engines.converter(spec.engine) is None:
        return None
    say("hashing the weights, and converting the checkpoint where that was not done before")
    fingerprint = checkpoints.fingerprint(checkpoints.identify(model))
    variant = Variant(
        engine=spec.engine, dtype=spec.dtype, threads=len(spec.cpus), options=spec.options
    )
    try:
        folder, _ = conversion.prepare(variant, model, fingerprint, spec.cpus, say)
    except EngineFailed as error:
        raise ArmbenchError(error.reason, hint="\n".join(error.stderr_tail[-3:])) from error
    return str(folder) if folder else None
