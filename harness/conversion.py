"""Conversions of a checkpoint for an engine: made once, in a child, and cached."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import time
from pathlib import Path

from harness import engines, places, wire
from harness.engine_process import EngineFailed, EngineProcess
from harness.engines import EngineSpec
from harness.errors import ArmbenchError
from harness.model.checkpoint import Checkpoint
from harness.records.run import Variant
from harness.units import format_bytes


def _missing(packages: tuple[str, ...]) -> list[str]:
    def absent(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is None
        except ModuleNotFoundError:  # its parent is absent
            return True

    return [p for p in packages if absent(p)]


def folder_for(variant: Variant, fingerprint: str) -> Path | None:
    """Where the conversion for `variant` lies, or would; None where the engine needs none."""
    converter = engines.converter(variant.engine)
    if converter is None:
        return None
    wanted = converter.prepare_options(variant.dtype, variant.options)
    wanted["packages"] = _versions(converter.prepare_packages(variant.options))
    key = json.dumps([fingerprint, variant.engine, wanted], sort_keys=True)
    name = f"{variant.engine}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    return places.cache_dir() / "conversions" / name


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in packages:
        try:
            found[package] = version(package.split(".")[0].replace("_", "-"))
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def prepare(
    variant: Variant, checkpoint: Checkpoint, fingerprint: str, cpus: list[int]
) -> tuple[Path | None, float | None]:
    """(folder, seconds it took now, None where cached) of `variant`'s conversion.

    Raises ArmbenchError where packages, memory or disk are missing, EngineFailed where the
    converter fails.
    """
    target = folder_for(variant, fingerprint)
    if target is None or target.is_dir():
        return target, None
    converter = engines.converter(variant.engine)
    assert converter is not None
    if missing := _missing(tuple(converter.prepare_packages(variant.options))):
        raise ArmbenchError(
            f"engine {variant.engine} must convert the checkpoint, which needs "
            f"{', '.join(missing)}",
            hint=f"pip install 'armbench[{variant.engine}]'",
        )
    memory, disk = converter.prepare_bytes(
        checkpoint.dimensions, variant.dtype, variant.options
    )
    _check_room(memory, disk, target.parent)
    assert variant.dtype is not None  # a plan names it
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    start = time.monotonic()
    try:
        draft.mkdir(parents=True)
        spec = EngineSpec(
            engine=variant.engine,
            checkpoint=str(checkpoint.folder),
            dtype=variant.dtype,
            cpus=cpus,
            options=variant.options,
        )
        with EngineProcess(cpus, {"OMP_NUM_THREADS": str(len(cpus))}) as process:
            process.ask(wire.Prepare(spec, str(draft)), wire.Done, None)
        shutil.rmtree(draft / "cache", ignore_errors=True)
        draft.rename(target)
    except EngineFailed as error:
        raise EngineFailed(
            f"converting the checkpoint: {error.reason}", error.stderr_tail, error.exit_code
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target, time.monotonic() - start


def _check_room(memory: int, disk: int, folder: Path) -> None:
    import psutil

    available = psutil.virtual_memory().available
    if memory > available:
        raise ArmbenchError(
            f"converting the checkpoint needs about {format_bytes(memory)} of memory, "
            f"{format_bytes(available)} are available",
            hint="convert on a larger machine and copy the cache folder, or take a smaller model",
        )
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if disk > free:
        raise ArmbenchError(
            f"converting the checkpoint needs {format_bytes(disk)} in {folder}, "
            f"{format_bytes(free)} are free",
            hint="free disk space, or set ARMBENCH_CACHE to a folder on a larger disk",
        )
