"""Which kernels the torch engine has for which dtype; imports nothing heavy."""

from __future__ import annotations

import platform

from harness.errors import ArmbenchError
from harness.machine.cpuinfo import features_of, read_processors
from harness.machine.tree import Tree

GROUP = 32  # weights along the input that share a scale in int4
KERNELS = {"int8": ("int_mm", "int8pack"), "int4": ("int4pack", "dyn_quant_4bit")}
INT8 = ("amx_int8", "avx512_vnni")  # where ATen hands `_int_mm` to oneDNN; elsewhere it loops


def check(dtype: str, kernel: str) -> None:
    """Raises ArmbenchError where `dtype` has no such kernel."""
    known = ("auto", *KERNELS.get(dtype, ()))
    if kernel not in known:
        raise ArmbenchError(
            f"torch has no kernel {kernel!r} for {dtype}",
            hint=f"torch.kernel for {dtype} is one of {', '.join(known)}",
        )


def resolved(dtype: str, kernel: str) -> str:
    """The kernel that `kernel` means for int8 or int4: `auto` goes by the CPU.

    int8 takes exact products where the CPU has an instruction of theirs that ATen knows, elsewhere
    weights widened in registers, for bfloat16 activations. On Arm int4 takes KleidiAI's, which
    multiply 8-bit activations; elsewhere ATen's packed one, which multiplies bfloat16.
    """
    if kernel != "auto":
        return kernel
    if dtype == "int8":
        return "int_mm" if set(INT8) & set(features()) else "int8pack"
    return "dyn_quant_4bit" if platform.machine() in ("aarch64", "arm64") else "int4pack"


def of_head(kernel: str) -> str:
    """The int8 kernel of the embedding and the head beside a body on `kernel`."""
    return kernel if kernel in KERNELS["int8"] else resolved("int8", "auto")


def features() -> list[str]:
    """The features of this machine's CPU, as the kernel spells them."""
    return list(features_of(read_processors(Tree())))
