"""Quantised checkpoints: weights rounded as an engine would, rightly or in a way that is a fault.

A copy of a checkpoint gets every matrix quantised and multiplied out again, so that any engine can
compute with what a quantising engine would have. Matrices are (rows, columns), groups lie in rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

GROUP = 32
Floats = NDArray[np.float32]


class Packed(Struct):
    """`steps` (rows, groups, values of a group) × `scale` from `zero` (both rows, groups, 1)."""

    steps: Floats
    scale: Floats
    zero: Floats

    def values(self) -> Floats:
        wide: Floats = (self.steps - self.zero) * self.scale
        return wide.reshape(len(wide), -1)


Quantise = Callable[[Floats], Packed]
Fault = Callable[[str, Packed], Packed]


def int8(matrix: Floats) -> Packed:
    """A symmetric scale for each row."""
    rows = matrix[:, None, :]
    scale = np.abs(rows).max(axis=2, keepdims=True) / 127
    return Packed(np.rint(rows / scale), scale, np.zeros_like(scale))


def int4(
    matrix: Floats, group: int = GROUP, rounded: Callable[[Floats], Floats] = np.rint
) -> Packed:
    """A scale and a zero point for each group, as ONNX Runtime's MatMulNBits has them."""
    groups = matrix.reshape(len(matrix), -1, group)
    low = np.minimum(groups.min(axis=2, keepdims=True), 0)
    high = np.maximum(groups.max(axis=2, keepdims=True), 0)
    scale = np.maximum((high - low) / 15, 1e-10)
    zero = np.rint(-low / scale)
    return Packed(np.clip(rounded(groups / scale) + zero, 0, 15), scale, zero)


def int4_toward_zero(matrix: Floats) -> Packed:
    return int4(matrix, rounded=np.trunc)


def int4_in_groups_of_128(matrix: Floats) -> Packed:
    return int4(matrix, 128)


def q4_0(matrix: Floats) -> Packed:
    """A scale for each group, by which the largest value is -8: GGUF's q4_0."""
    groups = matrix.reshape(len(matrix), -1, GROUP)
    at = np.abs(groups).argmax(axis=2)[..., None]
    scale = np.take_along_axis(groups, at, axis=2) / -8
    scale = np.where(scale == 0, 1e-10, scale)
    return Packed(np.clip(np.rint(groups / scale) + 8, 0, 15), scale, np.full_like(scale, 8))


def swapped_nibbles(_: str, packed: Packed) -> Packed:
    """The two values of each byte in the other order."""
    pairs = packed.steps.reshape(*packed.steps.shape[:-1], -1, 2)
    packed.steps = pairs[..., ::-1].reshape(packed.steps.shape)
    return packed


def neighbours_scales(_: str, packed: Packed) -> Packed:
    """Each group multiplied by the scale of the one beside it."""
    rows, groups, _one = packed.scale.shape
    pairs = packed.scale.reshape(rows, groups // 2, 2)
    packed.scale = pairs[..., ::-1].reshape(rows, groups, 1)
    return packed


def transposed_scales(_: str, packed: Packed) -> Packed:
    """Scales stored by row read as if they were stored by group."""
    rows, groups, _one = packed.scale.shape
    packed.scale = packed.scale.reshape(groups, rows).T.reshape(rows, groups, 1)
    return packed


def neighbours_rows_scales(_: str, packed: Packed) -> Packed:
    """Each row multiplied by the scale of the row after it."""
    packed.scale = np.roll(packed.scale, 1, axis=0)
    return packed


def zero_off_by_one(_: str, packed: Packed) -> Packed:
    packed.zero = packed.zero + 1
    return packed


def all_larger(_: str, packed: Packed) -> Packed:
    packed.scale = packed.scale * np.float32(1.05)
    return packed


def layer_larger(name: str, packed: Packed) -> Packed:
    if ".layers.1." in name:
        packed.scale = packed.scale * np.float32(1.5)
    return packed


def tensor_zero(name: str, packed: Packed) -> Packed:
    if name.endswith("layers.1.mlp.down_proj.weight"):
        packed.scale = np.zeros_like(packed.scale)
    return packed


FAULTS: list[Fault] = [
    swapped_nibbles,
    neighbours_scales,
    transposed_scales,
    neighbours_rows_scales,
    zero_off_by_one,
    all_larger,
    layer_larger,
    tensor_zero,
]


def checkpoint(source: Path, target: Path, quantise: Quantise, fault: Fault | None = None) -> Path:
    """A copy of `source` in `target` whose matrices went through `quantise`, and `fault`."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = load_file(source / "model.safetensors")
    for name, tensor in tensors.items():
        values = tensor.float().numpy()
        if values.ndim == 2:
            packed = quantise(values)
            values = (fault(name, packed) if fault else packed).values()
        tensors[name] = tensor.float().new_tensor(np.ascontiguousarray(values, np.float32))
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target
