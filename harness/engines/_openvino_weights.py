"""Weight matrices as constants of an OpenVINO graph, whole or packed to int8 or int4.

A packed constant is followed by what makes it float32 again (Convert, Multiply, Reshape). The CPU
plugin recognises that pattern and multiplies with the packed form. Symmetric, rounded to nearest:
int8 with one scale for each row, int4 with one for each `GROUP` values of a row.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from harness.engines._openvino_graph import Graph
from harness.errors import ArmbenchError
from harness.model.architecture import dimensions
from harness.model.checkpoint import tensor_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

GROUP = 32  # as llama.cpp's q4_0 and ONNX Runtime's MatMulNBits at their usual settings
_BITS = {"int8": 8, "int4": 4}


def quantised(matrix: Array, bits: int, group: int) -> tuple[NDArray[np.int8], Array]:
    """(values, scales) of `matrix` (rows, columns): (rows, groups, group) and (rows, groups, 1).

    `values * scales` is the matrix again, each value at most half a scale off.
    """
    rows, columns = matrix.shape
    groups = matrix.reshape(rows, columns // group, group)
    most = 2 ** (bits - 1) - 1
    scales = np.maximum(np.abs(groups).max(axis=2, keepdims=True) / most, np.float32(1e-12))
    values = np.clip(np.rint(groups / scales), -most, most).astype(np.int8)
    return values, scales.astype(np.float32)


def constant(matrix: Array, dtype: str) -> Any:
    """The node that gives `matrix` (rows, columns) in float32, kept as `dtype`."""
    if dtype == "bfloat16":
        return ops.convert(ops.constant(matrix, ov.Type.bf16), "f32")
    if dtype not in _BITS:
        return ops.constant(matrix)
    rows, columns = matrix.shape
    group = columns if dtype == "int8" else GROUP
    if columns % group:
        raise ArmbenchError(
            f"a weight has rows of {columns} values, which int4 of openvino takes in {GROUP}s",
            hint="take int8",
        )
    values, scales = quantised(matrix, _BITS[dtype], group)
    kept = ops.convert(_packed(values, dtype), "f32")
    wide = ops.multiply(kept, ops.constant(scales))
    return ops.reshape(wide, ops.constant(np.array([rows, columns], np.int64)), False)


def _packed(values: NDArray[np.int8], dtype: str) -> Any:
    """A constant of 8 or 4 bits for each value; of two in a byte the first is the lower one."""
    if dtype == "int8":
        return ops.constant(values)
    pairs = values.reshape(-1, 2).view(np.uint8) & 0xF
    data = (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8)
    tensor = ov.Tensor(data, ov.Shape(list(values.shape)), ov.Type.i4)
    return ov.op.Constant(tensor, shared_memory=False)


def write(checkpoint: Path, dtype: str, folder: Path) -> None:
    """The graph of `checkpoint` with weights in `dtype`: model.xml and model.bin in `folder`."""
    import torch
    from safetensors import safe_open

    files = tensor_files(checkpoint)

    def read(name: str) -> Array:
        with safe_open(checkpoint / files[name], framework="pt") as file:
            values: Array = file.get_tensor(name).to(torch.float32).numpy()
        return values

    d = dimensions(json.loads((checkpoint / "config.json").read_text()))
    model = Graph(d, read, lambda matrix: constant(matrix, dtype)).model()
    ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
