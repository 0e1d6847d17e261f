"""A model of an engine: it computes for as long as it is told, and fails when it is told.

For tests, demos and the harness's own cost. It reads the checkpoint's config, not its
weights, and its figures are the options' figures: a result with it is never a measurement.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engines._slots import SlotLengths, none_open
from harness.errors import ArmbenchError, unknown_name
from harness.model.architecture import Dimensions, dimensions
from harness.records.run import RuntimeThreads

if TYPE_CHECKING:
    from harness.engines import Engine, EngineSpec, Feed, Logits, Tokens

DTYPES = ("float32", "bfloat16")
PACKAGES = ("numpy",)
OPTIONS: Mapping[str, Any] = {
    "prefill_s_per_token": 1e-5,
    "step_s": 1e-3,
    "row_s": 0.0,
    "curve": "",
    "memory_bytes": 64 * 2**20,
    "fault": "",
    "fault_step": 8,
    "fault_dtype": "",
}
OPTION_HELP: Mapping[str, str] = {
    "prefill_s_per_token": "seconds for each token of a prompt",
    "step_s": "seconds of a decode step",
    "row_s": "seconds more for each sequence that decodes in a step",
    "curve": "steps per second by threads instead of step_s, such as 1:17,2:33,8:92.8",
    "memory_bytes": "what it says that it takes",
    "fault": "crash, hang, error, out-of-memory or stray (a thread off its CPUs)",
    "fault_step": "the decode step at which the fault happens",
    "fault_dtype": "only for this dtype, else for all",
}
_CURVE_POINT = re.compile(r"(\d{1,6}):(\d{1,9}(?:\.\d{1,9})?)")
FAULTS = ("crash", "hang", "error", "out-of-memory", "stray")
serves = True


def environment(cpus: Sequence[int], options: Mapping[str, Any]) -> dict[str, str]:
    """Nothing: it pins its threads itself."""
    return {}


def memory_bytes(
    d: Dimensions, dtype: str, batch: int, context: int, options: Mapping[str, Any]
) -> int:
    """What the option says."""
    return int(options["memory_bytes"])


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ArmbenchError for a fault that does not exist, or a negative time."""
    if options["fault"] and options["fault"] not in FAULTS:
        raise unknown_name("fault", options["fault"], FAULTS)
    if min(options[name] for name in ("prefill_s_per_token", "step_s", "row_s")) < 0:
        raise ArmbenchError("the fake engine's times must not be negative", hint="give seconds")
    parse_curve(options["curve"])


