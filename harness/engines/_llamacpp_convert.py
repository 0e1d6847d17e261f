"""A checkpoint as the GGUF file of one dtype. Loaded in a child only."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import gguf
import llama_cpp

from harness.engines._gguf import Dtype, write_gguf
from harness.engines._llamacpp_library import Log
from harness.engines.llamacpp import FILE, TENSORS
from harness.errors import ArmbenchError
from harness.model.checkpoint import read_header, tensor_files

if TYPE_CHECKING:
    from harness.engines import EngineSpec

_PLAIN: Mapping[str, Dtype] = {"f16": "float16", "bfloat16": "bfloat16", "float32": "float32"}
_QUANTISED = {
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}
_SAME: Mapping[str, Dtype] = {"BF16": "bfloat16", "F16": "float16"}


class Held(NamedTuple):
    """What a GGUF file holds in one format."""

    tensors: int
    bytes: int


def convert(spec: EngineSpec, folder: Path) -> None:
    """Write FILE, and what it holds in TENSORS, to `folder`.

    A quantised file is made by llama.cpp's own quantiser from a file that keeps every value of the
    checkpoint. Raises ArmbenchError where the checkpoint cannot be written or quantised.
    """
    source, target = Path(spec.checkpoint), folder / FILE
    if spec.dtype in _PLAIN:
        write_gguf(source, target, _PLAIN[spec.dtype])
    else:
        exact = folder / "cache" / "exact.gguf"  # this folder is not kept
        exact.parent.mkdir()
        write_gguf(source, exact, exact_dtype(source))
        quantise(exact, target, spec.dtype, threads=len(spec.cpus))
        exact.unlink()
    kept = {name: held._asdict() for name, held in holdings(target).items()}
    (folder / TENSORS).write_text(json.dumps(kept, indent=1))


def exact_dtype(folder: Path) -> Dtype:
    """The narrowest dtype that keeps every value of the checkpoint in `folder`."""
    files = {folder / name for name in tensor_files(folder).values()}
    dtypes = {entry["dtype"] for file in files for entry in read_header(file).values()}
    return _SAME.get(dtypes.pop(), "float32") if len(dtypes) == 1 else "float32"


def quantise(source: Path, target: Path, dtype: str, *, threads: int) -> None:
    """Let llama.cpp write `source` to `target` in `dtype`. Raises ArmbenchError where it fails."""
    log = Log()
    wanted = llama_cpp.llama_model_quantize_default_params()
    wanted.nthread = threads
    wanted.ftype = _QUANTISED[dtype]
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), wanted)
    if code:
        raise ArmbenchError(f"llama.cpp could not quantise to {dtype}: {log.last()}")


def holdings(file: Path) -> dict[str, Held]:
    """Tensors and bytes of a GGUF file by ggml's name of their format, in small letters."""
    found: dict[str, list[int]] = defaultdict(list)
    for tensor in gguf.GGUFReader(file).tensors:
        found[tensor.tensor_type.name.lower()].append(int(tensor.n_bytes))
    return {name: Held(len(sizes), sum(sizes)) for name, sizes in sorted(found.items())}
