"""How a run begins: what it needs is there, what it is told holds, and its result file is open."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path

import harness
from harness import engines, plan, prices, store, validity
from harness.engine_run import EngineRun
from harness.errors import ArmbenchError, NotComparable
from harness.machine.detect import machine_slug
from harness.machine.limits import available_bytes
from harness.model import checkpoint as checkpoints
from harness.model.architecture import Dimensions
from harness.model.checkpoint import Checkpoint
from harness.records.machine import Machine
from harness.records.money import Price
from harness.records.run import SCHEMA, Plan, Result
from harness.runner import Listener
from harness.units import format_bytes

_PACKAGES = (
    *("torch", "transformers", "tokenizers", "safetensors", "onnxruntime", "onnxruntime-genai"),
    *("optimum", "optimum-onnx", "onnx", "numpy", "msgspec", "psutil"),
)


def software() -> dict[str, str]:
    """Versions of what runs: Python, C library and the packages that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "libc": " ".join(platform.libc_ver())}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def choose_price(
    given: str | None, instance: str | None, machine: Machine | None
) -> tuple[Price | None, str | None]:
    """(price, None) or (None, why there is none): given, by instance name, or by what was read.

    `machine` is the one that serves; None where that is another than this.
    """
    if given:
        return prices.parse_price(given), None
    if instance:
        return prices.instance_price(instance).price, None
    cloud = machine.cloud if machine else None
    if cloud is None or cloud.instance is None:
        where = "was detected" if machine else "is known of the other machine"
        return None, f"no cloud instance {where}: give --instance or --price"
    if cloud.guess:
        return None, f"the instance is a guess ({cloud.instance}): confirm it with --instance"
    try:
        return prices.cloud_price(cloud), None
    except ArmbenchError as error:
        return None, f"{error.message}: give --price"


def check_memory(resolved: Plan, machine: Machine, d: Dimensions) -> None:
    """Raise ArmbenchError where a case would not fit into the memory that is available now."""
    available = available_bytes(machine.limits)
    worst = max(resolved.cases, key=lambda case: plan.case_memory(case, d))
    needed = plan.case_memory(worst, d)
    if needed > available:
        raise ArmbenchError(
            f"{validity.label(worst)} needs about {format_bytes(needed)} of memory, "
            f"{format_bytes(available)} are available",
            hint="take a smaller model, batch or context, fewer instances, bfloat16, or a larger "
            "machine",
        )


def new_result(spec: plan.Spec, resolved: Plan, machine: Machine, model: Checkpoint) -> Result:
    """An empty result for `resolved`: everything that is known before the first trial."""
    identity = checkpoints.identify(model)
    price, reason = choose_price(spec.price, spec.instance, machine)
    now = datetime.datetime.now(datetime.UTC)
    return Result(
        schema=SCHEMA,
        armbench=harness.__version__,
        created=now.isoformat(timespec="seconds"),
        plan=resolved,
        model=identity,
        machine=machine,
        software=software(),
        price=price,
        price_reason=reason,
    )


def open_checkpoint(name: str, listener: Listener) -> Checkpoint:
    """The checkpoint of that name; synthetic weights are written where it is a built-in shape's.

    Raises ArmbenchError where there is none.
    """

    def progress(done: int, total: int) -> None:
        listener.phase("writing synthetic weights", done / total)

    listener.phase("opening the checkpoint")
    model = checkpoints.resolve(name, progress=progress)
    listener.phase("hashing the weights")
    return model


def new_run(spec: plan.Spec, machine: Machine, results: Path, listener: Listener) -> EngineRun:
    """A new run, its result file not yet written.

    Raises ArmbenchError for a plan that can't be run here, before anything large is loaded.
    """
    _, d = checkpoints.peek(spec.model)
    resolved = plan.resolve(spec, machine, d)
    for name in {case.variant.engine for case in resolved.cases}:
        if missing := engines.missing_packages(name):
            raise ArmbenchError(
                f"engine {name} needs {', '.join(missing)}, not installed here",
                hint=f"pip install 'armbench[{name}]', or choose --engine",
            )
    choose_price(spec.price, spec.instance, machine)
    check_memory(resolved, machine, d)
    now = datetime.datetime.now(datetime.UTC)
    path = store.new_path(results, machine_slug(machine), resolved.name, now)
    listener.started(machine, resolved)

    model = open_checkpoint(spec.model, listener)
    return EngineRun(new_result(spec, resolved, machine, model), path, model, listener)


def resume_run(path: Path, machine: Machine, listener: Listener) -> EngineRun:
    """The run in `path`, to be finished.

    Raises NotComparable where machine or weights are not those of the result.
    """
    result = store.load(path)
    if machine_slug(machine) != machine_slug(result.machine):
        raise NotComparable(
            f"{path} was begun on {machine_slug(result.machine)}, this is {machine_slug(machine)}",
            hint="resume on the same machine, or start a new run",
        )
    listener.started(machine, result.plan)
    model = checkpoints.resolve(result.plan.model)
    identity = checkpoints.identify(model)
    if checkpoints.fingerprint(identity) != checkpoints.fingerprint(result.model):
        raise NotComparable(
            f"{result.plan.model} has other weights now than when {path} was begun",
            hint="start a new run",
        )
    return EngineRun(result, path, model, listener)
