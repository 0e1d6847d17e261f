"""Conversions of a checkpoint for an engine: made once, in a child, and cached."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from harness import cache, engines, packages, places, wire
from harness.engine_process import EngineFailed, EngineProcess
from harness.engines import EngineSpec
from harness.errors import ArmbenchError
from harness.model.architecture import Dimensions
from harness.model.checkpoint import Checkpoint, beside_sha256
from harness.records.run import Variant
from harness.units import format_bytes

Say = Callable[[str], None]


def _quiet(_: str) -> None:
    """Tell nobody."""


def folder_for(variant: Variant, checkpoint: Checkpoint, fingerprint: str) -> Path | None:
    """Where `variant`'s conversion of `checkpoint` lies, or would; None where it needs none.

    `fingerprint` is that of config and weights. What lies beside them counts as well: most
    conversions hold the tokenizer.
    """
    converter = engines.converter(variant.engine)
    if converter is None:
        return None
    maker = str(getattr(converter, "CONVERSION_OF", variant.engine))
    wanted = converter.prepare_options(variant.dtype, variant.options)
    wanted["packages"] = _versions(converter.prepare_packages(variant.options))
    wanted["beside"] = beside_sha256(checkpoint.folder)
    key = json.dumps([fingerprint, maker, wanted], sort_keys=True)
    name = f"{maker}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    return places.cache_dir() / "conversions" / name


def _versions(needed: Sequence[str]) -> dict[str, str]:
    return {name: found or "absent" for name, found in packages.versions(needed).items()}


class Conversion(Struct, kw_only=True):
    """What one conversion takes at most, in bytes: an estimate of its engine."""

    label: str
    memory_bytes: int
    disk_bytes: int


def need(variant: Variant, d: Dimensions) -> Conversion | None:
    """What `variant`'s conversion takes; None where its engine converts nothing."""
    converter = engines.converter(variant.engine)
    if converter is None:
        return None
    memory, disk = converter.prepare_bytes(d, variant.dtype, variant.options)
    label = f"{variant.engine} {variant.dtype}"
    return Conversion(label=label, memory_bytes=int(memory), disk_bytes=int(disk))


def planned(variants: Sequence[Variant], d: Dimensions) -> list[Conversion]:
    """The conversions that `variants` call for, each once, whether or not they are cached."""
    found: list[Conversion] = []
    for variant in variants:
        one = need(variant, d)
        if one is not None and one not in found:
            found.append(one)
    return found


def prepare(
    variant: Variant, checkpoint: Checkpoint, fingerprint: str, cpus: list[int], say: Say = _quiet
) -> tuple[Path | None, float | None]:
    """(folder, seconds it took now, None where cached) of `variant`'s conversion.

    Where another process makes the same one, it is waited for. `say` is told what is begun, and
    what it needs. Raises ArmbenchError where packages, memory or disk are missing, EngineFailed
    where the converter fails; its last output is kept beside the folder.
    """
    target = folder_for(variant, checkpoint, fingerprint)
    if target is None:
        return None, None
    seconds = None
    if not target.is_dir():
        seconds = _make(target, variant, checkpoint, fingerprint, cpus, say)
    cache.use(target)
    return target, seconds


def _make(
    target: Path,
    variant: Variant,
    checkpoint: Checkpoint,
    fingerprint: str,
    cpus: list[int],
    say: Say,
) -> float | None:
    """Convert into `target`; the seconds that took, None where another process did it meanwhile."""
    _check_packages(variant)
    _make_folder(target.parent)
    with cache.writing(target, lambda: say(f"{variant.label}: another process converts the same")):
        if target.is_dir():
            return None
        _clear_leftovers(target)
        wanted = need(variant, checkpoint.dimensions)
        assert wanted is not None
        _check_room(wanted.memory_bytes, wanted.disk_bytes, target.parent)
        disk, memory = format_bytes(wanted.disk_bytes), format_bytes(wanted.memory_bytes)
        say(f"{variant.label}: converting, up to {disk} of disk and {memory} of memory")
        return _convert(target, variant, checkpoint, fingerprint, cpus)