def parse_curve(text: str) -> dict[int, float]:
    """Steps per second by threads, from `1:17,2:33`; empty for no text.

    Raises ArmbenchError where it is no such list.
    """
    found: dict[int, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = _CURVE_POINT.fullmatch(part)
        if match is None or not int(match[1]) or not float(match[2]):
            raise ArmbenchError(
                f"the fake engine's curve has {part[:40]!r}", hint="write it like 1:17,2:33"
            )
        found[int(match[1])] = float(match[2])
    return found


def step_seconds(options: Mapping[str, Any], threads: int) -> float:
    """Seconds of a decode step: by the curve at the nearest count that is not above `threads`."""
    curve = parse_curve(options["curve"])
    if not curve:
        return float(options["step_s"])
    known = max((n for n in curve if n <= threads), default=min(curve))
    return 1 / curve[known]


def stored(dtype: str, options: Mapping[str, Any]) -> None:
    """Nothing: it reads no weights."""


def load(spec: EngineSpec) -> Engine:
    """A fake engine for `spec.checkpoint`'s vocabulary."""
    return FakeEngine(spec)


class FakeEngine:
    """The engine protocol over a clock: the next token is a fixed function of the last."""

    def __init__(self, spec: EngineSpec) -> None:
        import numpy as np

        self.np = np
        self.spec = spec
        config = json.loads((Path(spec.checkpoint) / "config.json").read_text())
        self.vocabulary = dimensions(config).vocabulary
        self.steps = 0
        self.last = np.zeros(0, dtype=np.int64)
        self.lengths: SlotLengths | None = None
        self.threads = _Threads(spec.cpus)
        self.step_s = step_seconds(spec.options, len(spec.cpus))
        only = spec.options["fault_dtype"]
        self.fault = spec.options["fault"] if only in ("", spec.dtype) else ""

    def open_slots(self, slots: int, context: int) -> None:
        self.lengths = SlotLengths(slots, context, self.vocabulary)

    def step(self, feeds: Sequence[Feed]) -> list[int | None]:
        lengths = self._open()
        lengths.check(feeds)
        single = [len(f.tokens) == 1 and lengths.held[f.slot] > 0 for f in feeds]
        chunks = sum(len(f.tokens) for f, one in zip(feeds, single, strict=True) if not one)
        self._compute(sum(single), chunks)
        lengths.passed(feeds)
        ends = self.np.array([f.tokens[-1] for f in feeds if f.wanted], dtype=self.np.int64)
        following = iter(self._advance(ends).tolist())
        return [next(following) if f.wanted else None for f in feeds]

    def release(self, slot: int) -> None:
        self._open().release(slot)

    def _open(self) -> SlotLengths:
        if self.lengths is None:
            raise none_open()
        return self.lengths

    def _compute(self, decoding: int, prompt_tokens: int) -> None:
        """Take the time of a step; a step that decodes counts as one for the fault."""
        options = self.spec.options
        seconds = options["prefill_s_per_token"] * prompt_tokens
        if decoding:
            self.steps += 1
            if self.fault and self.steps == options["fault_step"]:
                _fail(self.fault)
            seconds += self.step_s + options["row_s"] * decoding
        self.threads.compute(seconds)

    def allocate(self, batch: int, context: int) -> None:
        self.last = self.np.zeros(batch, dtype=self.np.int64)

    def _advance(self, tokens: Tokens) -> Tokens:
        self.last = (tokens * 31 + 7) % self.vocabulary
        return self.last

    def prefill(self, tokens: Tokens) -> Tokens:
        self._compute(0, tokens.size)
        return self._advance(tokens[:, -1])

    def decode(self, tokens: Tokens) -> Tokens:
        self._compute(len(tokens), 0)
        return self._advance(tokens)

    def logits(self) -> Logits:
        logits = self.np.zeros((len(self.last), self.vocabulary), dtype=self.np.float32)
        logits[self.np.arange(len(self.last)), self.last] = 1.0
        return logits

    def facts(self) -> dict[str, Any]:
        return {
            "fake": "figures are the options', not measurements",
            "threads": len(self.spec.cpus),
        }

    def runtime(self) -> RuntimeThreads:
        return RuntimeThreads(runtime="the fake engine", compute=len(self.spec.cpus))


class _Threads:
    """One thread on each CPU that computes for as long as it is told.

    They hash, which needs no GIL: a sleeping thread would prove no placement.
    """

    _BLOCK = bytes(1 << 15)  # short beside any time that is asked for

    def __init__(self, cpus: Sequence[int]) -> None:
        self.end = 0.0
        self.starts = [threading.Event() for _ in cpus[1:]]
        for cpu, start in zip(cpus[1:], self.starts, strict=True):
            threading.Thread(target=self._serve, args=(cpu, start), daemon=True).start()
        os.sched_setaffinity(0, {cpus[0]})

    def _serve(self, cpu: int, start: threading.Event) -> None:
        os.sched_setaffinity(0, {cpu})
        while True:
            start.wait()
            start.clear()
            self._spin()

    def _spin(self) -> None:
        while time.monotonic() < self.end:
            hashlib.sha256(self._BLOCK)

    def compute(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        for start in self.starts:
            start.set()
        self._spin()


def _fail(fault: str) -> None:
    if fault == "crash":
        print("fake engine: crashing as asked", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    elif fault == "hang":
        time.sleep(3600)
    elif fault == "error":
        raise RuntimeError("fake engine: failing as asked")
    elif fault == "out-of-memory":
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does
    elif fault == "stray":
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
