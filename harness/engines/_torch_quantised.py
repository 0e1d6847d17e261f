"""Linear layers of the torch engine on weights of 8 and 4 bits, quantised where they are loaded.

Activations are quantised by row (token), never by tensor: one scale for all rows of a step would
make a sequence's tokens depend on what else the step holds.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from harness.engines._torch_glue import by_row, glue
from harness.engines._torch_kernels import GROUP, features, resolved
from harness.errors import ArmbenchError

_AT_ONCE = 8192  # rows of a weight that are quantised together: quotients of all would not fit


class AnyLinear(Protocol):
    """`x @ weight.T + bias`, alone or added to a residual."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor: ...


def by_group(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(values -8 … 7 as int32, float32 scales (outputs, groups)) in groups of `GROUP` inputs.

    The value of largest magnitude becomes -8, whatever its sign, as in llama.cpp's q4_0: one more
    level than a range of ±7. Raises ArmbenchError where a row has no whole groups.
    """
    rows, columns = weight.shape
    if columns % GROUP:
        raise ArmbenchError(
            f"torch int4 needs inputs in groups of {GROUP}; a layer has {columns}",
            hint="use int8 for this checkpoint",
        )
    groups = weight.view(rows, -1, GROUP)
    at = groups.abs().argmax(-1, keepdim=True)
    # bfloat16 is what the kernels keep: values are rounded against the scale that will be used
    scales = (groups.gather(-1, at) / -8).to(torch.bfloat16).float()
    safe = torch.where(scales == 0, torch.ones_like(scales), scales)
    values = (groups / safe).round_().clamp_(-8, 7).to(torch.int32)
    return values.view(rows, columns), scales.squeeze(-1)


class Int8Linear:
    """Exact sums of int8 products (`_int_mm`): no bit of a row depends on the rows beside it."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        starts = range(0, len(weight), _AT_ONCE)
        blocks = [by_row(weight[start : start + _AT_ONCE]) for start in starts]
        self.weight, self.scales = (torch.cat(parts) for parts in zip(*blocks, strict=True))
        self.transposed = self.weight.t()  # a view: the kernel reads rows of outputs
        self.by_output = self.scales.squeeze(-1)
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return self._with(x, self.bias).view(*x.shape[:-1], -1)

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        if self.bias is not None:
            return self(x).add_(residual)
        return self._with(x, residual.reshape(-1, residual.shape[-1])).view(residual.shape)

    def _with(self, x: Tensor, added: Tensor | None) -> Tensor:
        values, scales = glue.by_row(x.reshape(-1, x.shape[-1]))
        sums = torch._int_mm(values, self.transposed)
        out: Tensor = glue.rescaled(sums, scales, self.by_output, added)
        return out

    def rows(self, tokens: Tensor) -> Tensor:
        """Rows of the weight in float32: the look-up of an embedding."""
        return F.embedding(tokens, self.weight).float() * F.embedding(tokens, self.scales)


class Int8PackLinear(Int8Linear):
    """8-bit weights that are widened in registers, bfloat16 activations and results.

    On an AMD Zen 3 (AVX2, one thread, 4864 outputs of 896 inputs) a row takes 2.6 ms and 64 rows
    48 ms, where `_int_mm` without VNNI loops for 9 ms and 485 ms.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self.ones = torch.ones(len(weight), dtype=torch.bfloat16)  # scales keep their 24 bits

    def _with(self, x: Tensor, added: Tensor | None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        sums = torch.ops.aten._weight_int8pack_mm(rows, self.weight, self.ones)
        out: Tensor = sums.float().mul_(self.by_output)
        return out if added is None else out.add_(added)


class Int4PackLinear:
    """4-bit weights that are widened in registers, bfloat16 activations and products."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        values, scales = by_group(weight)
        self.weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values + 8, 1)
        # (groups, outputs, 2): scale, and what is added to (value - 8) · scale
        self.scales = torch.stack((scales, torch.zeros_like(scales)), -1).to(torch.bfloat16)
        self.scales = self.scales.transpose(0, 1).contiguous()
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        mm = torch.ops.aten._weight_int4pack_mm_for_cpu
        out: Tensor = mm(rows, self.weight, GROUP, self.scales).float()
        if self.bias is not None:
            out.add_(self.bias)
        return out.view(*x.shape[:-1], -1)

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        return self(x).add_(residual)


class DynamicInt4Linear:
    """`_dyn_quant_matmul_4bit`: KleidiAI where the build and CPU have it, else ATen's reference."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.outputs, self.inputs = weight.shape
        values, scales = by_group(weight)
        nibbles = (values + 8).to(torch.uint8)
        packed = nibbles[:, 1::2] << 4 | nibbles[:, ::2]
        self.bias = bias
        self.weight = torch.ops.aten._dyn_quant_pack_4bit_weight(
            packed, scales.to(torch.bfloat16), None, GROUP, self.inputs, self.outputs
        )

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.aten._dyn_quant_matmul_4bit(
            x.reshape(-1, self.inputs), self.weight, GROUP, self.inputs, self.outputs
        )
        if self.bias is not None:
            out = out + self.bias
        return out.view(*x.shape[:-1], -1)

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        return self(x).add_(residual)


INT8: dict[str, type[Int8Linear]] = {"int_mm": Int8Linear, "int8pack": Int8PackLinear}
KERNELS: dict[str, type[Int8Linear] | type[Int4PackLinear] | type[DynamicInt4Linear]] = {
    **INT8,
    "int4pack": Int4PackLinear,
    "dyn_quant_4bit": DynamicInt4Linear,
}


def has_kleidiai() -> bool:
    """Whether this build of torch says that KleidiAI serves `_dyn_quant_matmul_4bit` here."""
    backend = getattr(torch.backends, "kleidiai", None)
    return backend is not None and bool(backend.is_available())


def _check_kleidiai() -> None:
    """Raises ArmbenchError where int4 would run on ATen's reference in KleidiAI's place."""
    if not has_kleidiai():
        raise ArmbenchError(
            f"torch {torch.__version__} has no KleidiAI here, on which int4 runs on Arm",
            hint="take a build with it, int8, or --option torch.kernel=int4pack",
        )
    if "asimddp" not in features():
        raise ArmbenchError(
            "int4 of torch runs on KleidiAI on Arm, which needs asimddp, and this CPU has none",
            hint="take int8, or engine onnxruntime or llamacpp",
        )


def chosen(dtype: str, kernel: str) -> str:
    """The kernel that `kernel` means here for int8 or int4, tried on a small layer.

    Raises ArmbenchError where this build of torch can't run it, or where `auto` would fall to a
    slow reference.
    """
    name = resolved(dtype, kernel)
    if kernel == "auto" and name == "dyn_quant_4bit":
        _check_kleidiai()
    try:
        KERNELS[name](torch.ones(64, 64), None)(torch.ones(1, 64))
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        raise ArmbenchError(
            f"torch {torch.__version__} can't run kernel {name!r} here: {error}",
            hint="leave torch.kernel at 'auto', or use float32",
        ) from error
    return name
