"""The length of SVE vectors: asked of the kernel, or read from a captured tree."""

from __future__ import annotations

from harness.machine.catalogue import Row
from harness.machine.tree import Tree
from harness.records.machine import Cpu

_DEFAULT = "proc/sys/abi/sve_default_vector_length"
_PR_SVE_GET_VL = 51
_LENGTH_MASK = 0xFFFF


def read_sve(tree: Tree, cpu: Cpu, row: Row | None, unknown: dict[str, str]) -> None:
    """Sets `sve_bits` and its source where the features have `sve`; never from the name alone."""
    if cpu.midr is None:
        return
    if "sve" not in cpu.features:
        unknown["cpu.sve_bits"] = "the kernel lists no sve"
        return
    live = _ask_kernel() if tree.live else None
    default = tree.number(_DEFAULT)
    if live:
        cpu.sve_bits, cpu.sve_source = live * 8, "prctl(PR_SVE_GET_VL)"
    elif default and 16 <= default <= 256 and default % 16 == 0:
        cpu.sve_bits, cpu.sve_source = default * 8, f"/{_DEFAULT}"
    elif row and row.sve_bits:
        cpu.sve_bits, cpu.sve_source = row.sve_bits, f"documented for {row.product}"
    else:
        unknown["cpu.sve_bits"] = f"{tree.why(_DEFAULT)}, and no document gives it"


def _ask_kernel() -> int | None:
    """Bytes per vector of this process, or None where the kernel refuses."""
    try:
        import ctypes

        answer = ctypes.CDLL(None).prctl(_PR_SVE_GET_VL, 0, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return None
    return answer & _LENGTH_MASK if answer > 0 else None
