"""Checkpoints of the true shape with random weights: right for speed, meaningless for quality.

Written once to the cache as bfloat16 safetensors with a tokenizer trained on the shipped text, so
that every engine and converter reads them like a downloaded checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import places
from harness.errors import ArmbenchError
from harness.model import tokenizer
from harness.model.architecture import dimensions, tensor_shapes
from harness.units import format_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEED = 20240919  # the day Qwen2.5 was released; any fixed number serves
MAX_SHARD_BYTES = 4 * 2**30
_BLOCK = 1 << 22  # values drawn at a time: bounds the memory at 16 MiB of float32
MARK = "armbench-synthetic.json"


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of `values`, rounded to nearest, ties to even."""
    import numpy as np

    bits = values.view(np.uint32)
    rounded = bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)
    return (rounded >> 16).astype(np.uint16)


def _blocks(name: str, count: int, std: float, index: int) -> Iterator[bytes]:
    """`count` bfloat16 values of tensor `name`: ones for norms, else normal with `std`."""
    import numpy as np

    generator = np.random.Generator(np.random.SFC64([SEED, index]))
    for start in range(0, count, _BLOCK):
        size = min(_BLOCK, count - start)
        if name.endswith("norm.weight"):
            values = np.ones(size, dtype=np.float32)
        else:
            values = generator.standard_normal(size, dtype=np.float32) * np.float32(std)
        yield _bfloat16(values).tobytes()


def _shards(shapes: Mapping[str, tuple[int, ...]], limit: int) -> list[dict[str, tuple[int, ...]]]:
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    room = limit
    for name, shape in shapes.items():
        size = 2 * _count(shape)
        if size > room and shards[-1]:
            shards.append({})
            room = limit
        shards[-1][name] = shape
        room -= size
    return shards


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


def _write_shard(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    first_index: int,
    std: float,
    progress: Callable[[int], None],
) -> None:
    """One safetensors file: 8 bytes of header length, the JSON header, then the values.

    Source of the format: the safetensors documentation, section Format.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * _count(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for offset, (name, shape) in enumerate(shapes.items()):
            for block in _blocks(name, _count(shape), std, first_index + offset):
                file.write(block)
                progress(len(block))


def _write_weights(
    folder: Path, config: Mapping[str, Any], limit: int, progress: Callable[[int], None]
) -> None:
    shapes = tensor_shapes(dimensions(config))
    std = float(config.get("initializer_range", 0.02))
    shards = _shards(shapes, limit)
    names = (
        ["model.safetensors"]
        if len(shards) == 1
        else [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    )
    first = 0
    for name, shard in zip(names, shards, strict=True):
        _write_shard(folder / name, shard, first, std, progress)
        first += len(shard)
    if len(shards) > 1:
        weight_map = {t: n for n, shard in zip(names, shards, strict=True) for t in shard}
        total = 2 * sum(_count(shape) for shape in shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def identity() -> list[object]:
    """What the folder of a synthetic checkpoint depends on beside its config: seed and text."""
    texts = sorted((places.config_dir() / "text").glob("*.txt"))
    return [SEED, [hashlib.sha256(path.read_bytes()).hexdigest() for path in texts]]


def renew_tokenizer(folder: Path) -> None:
    """Write the tokenizer of the synthetic checkpoint in `folder` anew, where it is an older one.

    The weights stay, and so does every fingerprint of them. Nothing is done where the package is
    missing or the folder can't be written: the older tokenizer works too.
    """
    try:
        if json.loads((folder / MARK).read_text()).get("tokenizer") == tokenizer.VERSION:
            return
        config = json.loads((folder / "config.json").read_text())
        draft = folder / f".tokenizer.{os.getpid()}"
        draft.mkdir()
    except (OSError, ValueError):
        return
    try:
        tokenizer.write(draft, config)
        _write_mark(draft)
        for file in sorted(draft.iterdir(), key=lambda path: path.name == MARK):  # the mark last
            file.replace(folder / file.name)
    except (ImportError, OSError):
        return
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_mark(folder: Path) -> None:
    mark = {"weights": "synthetic", "seed": SEED, "tokenizer": tokenizer.VERSION}
    (folder / MARK).write_text(json.dumps(mark))


def bytes_needed(config: Mapping[str, Any]) -> int:
    """Bytes on disk of the weights that `build` would write."""
    return 2 * sum(_count(shape) for shape in tensor_shapes(dimensions(config)).values())


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed * 1.05:
        raise ArmbenchError(
            f"a synthetic checkpoint needs {format_bytes(needed)} in {folder}, "
            f"{format_bytes(free)} are free",
            hint="free disk space, or set ARMBENCH_CACHE to a folder on a larger disk",
        )


def build(
    folder: Path,
    config: Mapping[str, Any],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a synthetic checkpoint for `config` to `folder`, whole or not at all.

    `progress` is called with the bytes just written. Raises ArmbenchError for an architecture
    that is not known or a disk that is too small.
    """
    needed = bytes_needed(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _check_disk(folder.parent, needed)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        (draft / "config.json").write_text(json.dumps(config, indent=1))
        ids = {k: config[k] for k in ("bos_token_id", "eos_token_id") if k in config}
        (draft / "generation_config.json").write_text(json.dumps(ids, indent=1))
        tokenizer.write(draft, config)
        _write_weights(draft, config, max_shard_bytes, progress)
        _write_mark(draft)
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
