"""Which operations llama.cpp computes, seen through the callback of its scheduler.

With a callback that wants every tensor, the scheduler computes them one by one and tells when each
begins and is done. Layout of a tensor: `struct ggml_tensor` of ggml 0.25's ggml.h.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any

import llama_cpp

from harness.engines._traces import Sums
from harness.records.run import KernelSeen


class _Tensor(ctypes.Structure):
    pass


_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10),
]


def _text(name: str, *arguments: Any) -> Any:
    """A function of ggml that returns a text; libllama brings ggml along."""
    function = getattr(llama_cpp.llama_cpp._lib, name)
    function.argtypes, function.restype = list(arguments), ctypes.c_char_p
    return function


class Watch:
    """Collects calls and seconds; `callback` goes into the context's parameters."""

    def __init__(self) -> None:
        self._operation = _text("ggml_op_desc", ctypes.c_void_p)
        self._type = _text("ggml_type_name", ctypes.c_int)
        self._buffer = _text("ggml_backend_buffer_name", ctypes.c_void_p)
        self._began = 0
        self.clear()
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._see)

    def clear(self) -> None:
        self._sums = Sums()

    def kernels(self) -> list[KernelSeen]:
        """The longest first."""
        return self._sums.kernels()

    def _see(self, address: int, ask: bool, _: object) -> bool:
        if ask:
            self._began = time.monotonic_ns()
            return True
        took = (time.monotonic_ns() - self._began) / 1e9
        tensor = ctypes.cast(address, ctypes.POINTER(_Tensor)).contents
        name = self._operation(address).decode()
        if name in ("VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE", "NONE"):
            return True  # no work
        first, second = (src.contents if src else None for src in tensor.src[:2])
        if name.startswith("MUL_MAT") and first is not None and first.buffer:
            name = f"{name} in {self._buffer(first.buffer).decode()}"
        types = [self._type(t.type).decode() for t in (first, second) if t is not None]
        self._sums.add(name, " × ".join(types), took)
        return True
