"""The session behind the onnxruntime engine."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from harness.engines._onnxruntime_keys import AFFINITIES, config_entries, from_one, kernel_path
from harness.engines._onnxruntime_rows import number_of_rows
from harness.engines._onnxruntime_slots import SessionSlots
from harness.engines._slots import none_open
from harness.engines.onnxruntime import uses_dynamic
from harness.errors import ArmbenchError
from harness.model.architecture import Dimensions, dimensions
from harness.records.run import KernelPath, RuntimeThreads

if TYPE_CHECKING:
    from harness.engines import EngineSpec, Feed, Logits, Tokens


def session_options(cpus: list[int], options: dict[str, Any]) -> ort.SessionOptions:
    """One thread on each of `cpus`; the first is the calling thread, which the caller pins."""
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = len(cpus)
    chosen.inter_op_num_threads = 1
    chosen.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    for key, value in config_entries(cpus, options).items():
        chosen.add_session_config_entry(key, value)
    return chosen


class OnnxEngine:
    """The engine protocol over one session with IO binding."""

    def __init__(self, spec: EngineSpec) -> None:
        if spec.prepared is None:
            raise ArmbenchError("the onnxruntime engine was given no converted checkpoint")
        self.spec, self.folder = spec, Path(spec.prepared)
        config = json.loads((Path(spec.checkpoint) / "config.json").read_text())
        self.d: Dimensions = dimensions(config)
        os.sched_setaffinity(0, {spec.cpus[0]})
        chosen = session_options(spec.cpus, spec.options)
        self.profiles = tempfile.mkdtemp(prefix="armbench-") if spec.trace else None
        if self.profiles:
            chosen.enable_profiling = True
            chosen.profile_file_prefix = str(Path(self.profiles) / "trace")
        self.session = ort.InferenceSession(
            str(self.folder / "model.onnx"), chosen, providers=["CPUExecutionProvider"]
        )
        inputs = {i.name for i in self.session.get_inputs()}
        self.positions = "position_ids" in inputs
        self.shared = spec.options["exporter"] == "builder"
        self.names = [f"{i}.{part}" for i in range(self.d.layers) for part in ("key", "value")]
        self.last: np.ndarray[Any, np.dtype[np.float32]] = np.empty(0, dtype=np.float32)
        self.batch = self.context = self.length = 0
        self.cache: list[ort.OrtValue] = []
        self.slots: SessionSlots | None = None

    def open_slots(self, slots: int, context: int) -> None:
        if not self.shared:
            raise ArmbenchError(
                "a graph of exporter 'optimum' cannot serve: its cache grows by concatenation, so "
                "that all sequences of a batch have the same length",
                hint="take exporter builder",
            )
        if uses_dynamic(self.spec.dtype, self.spec.options):
            raise ArmbenchError(
                "int8 = 'dynamic' cannot serve: one scale for the activations of a whole step "
                "makes a sequence's tokens depend on what else the step holds",
                hint="take int8 = 'nbits'",
            )
        self.cache = []
        self.binding = self.session.io_binding()  # lets go of the cache it was bound to
        together = number_of_rows(self.folder, session_options(self.spec.cpus, self.spec.options))
        self.slots = SessionSlots(
            self.session, self.d, self.names, slots=slots, context=context, together=together
        )

    def step(self, feeds: Sequence[Feed]) -> list[int | None]:
        return self._open().step(feeds)

    def release(self, slot: int) -> None:
        self._open().release(slot)

    def _open(self) -> SessionSlots:
        if self.slots is None:
            raise none_open()
        return self.slots

    def allocate(self, batch: int, context: int) -> None:
        self.slots = None
        self.batch, self.context = batch, context
        self.logit_value = self._zeros((batch, 1, self.d.vocabulary))
        self.binding = self.session.io_binding()
        self.cache = []
        self._start()

    def _zeros(self, shape: tuple[int, ...]) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype=np.float32))

    def _start(self) -> None:
        """A cache for new sequences: whole and in place, or empty and growing."""
        self.length = 0
        room = self.context if self.shared else 0
        shape = (self.batch, self.d.kv_heads, room, self.d.head)
        if self.shared and self.cache and self.cache[0].shape() == list(shape):
            return
        self.cache = [self._zeros(shape) for _ in self.names]
        if self.shared:  # the same memory in and out at every step: bound once
            for name, value in zip(self.names, self.cache, strict=True):
                self.binding.bind_ortvalue_input(f"past_key_values.{name}", value)
                self.binding.bind_ortvalue_output(f"present.{name}", value)
            self.binding.bind_ortvalue_output("logits", self.logit_value)

    def _bind(self, tokens: Tokens) -> None:
        end = self.length + tokens.shape[1]
        bind = self.binding
        bind.bind_cpu_input("input_ids", tokens)
        bind.bind_cpu_input("attention_mask", np.ones((self.batch, end), dtype=np.int64))
        if self.positions:
            row = np.arange(self.length, end, dtype=np.int64)
            bind.bind_cpu_input("position_ids", np.tile(row, (self.batch, 1)))
        if not self.shared:
            for name, value in zip(self.names, self.cache, strict=True):
                bind.bind_ortvalue_input(f"past_key_values.{name}", value)
                bind.bind_output(f"present.{name}", "cpu")
            bind.bind_output("logits", "cpu")

    def _step(self, tokens: Tokens) -> Tokens:
        self._bind(np.ascontiguousarray(tokens))
        self.session.run_with_iobinding(self.binding)
        if self.shared:
            self.last = self.logit_value.numpy()[:, -1]
        else:
            bound = [f"present.{name}" for name in self.names] + ["logits"]  # as in _bind
            outputs = dict(zip(bound, self.binding.get_outputs(), strict=True))
            self.last = outputs["logits"].numpy()[:, -1]
            self.cache = [outputs[f"present.{name}"] for name in self.names]
        self.length += tokens.shape[1]
        picked: Tokens = self.last.argmax(axis=-1)
        return picked

    def prefill(self, tokens: Tokens) -> Tokens:
        self._start()
        return self._step(tokens)

    def decode(self, tokens: Tokens) -> Tokens:
        return self._step(tokens[:, None])

    def logits(self) -> Logits:
        return self.last.copy() if self.slots is None else self.slots.logits()

    def facts(self) -> dict[str, Any]:
        return {
            "onnxruntime": ort.__version__,
            "providers": self.session.get_providers(),
            "kv_cache": "shared, preallocated" if self.shared else "grows by concatenation",
        }

    def trace(self, work: Callable[[], None]) -> KernelPath:
        """Operators of the optimised graph as ONNX Runtime's profile counts them."""
        work()
        try:
            path = kernel_path("onnxruntime", Path(self.session.end_profiling()), self.folder)
        finally:
            shutil.rmtree(self.profiles or "", ignore_errors=True)
        if build := getattr(ort, "get_build_info", None):
            path.facts["build"] = str(build())
        return path

    def runtime(self) -> RuntimeThreads:
        chosen = self.session.get_session_options()
        several = chosen.intra_op_num_threads > 1
        groups = chosen.get_session_config_entry(AFFINITIES).split(";") if several else []
        return RuntimeThreads(
            runtime="onnxruntime",
            compute=chosen.intra_op_num_threads,
            interop=chosen.inter_op_num_threads,
            affinities=[from_one(group) for group in groups],
        )
