"""Quantised checkpoints for tests: a checkpoint's matrices rounded to few bits, rightly or wrongly.

What is written is what an engine's kernel would multiply with: the weights after rounding, in
float32, so that any engine can show what such a kernel would do to the answers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


class Rounded(NamedTuple):
    """Whole numbers (rows, groups, group) and the scale of each group (rows, groups, 1)."""

    whole: Tensor
    scale: Tensor

    @property
    def matrix(self) -> Tensor:
        return (self.whole * self.scale).flatten(1).contiguous()


def nearest(matrix: Tensor, bits: int, group: int | None) -> Rounded:
    """Symmetric rounding to nearest, each group's largest value at the end of the range."""
    blocks = matrix.reshape(matrix.shape[0], -1, group or matrix.shape[1])
    end = 2 ** (bits - 1) - 1
    scale = blocks.abs().amax(-1, keepdim=True).clamp(min=1e-12) / end
    return Rounded((blocks / scale).round().clamp(-end, end), scale)


def wrong_scale(right: Rounded) -> Rounded:
    return right._replace(scale=right.scale * 1.5)


def swapped_nibbles(right: Rounded) -> Rounded:
    """The two numbers of each byte in the other order."""
    pairs = right.whole.unflatten(-1, (-1, 2)).flip(-1)
    return right._replace(whole=pairs.flatten(-2))


def transposed_groups(right: Rounded) -> Rounded:
    """Scales that were stored by column and are read by row."""
    scale = right.scale.squeeze(-1)
    return right._replace(scale=scale.t().reshape(scale.shape).unsqueeze(-1))


def unsigned(right: Rounded) -> Rounded:
    """Numbers stored with an offset of half the range, the offset of the negative ones lost."""
    half = 2 ** int(right.whole.abs().max()).bit_length()
    return right._replace(whole=torch.where(right.whole < 0, right.whole + half, right.whole))


def write(
    source: Path,
    folder: Path,
    bits: int,
    group: int | None,
    wrong: Callable[[Rounded], Rounded] | None = None,
    where: str = "",
) -> Path:
    """The checkpoint of `source` with all matrices rounded, in `folder`; `wrong` ones at `where`.

    The head gets rounded weights of its own where it is tied; the embedding stays.
    """
    shutil.copytree(source, folder)
    tensors = {name: t.float() for name, t in load_file(source / "model.safetensors").items()}
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"].clone())
    changed = 0
    for name, matrix in tensors.items():
        if matrix.ndim == 2 and "embed" not in name:
            rounded = nearest(matrix, bits, group)
            if wrong is not None and where in name:
                rounded, changed = wrong(rounded), changed + 1
            tensors[name] = rounded.matrix
    assert changed == (0 if wrong is None else 1)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    return folder
