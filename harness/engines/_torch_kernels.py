"""Which kernels the torch engine has for which dtype; imports nothing heavy."""

from __future__ import annotations

import platform

from harness.errors import ArmbenchError

GROUP = 32  # weights along the input that share a scale in int4
KERNELS = {"int8": ("int_mm",), "int4": ("int4pack", "dyn_quant_4bit")}


def check(dtype: str, kernel: str) -> None:
    """Raises ArmbenchError where `dtype` has no such kernel."""
    known = ("auto", *KERNELS.get(dtype, ()))
    if kernel not in known:
        raise ArmbenchError(
            f"torch has no kernel {kernel!r} for {dtype}",
            hint=f"torch.kernel for {dtype} is one of {', '.join(known)}",
        )


def resolved(dtype: str, kernel: str) -> str:
    """The kernel that `kernel` means for int8 or int4: `auto` goes by the architecture.

    On Arm int4 takes KleidiAI's, which multiply 8-bit activations; elsewhere ATen's packed one,
    which multiplies bfloat16.
    """
    if kernel != "auto":
        return kernel
    if dtype == "int8":
        return "int_mm"
    return "dyn_quant_4bit" if platform.machine() in ("aarch64", "arm64") else "int4pack"
