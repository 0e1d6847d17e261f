"""Result files: one for each plan on each machine, whole at every instant, numbered by schema."""

from __future__ import annotations

import contextlib
import datetime
import gc
import json
import mmap
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import ArmbenchError
from harness.records.run import SCHEMA, Result, Trial

# One step for each schema that was ever written: from the key to the key plus one.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
_MAX_BYTES = 2 * 2**30
_LARGE_BYTES = 64 * 2**20
CEILINGS = "ceilings"  # the folder beside the plans' that holds what `armbench ceilings` measured

PUBLISHED = "published"  # beside the machines: figures of others, made by scripts/update-readme


def safe_name(text: str) -> str:
    """`text` as a file name: lower case letters, digits, dots and dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:80] or "unnamed"


def new_path(root: Path, machine: str, plan: str, now: datetime.datetime) -> Path:
    """A path that does not exist yet: `<root>/<machine>/<plan>/<UTC time>.json`.

    Raises ArmbenchError where the folder cannot be written.
    """
    folder = root / safe_name(machine) / safe_name(plan)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ArmbenchError(
            f"results folder {folder} cannot be written: {error.strerror}",
            hint="give another one with --results DIR",
        ) from error
    stem = now.strftime("%Y%m%dT%H%M%SZ")
    path, number = folder / f"{stem}.json", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.json"
    return path


def write(body: bytes, path: Path) -> None:
    """Replace `path` by `body`, a result, as `replace` does.

    Raises ArmbenchError where it cannot be written (the old file is then as it was).
    """
    try:
        replace(body, path)
    except OSError as error:
        raise ArmbenchError(
            f"result {path} cannot be written: {error.strerror}",
            hint="free disk space or give another folder with --results DIR, then --resume",
        ) from error


def replace(body: bytes, path: Path) -> None:
    """Replace `path` by `body`, on disk before it returns; the old file stays until then.

    Raises OSError where it cannot be written (the old file is then as it was).
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with draft.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def save(result: Result, path: Path) -> None:
    """Replace `path` by `result`, as `write` does."""
    write(msgspec.json.encode(result), path)


def load(path: Path) -> Result:
    """The result in `path`, brought to today's schema.

    Raises ArmbenchError for a file that is missing, empty, cut off, no result, or newer.
    """
    try:
        body = _content(path)
    except OSError as error:
        raise ArmbenchError(f"result {path} cannot be read: {error.strerror}") from error
    if not body:
        raise ArmbenchError(f"result {path} is empty", hint="run the plan again")
    with _uncollected():
        found = _of_today(body)
        if found is None:
            return _of_any(bytes(body), path)
    if isinstance(body, mmap.mmap):
        gc.freeze()  # every full collection would look at a million records again
    return found


def _content(path: Path) -> bytes | mmap.mmap:
    """What is in the file; a large one is mapped, so that what was read can be let go.

    A mapped file must not be cut short while it is read; `write` replaces files whole.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_BYTES:
            raise ArmbenchError(f"{path} is larger than any result this program writes")
        if size < _LARGE_BYTES:
            return file.read().strip()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection inside: a million new records are all alive, and looking costs most."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _envelope() -> type[Any]:
    """A result whose trials are not decoded yet."""
    fields: list[Any] = []
    for one in msgspec.structs.fields(Result):
        kind = list[msgspec.Raw] if one.name == "trials" else one.type
        if one.required:
            fields.append((one.name, kind))
        else:
            default = {"default": one.default, "default_factory": one.default_factory}
            known = {k: v for k, v in default.items() if v is not msgspec.NODEFAULT}
            fields.append((one.name, kind, msgspec.field(**known)))
    return msgspec.defstruct("Envelope", fields, kw_only=True)


_ENVELOPE = _envelope()


def _of_today(body: bytes | mmap.mmap) -> Result | None:
    """The result in `body`, straight into its types; None where it has another schema or a fault.

    So no dicts are made on the way. Trials are decoded one by one, and what was read of a mapped
    file is let go behind each. What is wrong with a file is told by `_of_any`, which takes all
    that this does.
    """
    try:
        found = msgspec.json.decode(body, type=_ENVELOPE)
        if found.schema != SCHEMA:
            return None
        waiting, trials = found.trials[::-1], []
        while waiting:
            trials.append(msgspec.json.decode(waiting.pop(), type=Trial))
            if isinstance(body, mmap.mmap):
                body.madvise(mmap.MADV_DONTNEED)
        found.trials = trials
        return Result(**msgspec.structs.asdict(found))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _of_any(body: bytes, path: Path) -> Result:
    """The result in `body`, climbed to today's schema. Raises ArmbenchError as `load` does."""
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ArmbenchError(
            f"result {path} is cut off or not JSON: {error}", hint="run the plan again"
        ) from error
    if not isinstance(raw, dict) or not isinstance(raw.get("schema"), int):
        raise ArmbenchError(f"{path} is not an armbench result: it has no schema number")
    try:
        return msgspec.convert(upgraded(raw, path), Result)
    except msgspec.ValidationError as error:
        raise ArmbenchError(f"result {path} does not follow its schema: {error}") from error


def upgraded(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """`raw` climbed to today's schema, one step at a time."""
    number = raw["schema"]
    if number > SCHEMA:
        raise ArmbenchError(
            f"result {path} has schema {number}, this armbench knows up to {SCHEMA}",
            hint="upgrade armbench to read it",
        )
    while raw["schema"] < SCHEMA:
        step = UPGRADES.get(raw["schema"])
        if step is None:
            raise ArmbenchError(f"result {path} has schema {number}, too old to be read")
        raw = {**step(raw), "schema": raw["schema"] + 1}
    return raw


def find(name: str, root: Path) -> Path:
    """The file that `name` means: a path, or `latest` for the newest below `root`.

    The newest is never one of the figures that others published. Raises ArmbenchError where there
    is none.
    """
    if name != "latest":
        return Path(name)
    every = (p for p in root.glob("*/*/*.json") if not p.name.startswith("."))
    files = [p for p in every if p.parent.name != CEILINGS and p.parts[-3] != PUBLISHED]
    if not files:
        raise ArmbenchError(
            f"there is no result below {root}", hint="run `armbench run` first, or give a file"
        )
    return max(files, key=lambda p: p.stat().st_mtime_ns)
