"""From what a user calls a model to a checked folder of safetensors.

A checkpoint is untrusted: only JSON and safetensors headers are read here, sizes are held against
the files, and pickled weights or remote code are refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from harness import cache, places
from harness.errors import ArmbenchError, unknown_name
from harness.model import synthetic
from harness.model.architecture import Dimensions, dimensions, parameters, tensor_shapes
from harness.records.run import ModelIdentity
from harness.units import format_bytes

INDEX = "model.safetensors.index.json"
_MAX_HEADER = 100 * 2**20  # the safetensors library refuses more
_MAX_JSON = 64 * 2**20
_DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_BESIDE = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*tokens*.json",
    "generation_config.json",
    "*.jinja",
)
_HUB_FILES = ["*.json", "*.safetensors", "tokenizer*", "vocab*", "merges.txt", "*.jinja"]


class Checkpoint(Struct, kw_only=True):
    """A folder that was checked: config, sizes and where each tensor lies."""

    name: str
    folder: Path
    config: dict[str, Any]
    dimensions: Dimensions
    synthetic: bool
    revision: str | None = None

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weight files."""
        return sum(
            (self.folder / f).stat().st_size for f in set(tensor_files(self.folder).values())
        )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises ArmbenchError where it is missing, huge or malformed."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ArmbenchError(f"{path} is larger than {format_bytes(_MAX_JSON)}")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ArmbenchError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ArmbenchError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArmbenchError(f"{path} does not hold a JSON object")
    return value


def read_header(path: Path) -> dict[str, Any]:
    """The tensors of one safetensors file by name, held against the file's size.

    Raises ArmbenchError where the file is cut off, or its header is malformed or points outside.
    """
    again = "download the file again"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise ArmbenchError(f"{path} is no safetensors file, or cut off", hint=again)
            header = json.loads(file.read(length))
    except OSError as error:
        raise ArmbenchError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ArmbenchError(f"{path} has a malformed header: {error}", hint=again) from error
    if not isinstance(header, dict):
        raise ArmbenchError(f"{path} has a malformed header", hint=again)
    header.pop("__metadata__", None)
    for name, entry in header.items():
        _check_entry(path, name, entry, size - 8 - length)
    return header


def _check_entry(path: Path, name: str, entry: object, room: int) -> None:
    try:
        start, end = entry["data_offsets"]  # type: ignore[index]
        shape, dtype = entry["shape"], entry["dtype"]  # type: ignore[index]
        count = _DTYPES.get(dtype, 0)
        for length in shape:
            count *= length
        sound = 0 <= start <= end and (dtype not in _DTYPES or end - start == count)
    except (TypeError, ValueError, KeyError) as error:
        raise ArmbenchError(f"{path} describes tensor {name!r} wrongly: {entry!r:.200}") from error
    if not sound:
        raise ArmbenchError(f"{path} gives tensor {name!r} offsets that do not fit its shape")
    if end > room:
        raise ArmbenchError(
            f"{path} is cut off: tensor {name!r} ends at byte {end}, {room} are there",
            hint="download the file again",
        )


