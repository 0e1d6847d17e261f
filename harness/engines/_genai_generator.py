"""The generator behind the onnxruntime_genai engine."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime_genai as og

from harness.engines._onnxruntime_keys import AFFINITIES, config_entries, from_one, kernel_path
from harness.errors import ArmbenchError
from harness.model.architecture import dimensions
from harness.records.run import KernelPath, RuntimeThreads

if TYPE_CHECKING:
    from harness.engines import EngineSpec, Logits, Tokens

# Of no token: a sequence goes on after any. An empty list is refused, and a `min_length` instead
# would keep the model from ever choosing its end token.
_NO_TOKEN = -1
_LEAST = np.float32(-1e30)  # the score of a token that must not be chosen


class GenaiEngine:
    """The engine protocol over one Generator at a time.

    The library runs a step and chooses its tokens in one call, so it is asked to choose as long as
    the caller passes what was chosen. One that passes other tokens, as the quality guard does, is
    followed by scores that leave nothing else to choose.
    """

    def __init__(self, spec: EngineSpec) -> None:
        if spec.prepared is None:
            raise ArmbenchError("the onnxruntime_genai engine was given no converted checkpoint")
        self.folder = Path(spec.prepared)
        config = json.loads((Path(spec.checkpoint) / "config.json").read_text())
        self.vocabulary = dimensions(config).vocabulary
        os.sched_setaffinity(0, {spec.cpus[0]})
        self.threads = len(spec.cpus)
        self.session: dict[str, Any] = dict(config_entries(spec.cpus, spec.options))
        self.session |= {"intra_op_num_threads": self.threads, "inter_op_num_threads": 1}
        self.profiles = tempfile.mkdtemp(prefix="armbench-") if spec.trace else None
        if self.profiles:
            self.session["enable_profiling"] = str(Path(self.profiles) / "trace")
        self.model: Any = _model(spec.prepared, self.session)
        self.generator: Any = None
        self.batch = self.context = 0
        self.chosen: Tokens | None = None  # appended, but not passed through the model yet
        self.best: Tokens | None = None  # of the last logits, not appended yet
        self.follows = False

    def allocate(self, batch: int, context: int) -> None:
        self.batch, self.context = batch, context
        self._start()

    def _start(self) -> None:
        self.generator = None  # first, so that two caches never stand side by side
        parameters = og.GeneratorParams(self.model)
        parameters.set_search_options(
            max_length=self.context, batch_size=self.batch, do_sample=False
        )
        self.generator = og.Generator(self.model, parameters)
        self.chosen = self.best = None
        self.follows = False

    def prefill(self, tokens: Tokens) -> Tokens:
        if self.generator is None:
            raise ArmbenchError("no room was allocated", hint="call allocate first")
        if self.generator.token_count():
            self.generator.rewind_to(0)
            self.chosen, self.follows = None, False
        return self._append(tokens)

    def _append(self, tokens: Tokens) -> Tokens:
        self.generator.append_tokens(np.ascontiguousarray(tokens, dtype=np.int32))
        self.chosen = None
        return self._seen()

    def _seen(self) -> Tokens:
        """The best tokens of logits that were computed and not chosen from yet."""
        best: Tokens = self.generator.get_logits().reshape(self.batch, -1).argmax(axis=-1)
        self.best = best
        return best

    def decode(self, tokens: Tokens) -> Tokens:
        if self.chosen is None:
            self._choose(tokens)
        elif not np.array_equal(tokens, self.chosen):
            self.follows = True
            return self._append(self._instead(tokens))
        if self.follows:
            return self._seen()
        self.generator.generate_next_token()
        chosen: Tokens = self.generator.get_next_tokens().astype(np.int64)
        self.chosen = chosen
        return chosen

    def _choose(self, tokens: Tokens) -> None:
        """Append `tokens`, which are chosen from logits that are there."""
        if self.best is None or not np.array_equal(tokens, self.best):
            self.follows = True
            scores = np.full((self.batch, 1, self.vocabulary), _LEAST, dtype=np.float32)
            scores[np.arange(self.batch), 0, tokens] = 0
            self.generator.set_logits(scores)
        self.generator.generate_next_token()
        self.best = None

    def _instead(self, tokens: Tokens) -> Tokens:
        """All that was passed, with `tokens` for what was chosen: a batch goes back whole only."""
        held = [self.generator.get_sequence(row)[:-1] for row in range(self.batch)]
        self.generator.rewind_to(0)
        return np.column_stack([np.array(held, dtype=np.int64), tokens])

    def logits(self) -> Logits:
        last: Logits = self.generator.get_output("logits").reshape(self.batch, -1).copy()
        return last

    def facts(self) -> dict[str, Any]:
        return {
            "onnxruntime-genai": og.__version__,
            "kv_cache": "the library's: shared, preallocated",
            "session": {key: str(value) for key, value in self.session.items()},
        }

    def trace(self, work: Callable[[], None]) -> KernelPath:
        """Operators as the profile of ONNX Runtime counts them, written when the model ends."""
        work()
        self.generator = self.model = None
        try:
            (file,) = Path(self.profiles or "").glob("trace*.json")
            return kernel_path("onnxruntime_genai", file, self.folder)
        finally:
            shutil.rmtree(self.profiles or "", ignore_errors=True)

    def runtime(self) -> RuntimeThreads:
        """As they were asked for: the library does not tell its session's options."""
        groups = self.session.get(AFFINITIES, "")
        return RuntimeThreads(
            runtime="onnxruntime-genai",
            compute=self.threads,
            interop=1,
            affinities=[from_one(group) for group in groups.split(";") if group],
        )


def _model(folder: str, session: dict[str, Any]) -> Any:
    config = og.Config(folder)
    decoder = {"decoder": {"session_options": session}}
    config.overlay(json.dumps({"model": {"eos_token_id": _NO_TOKEN, **decoder}}))
    return og.Model(config)
