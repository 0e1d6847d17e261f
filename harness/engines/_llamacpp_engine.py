"""The engine protocol on llama.cpp.

Each row of a batch, and each slot, is a sequence of the context's KV cache. A step is one
`llama_decode`; llama.cpp cuts it into runs in which every sequence has as many tokens.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.engines._llamacpp_library import (
    Context,
    Log,
    Model,
    buffers,
    repacked,
    system_info,
)
from harness.engines._llamacpp_watch import Watch
from harness.engines._openmp import read_openmp
from harness.engines._slots import SlotLengths, none_open
from harness.engines.llamacpp import MOST_SLOTS, TENSORS, gguf_file, kv_type
from harness.errors import ArmbenchError
from harness.model.architecture import Dimensions, dimensions
from harness.records.run import KernelPath, RuntimeThreads, Variant

if TYPE_CHECKING:
    from harness.engines import EngineSpec, Feed, Logits, Tokens

_LEAST_TOKENS = 32  # room of a batch: llama.cpp asks for no fewer


class LlamaEngine:
    """A model, and the context that the last `allocate` or `open_slots` made."""

    def __init__(self, spec: EngineSpec) -> None:
        file = gguf_file(spec)
        self.spec = spec
        config = json.loads((Path(spec.checkpoint) / "config.json").read_text())
        self.d: Dimensions = dimensions(config)
        self.tensors = json.loads(file.with_name(TENSORS).read_text())
        self.log = Log()
        self.model = Model(file, self.log, mmap=spec.options["mmap"], repack=spec.options["repack"])
        said = self.log.lines()
        self.buffers, self.repacked = buffers(said), repacked(said)
        self.watch = Watch() if spec.trace else None
        self.context: Context | None = None
        self.lengths: SlotLengths | None = None  # of slots, where they are open
        self.batch = self.length = self.rows = 0

    def _open(self, sequences: int, context: int, flash: str) -> Context:
        """A new context in place of the last one."""
        if sequences > MOST_SLOTS:
            raise ArmbenchError(
                f"{sequences} sequences were asked for, llama.cpp has at most {MOST_SLOTS}",
                hint="lower the batch or the slots, or take several instances",
            )
        if self.context is not None:
            self.context.close()
            self.context = None
        self.log.clear()
        self.context = Context(
            self.model,
            self.log,
            self.spec.options,
            sequences=sequences,
            context=context,
            size=max(_LEAST_TOKENS, sequences * context),
            vocabulary=self.d.vocabulary,
            threads=len(self.spec.cpus),
            flash=flash,
            kv=kv_type(self.spec.dtype, self.spec.options),
            watch=self.watch.callback if self.watch else None,
        )
        self.told = self.log.lines()
        self.log.clear()
        self.rows = 0
        return self.context

    def _ready(self) -> Context:
        if self.context is None:
            raise ArmbenchError("no room was made for sequences", hint="call allocate first")
        return self.context

    def allocate(self, batch: int, context: int) -> None:
        self.lengths = None
        self.batch, self.length = batch, 0
        self._open(batch, context, self.spec.options["flash"])

    def prefill(self, tokens: Tokens) -> Tokens:
        context, count = self._ready(), tokens.shape[1]
        context.forget_all()
        filled = context.batch
        size = self.batch * count
        filled.token[:size] = tokens.reshape(-1)
        filled.position[:size] = np.tile(np.arange(count), self.batch)
        filled.sequences(slice(0, size), np.repeat(np.arange(self.batch), count))
        filled.wanted[:size] = 0
        filled.wanted[count - 1 : size : count] = 1
        picked = self._pass(context, size, self.batch)
        filled.sequences(slice(0, self.batch), np.arange(self.batch))  # for every decode step
        filled.wanted[: self.batch] = 1
        self.length = count
        return picked

    def decode(self, tokens: Tokens) -> Tokens:
        context = self._ready()
        context.batch.token[: self.batch] = tokens
        context.batch.position[: self.batch] = self.length
        self.length += 1
        return self._pass(context, self.batch, self.batch)

    def _pass(self, context: Context, size: int, rows: int) -> Tokens:
        """Pass `size` tokens, of which `rows` want logits; the argmax of each."""
        context.batch.struct.n_tokens = size
        context.run()
        self.rows = rows
        picked: Tokens = context.logits(rows).argmax(axis=-1)
        return picked

    def open_slots(self, slots: int, context: int) -> None:
        lengths = SlotLengths(slots, context, self.d.vocabulary)
        self._open(slots, context, self._steady_flash())
        self.lengths = lengths

    def _steady_flash(self) -> str:
        """Flash attention adds up in an order that depends on the mix: not by itself for slots."""
        options = self.spec.options
        chosen: str = options["flash"]
        return "off" if chosen == "auto" and options["kv"] != "q8_0" else chosen

    def step(self, feeds: Sequence[Feed]) -> list[int | None]:
        if self.lengths is None:
            raise none_open()
        self.lengths.check(feeds)
        if not feeds:
            return []
        context = self._ready()
        filled, end = context.batch, 0
        for slot, tokens, wanted in feeds:
            rows, held = slice(end, end + len(tokens)), self.lengths.held[slot]
            filled.token[rows] = tokens
            filled.position[rows] = np.arange(held, held + len(tokens))
            filled.sequences(rows, slot)
            filled.wanted[rows] = 0
            end = rows.stop
            filled.wanted[end - 1] = wanted
        self.rows = sum(feed.wanted for feed in feeds)
        filled.struct.n_tokens = end
        context.run()
        self.lengths.passed(feeds)
        picked = iter(context.logits(self.rows).argmax(axis=-1).tolist() if self.rows else ())
        return [next(picked) if feed.wanted else None for feed in feeds]

    def release(self, slot: int) -> None:
        if self.lengths is None:
            raise none_open()
        self.lengths.release(slot)
        self._ready().forget(slot)

    def logits(self) -> Logits:
        return self._ready().logits(self.rows).copy()

    def facts(self) -> dict[str, Any]:
        held = (f"{v['tensors']} tensors in {k}: {v['bytes']} B" for k, v in self.tensors.items())
        return {
            "llama-cpp-python": importlib.metadata.version("llama-cpp-python"),
            "llama.cpp": system_info(),
            "gguf": ", ".join(held),
            "buffers": ", ".join(f"{k} {v}" for k, v in self.buffers.items()),
            "repacked": self._repacked(),
            "flash_attention": self._flash(),
        }

    def _repacked(self) -> str:
        return ", ".join(f"{n} tensors as {k}" for k, n in self.repacked.items()) or "nothing"

    def _flash(self) -> str | None:
        """Whether attention runs in one pass, as llama.cpp says; None where it does not."""
        said = "\n".join(self.told)
        chosen = re.search(r"Flash Attention (enabled|not supported)", said)
        asked = re.search(r"flash_attn *= *(\w+)", said)
        found = chosen or asked
        return found[1] if found else None

    def trace(self, work: Callable[[], None]) -> KernelPath:
        """Operations of the graph by the format and buffer of their weights, timed one by one."""
        if self.watch is None:
            raise ArmbenchError("this engine was not loaded to be traced")
        self.watch.clear()
        work()
        kernels = self.watch.kernels()
        facts = {k: v for k, v in self.facts().items() if isinstance(v, str)}
        return KernelPath(
            variant=Variant(engine="llamacpp", dtype="", threads=0),
            source="llama.cpp's scheduler, operation by operation",
            kernels=kernels,
            facts=facts,
            notes=self._notes(),
            reason=None if kernels else "llama.cpp reported no operation",
        )

    def _notes(self) -> list[str]:
        if self.spec.dtype.startswith("q4") and not self.repacked and self.spec.options["repack"]:
            return ["no 4-bit weights were rearranged: this build lacks kernels for this CPU"]
        return []

    def runtime(self) -> RuntimeThreads:
        seen = RuntimeThreads(runtime="llama.cpp", compute=len(self.spec.cpus))
        read_openmp(seen)
        return seen
