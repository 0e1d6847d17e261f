"""What stands between the products of a layer: norms, rotation, gate, and rounding to int8.

Each is a chain of small operations on few values, whose dispatch costs more than their arithmetic.
`Glue.compiled` has inductor join each chain in one kernel; the products stay the library's own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from harness.errors import ArmbenchError

_SMALLEST = 1e-12  # so that a row of zeros has a scale


def norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """RMS norm over the last dimension."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def head_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm of each head, with a scale for each."""
    return F.rms_norm(x, (x.shape[-1],), None, eps) * weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of `x` (…, heads, head), halves against each other."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return torch.addcmul(x * cos, turned, sin)


def gated(both: Tensor) -> Tensor:
    """SiLU of the first half, times the second."""
    gate, up = both.chunk(2, dim=-1)
    return F.silu(gate) * up


def by_row(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 values, float32 scales (rows, 1)) of `matrix` (rows, columns), symmetric."""
    scales = matrix.abs().amax(-1, keepdim=True).clamp(min=_SMALLEST) / 127
    return (matrix / scales).round().to(torch.int8), scales


def rescaled(sums: Tensor, rows: Tensor, outputs: Tensor, added: Tensor | None) -> Tensor:
    """Sums of int8 products by the scales of their row and output, plus bias or residual."""
    out = sums.float() * rows * outputs
    return out if added is None else out + added


_CHAINS: tuple[Callable[..., Any], ...] = (norm, head_norm, rotate, gated, by_row, rescaled)


class Glue:
    """The chains as this process calls them; `use` chooses between eager and compiled ones."""

    def __init__(self) -> None:
        self.made: dict[str, Callable[..., Any]] = {}
        self.use(compiled=False)

    def use(self, *, compiled: bool) -> None:
        """Call compiled chains from now on, or eager ones.

        Raises ArmbenchError where there is no C++ compiler.
        """
        if compiled and not self.made:
            self.made = self._compiled()
        self.is_compiled = compiled
        chosen = self.made if compiled else {chain.__name__: chain for chain in _CHAINS}
        self.norm, self.head_norm = chosen["norm"], chosen["head_norm"]
        self.rotate, self.gated = chosen["rotate"], chosen["gated"]
        self.by_row, self.rescaled = chosen["by_row"], chosen["rescaled"]

    @staticmethod
    def _compiled() -> dict[str, Callable[..., Any]]:
        """Each chain for any number of rows: only one row and several are compiled apart."""
        if shutil.which("g++") is None and shutil.which("clang++") is None:
            raise ArmbenchError(
                "torch.compile needs a C++ compiler, and neither g++ nor clang++ is here",
                hint="apt-get install g++, or leave the option out",
            )
        return {chain.__name__: torch.compile(chain, dynamic=True) for chain in _CHAINS}


glue = Glue()  # one engine is loaded in a process
