"""llama.cpp's C interface as the engine uses it: its log, a model, a context, a batch."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np

from harness.errors import ArmbenchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.engines import Logits

_FLASH = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
_KV = {
    "f32": llama_cpp.GGML_TYPE_F32,
    "f16": llama_cpp.GGML_TYPE_F16,
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
}
_MOST_LOG = 1 << 20
_DEBUG, _PROBLEM = 1, 3  # levels of ggml's log; from the second on they tell of something wrong


class Log:
    """What llama.cpp says, kept instead of printed; one at a time."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._size = 0
        self._callback = llama_cpp.llama_log_callback(self._take)
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _take(self, level: int, text: bytes, _: object) -> None:
        if self._size < _MOST_LOG:
            self._parts.append(text.decode(errors="replace"))
            self._size += len(text)

    def clear(self) -> None:
        """Forget everything, so that there is room for what follows."""
        self._parts, self._size = [], 0

    def lines(self) -> list[str]:
        return "".join(self._parts).splitlines()

    def last(self) -> str:
        """The last lines, for an error."""
        return "; ".join(line.strip() for line in self.lines()[-3:]) or "it did not say why"


def system_info() -> str:
    """The instruction sets that the library was built for and found, as it prints them."""
    told: bytes = llama_cpp.llama_print_system_info()
    return told.decode().strip(" |\n")


def buffers(lines: list[str]) -> dict[str, str]:
    """Weights by the buffer that holds them, as llama.cpp logs them: `CPU_REPACK`: `187.2 MiB`."""
    found = (re.search(r"(\w+) model buffer size = *([\d.]+ \w+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def repacked(lines: list[str]) -> dict[str, int]:
    """Tensors by the layout they were rearranged to, such as `q4_0_8x8`."""
    found = (re.search(r"repack tensor \S+ with (\w+)", line) for line in lines)
    layouts = [match[1] for match in found if match]
    return {layout: layouts.count(layout) for layout in sorted(set(layouts))}


class Model:
    """The weights of one GGUF file."""

    def __init__(self, file: Path, log: Log, *, mmap: bool, repack: bool) -> None:
        wanted = llama_cpp.llama_model_default_params()
        wanted.n_gpu_layers = 0
        wanted.load_mode = (
            llama_cpp.LLAMA_LOAD_MODE_MMAP if mmap else llama_cpp.LLAMA_LOAD_MODE_NONE
        )
        wanted.use_extra_bufts = repack
        self.pointer = llama_cpp.llama_model_load_from_file(str(file).encode(), wanted)
        if not self.pointer:
            raise ArmbenchError(f"llama.cpp cannot load {file}: {log.last()}")


class Context:
    """A KV cache for `sequences` of `context` tokens each, and batches of up to `size` tokens."""

    def __init__(
        self,
        model: Model,
        log: Log,
        options: Mapping[str, Any],
        *,
        sequences: int,
        context: int,
        size: int,
        vocabulary: int,
        threads: int,
        flash: str,
        kv: str,
        watch: Any = None,
    ) -> None:
        self.log, self.vocabulary = log, vocabulary
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx = sequences * -(-context // 256) * 256
        wanted.n_batch = size
        wanted.n_ubatch = min(options["ubatch"], size)
        wanted.n_seq_max = sequences
        wanted.n_outputs_max = sequences  # not logits of every token of a batch
        wanted.n_threads = wanted.n_threads_batch = threads
        wanted.flash_attn_type = _FLASH[flash]
        wanted.type_k = wanted.type_v = _KV[kv]
        wanted.kv_unified = False  # each sequence attends to its own keys alone
        wanted.no_perf = True
        if watch is not None:
            wanted.cb_eval = watch
        self.pointer = llama_cpp.llama_init_from_model(model.pointer, wanted)
        if not self.pointer:
            raise ArmbenchError(
                f"llama.cpp has no room for {sequences} sequences of {context} tokens: {log.last()}"
            )
        self._memory = llama_cpp.llama_get_memory(self.pointer)
        self.batch = Batch(size, sequences)

    def run(self) -> None:
        """Pass the batch. Raises ArmbenchError where llama.cpp refuses it."""
        code = llama_cpp.llama_decode(self.pointer, self.batch.struct)
        if code:
            raise ArmbenchError(f"llama_decode returned {code}: {self.log.last()}")

    def logits(self, rows: int) -> Logits:
        """The last batch's logits in its order, (rows, vocabulary): not a copy."""
        pointer = llama_cpp.llama_get_logits(self.pointer)
        seen: Logits = np.ctypeslib.as_array(pointer, shape=(rows, self.vocabulary))
        return seen

    def forget(self, sequence: int) -> None:
        """Empty the cache of one sequence."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def forget_all(self) -> None:
        """Empty the cache; its bytes stay as they are."""
        llama_cpp.llama_memory_clear(self._memory, False)

    def close(self) -> None:
        """Give the memory back; the context is not used after it."""
        llama_cpp.llama_free(self.pointer)


class Batch:
    """The arrays of a `llama_batch`, filled in place: one row for each token."""

    def __init__(self, size: int, sequences: int) -> None:
        self.token = np.zeros(size, dtype=np.int32)
        self.position = np.zeros(size, dtype=np.int32)
        self.wanted = np.zeros(size, dtype=np.int8)
        self._one = np.ones(size, dtype=np.int32)  # each token belongs to one sequence
        self._ids = np.arange(sequences, dtype=np.int32)
        self._addresses = np.zeros(size, dtype=np.uintp)
        self.struct = llama_cpp.llama_batch(
            n_tokens=0,
            token=_pointer(self.token, ctypes.c_int32),
            embd=None,
            pos=_pointer(self.position, ctypes.c_int32),
            n_seq_id=_pointer(self._one, ctypes.c_int32),
            seq_id=_pointer(self._addresses, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(self.wanted, ctypes.c_int8),
        )

    def sequences(self, rows: slice, of: int | NDArray[np.int64]) -> None:
        """Say whose tokens `rows` are."""
        self._addresses[rows] = self._ids.ctypes.data + 4 * np.asarray(of, dtype=np.int64)


def _pointer(array: NDArray[Any], to: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(to))