def _convert(
    target: Path, variant: Variant, checkpoint: Checkpoint, fingerprint: str, cpus: list[int]
) -> float:
    assert variant.dtype is not None  # a plan names it
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    spec = EngineSpec(
        engine=variant.engine,
        checkpoint=str(checkpoint.folder),
        dtype=variant.dtype,
        cpus=cpus,
        options=variant.options,
    )
    failure = target.with_name(f"{target.name}.failed.txt")
    start = time.monotonic()
    try:
        draft.mkdir()
        with EngineProcess(cpus, {"OMP_NUM_THREADS": str(len(cpus))}) as process:
            process.ask(wire.Prepare(spec, str(draft)), wire.Done, None)
            peak = _peak_rss(process.pid)
        shutil.rmtree(draft / "cache", ignore_errors=True)
        seconds = time.monotonic() - start
        _write_note(draft, variant, checkpoint, fingerprint, seconds, peak)
        draft.rename(target)
        failure.unlink(missing_ok=True)
    except EngineFailed as error:
        failure.write_text("\n".join([error.reason, *error.stderr_tail, ""]))
        raise EngineFailed(
            f"converting the checkpoint: {error.reason} (its last output: {failure})",
            error.stderr_tail,
            error.exit_code,
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return seconds


def _write_note(
    draft: Path,
    variant: Variant,
    checkpoint: Checkpoint,
    fingerprint: str,
    seconds: float,
    peak: int | None,
) -> None:
    converter = engines.converter(variant.engine)
    assert converter is not None
    assert variant.dtype is not None
    note = cache.ConversionNote(
        engine=variant.engine,
        dtype=variant.dtype,
        checkpoint=checkpoint.name,
        fingerprint=fingerprint,
        options=converter.prepare_options(variant.dtype, variant.options),
        packages=_versions(converter.prepare_packages(variant.options)),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        bytes=sum(file.stat().st_size for file in draft.rglob("*") if file.is_file()),
        peak_rss_bytes=peak,
    )
    text = msgspec.json.format(msgspec.json.encode(note), indent=1)
    (draft / cache.NOTE).write_bytes(text + b"\n")


def _peak_rss(pid: int) -> int | None:
    """Peak resident bytes of live process `pid` (VmHWM of proc(5)); None where not readable."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _clear_leftovers(target: Path) -> None:
    """Remove what killed conversions have left, where this process alone may write `target`."""
    for path in target.parent.iterdir():
        if path.name.startswith(f".{target.name}.") or cache.is_leftover(path):
            shutil.rmtree(path, ignore_errors=True)


def _check_packages(variant: Variant) -> None:
    converter = engines.converter(variant.engine)
    assert converter is not None
    if missing := packages.missing(converter.prepare_packages(variant.options)):
        raise ArmbenchError(
            f"engine {variant.engine} must convert the checkpoint, which needs "
            f"{', '.join(missing)}",
            hint=packages.install_command(variant.engine, missing),
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArmbenchError(
            f"{folder} cannot be written: {error.strerror}",
            hint="set ARMBENCH_CACHE to a folder of your own",
        ) from error


def _check_room(memory: int, disk: int, folder: Path) -> None:
    import psutil

    available = psutil.virtual_memory().available
    if memory > available:
        raise ArmbenchError(
            f"converting the checkpoint needs about {format_bytes(memory)} of memory, "
            f"{format_bytes(available)} are available",
            hint="convert on a larger machine and copy the cache folder, or take a smaller model",
        )
    free = shutil.disk_usage(folder).free
    if disk > free:
        raise ArmbenchError(
            f"converting the checkpoint needs {format_bytes(disk)} in {folder}, "
            f"{format_bytes(free)} are free",
            hint="free disk space, or set ARMBENCH_CACHE to a folder on a larger disk",
        )