def tensor_files(folder: Path) -> dict[str, str]:
    """File name of each tensor in `folder`, by tensor name.

    Raises ArmbenchError for a missing shard, a shard outside the folder, shards beside a whole
    file, or pickled weights only.
    """
    single = folder / "model.safetensors"
    if (folder / INDEX).is_file():
        files = read_json(folder / INDEX).get("weight_map")
        if not isinstance(files, dict) or not all(isinstance(f, str) for f in files.values()):
            raise ArmbenchError(f"{folder / INDEX} has no weight_map of file names")
        names = sorted(set(files.values()))
        outside = [n for n in names if Path(n).name != n]
        if outside:
            raise ArmbenchError(f"{folder / INDEX} names a file outside the folder: {outside[0]!r}")
        absent = [n for n in names if not (folder / n).is_file()]
        if absent:
            raise ArmbenchError(
                f"{folder} lacks {len(absent)} of {len(names)} shards: {', '.join(absent[:4])}",
                hint="download the missing files into the folder",
            )
        if single.is_file() and names != [single.name]:
            raise ArmbenchError(
                f"{folder} holds two models: {single.name}, and {names[0]} by {INDEX}",
                hint="libraries differ in which they read: move one of them away",
            )
        return files
    if single.is_file():
        return dict.fromkeys(read_header(single), single.name)
    pickled = sorted(p.name for pattern in _PICKLED for p in folder.glob(pattern))
    if pickled:
        raise ArmbenchError(
            f"{folder} has pickled weights only ({pickled[0]}), which can run code when loaded",
            hint="convert them to safetensors first",
        )
    raise ArmbenchError(
        f"{folder} has no model.safetensors", hint="give a folder with config.json and safetensors"
    )


def _refuse_code(file: Path, settings: Mapping[str, Any]) -> None:
    if "auto_map" in settings:
        raise ArmbenchError(
            f"{file} asks for code from the checkpoint (auto_map)",
            hint="armbench never runs remote code; use a checkpoint of a built-in architecture",
        )


def _check_config(folder: Path, config: Mapping[str, Any]) -> Dimensions:
    _refuse_code(folder / "config.json", config)
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file():
        _refuse_code(tokenizer, read_json(tokenizer))
    if "quantization_config" in config:
        raise ArmbenchError(
            f"{folder / 'config.json'} describes quantised weights, which are not read here",
            hint="give the unquantised checkpoint; the engines quantise it themselves",
        )
    return dimensions(config)


def _check_tensors(folder: Path, d: Dimensions) -> None:
    files = tensor_files(folder)
    headers = {name: read_header(folder / name) for name in sorted(set(files.values()))}
    for tensor, shape in tensor_shapes(d).items():
        entry = headers.get(files.get(tensor, ""), {}).get(tensor)
        if entry is None:
            raise ArmbenchError(
                f"{folder} has no tensor {tensor!r}, which its config.json calls for",
                hint="download all shards, and the config.json that belongs to them",
            )
        if tuple(entry["shape"]) != shape or entry["dtype"] not in _DTYPES:
            raise ArmbenchError(
                f"tensor {tensor!r} is {entry['dtype']} {entry['shape']}, "
                f"config.json calls for {list(shape)} in one of {', '.join(_DTYPES)}"
            )


def open_folder(
    folder: Path, *, name: str | None = None, revision: str | None = None
) -> Checkpoint:
    """The checkpoint in `folder`, checked: config, shards, sizes and shapes.

    Raises ArmbenchError that names what is missing, cut off or refused.
    """
    if not (folder / "config.json").is_file():
        raise ArmbenchError(
            f"{folder} has no config.json", hint="give a Hugging Face checkpoint folder"
        )
    config = read_json(folder / "config.json")
    d = _check_config(folder, config)
    _check_tensors(folder, d)
    return Checkpoint(
        name=name or folder.resolve().name,
        folder=folder.resolve(),
        config=config,
        dimensions=d,
        synthetic=(folder / synthetic.MARK).is_file(),
        revision=revision,
    )


def builtin_names() -> list[str]:
    """Models whose shape is shipped: those that can be built with synthetic weights."""
    return sorted(p.stem for p in (places.config_dir() / "models").glob("*.toml"))


def builtin_config(name: str) -> dict[str, Any]:
    """The config.json of built-in shape `name`."""
    import tomllib

    path = places.config_dir() / "models" / f"{name}.toml"
    config: dict[str, Any] = tomllib.loads(path.read_text())["config"]
    return config


def synthetic_folder(name: str) -> Path:
    """Where the synthetic checkpoint of shape `name` lies, or would."""
    key = json.dumps([builtin_config(name), synthetic.identity()], sort_keys=True).encode()
    return places.cache_dir() / "models" / f"{name}-{hashlib.sha256(key).hexdigest()[:12]}"


def _from_hub(name: str) -> Path:
    """The local snapshot of hub id `name`; downloaded where it is not in the hub's cache."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise ArmbenchError(
            f"model {name!r} is a hub id, but the package huggingface_hub is not installed",
            hint="pip install 'armbench[torch]', or give a local folder",
        ) from error
    try:
        return Path(snapshot_download(name, local_files_only=True, allow_patterns=_HUB_FILES))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as error:  # the hub client raises whatever its HTTP library does
        raise ArmbenchError(
            f"model {name!r} is not in the local hub cache, and the hub gave: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            hint="download it on a machine with a network and give its folder, or use a built-in "
            f"shape with synthetic weights: {', '.join(builtin_names())}",
        ) from error


def resolve(model: str, *, progress: Callable[[int, int], None] | None = None) -> Checkpoint:
    """The checkpoint that `model` names: a folder, a built-in shape, or a hub id.

    A built-in shape is written to the cache on first use; `progress` is then called with
    (bytes written, bytes in all). Raises ArmbenchError for anything else, or a damaged folder.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return open_folder(folder)
    name = model.lower()
    if name in builtin_names():
        target = synthetic_folder(name)
        if not target.is_dir():
            config = builtin_config(name)
            total, done = synthetic.bytes_needed(config), 0

            def advance(count: int) -> None:
                nonlocal done
                done += count
                if progress:
                    progress(done, total)

            synthetic.build(target, config, progress=advance)
        cache.use(target)
        synthetic.renew_tokenizer(target)
        return open_folder(target, name=name)
    if _HUB_ID.fullmatch(model) and not model.startswith((".", "/")):
        snapshot = _from_hub(model)
        return open_folder(snapshot, name=model, revision=snapshot.name)
    raise unknown_name("model", model, builtin_names())


def peek(model: str) -> tuple[str, Dimensions]:
    """(name, sizes) of what `model` names, without building or downloading anything."""
    if model.lower() in builtin_names() and not Path(model).is_dir():
        return model.lower(), dimensions(builtin_config(model.lower()))
    checkpoint = resolve(model)
    return checkpoint.name, checkpoint.dimensions


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 by file name; remembered in the cache by path, size and time of change."""
    memory_file = places.cache_dir() / "digests.json"
    try:
        memory = json.loads(memory_file.read_text())
    except (OSError, ValueError):
        memory = {}
    found: dict[str, str] = {}
    for path in paths:
        stat = path.stat()
        key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}"
        found[path.name] = memory[key] = memory.get(key) or _digest(path)
    memory_file.parent.mkdir(parents=True, exist_ok=True)
    draft = memory_file.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(memory))
    draft.replace(memory_file)
    return found


def beside_sha256(folder: Path) -> str:
    """One hash over the tokenizer, chat template and generation settings in `folder`."""
    files = {file for pattern in _BESIDE for file in folder.glob(pattern) if file.is_file()}
    digests = [(file.name, _digest(file)) for file in sorted(files)]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def identify(checkpoint: Checkpoint) -> ModelIdentity:
    """Hashes of `checkpoint`'s config and weight files; reads every byte once."""
    folder = checkpoint.folder
    files = sorted(set(tensor_files(folder).values()))
    return ModelIdentity(
        name=checkpoint.name,
        weights="synthetic" if checkpoint.synthetic else "checkpoint",
        family=checkpoint.dimensions.family,
        parameters=parameters(checkpoint.dimensions),
        config_sha256=_digest(folder / "config.json"),
        files=_digests(folder / f for f in files),
        revision=checkpoint.revision,
        sizes=checkpoint.dimensions,
    )


def fingerprint(identity: ModelIdentity) -> str:
    """One hash over config and weights: the key of everything made from them."""
    text = json.dumps([identity.config_sha256, sorted(identity.files.items())])
    return hashlib.sha256(text.encode()).hexdigest()
