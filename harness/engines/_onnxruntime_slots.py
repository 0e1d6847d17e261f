"""Sequences that come and go on one ONNX Runtime session with a shared, preallocated KV cache.

The operator GroupQueryAttention takes a batch whose rows have lengths of their own (by the
attention mask) one token at a time; several tokens behind a past it takes for a batch of one only.
So each step has one run for all single tokens, and one for each prompt chunk.

A run's batch is a stretch of rows of the cache's memory, bound by address. Sequences are kept in
neighbouring rows: a new one takes the lowest free row, and where a run would reach across a hole,
the last sequence is moved into it. A row between others that is fed nothing runs along with a
token of no meaning, which lands behind what it holds, where its next token will be written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from harness.engines import Feed
from harness.engines._slots import SlotLengths, untouched

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.engines import Logits
    from harness.model.architecture import Dimensions

_FLOAT = np.dtype(np.float32)


class SessionSlots:
    """Slots on `session`, whose past and present have `names`.

    Single tokens are passed in multiples of `together` rows (`_onnxruntime_rows` says why), rows
    of no meaning among them.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        d: Dimensions,
        names: Sequence[str],
        *,
        slots: int,
        context: int,
        together: int = 1,
    ) -> None:
        self.session, self.names, self.together = session, names, together
        self.lengths = SlotLengths(slots, context, d.vocabulary)
        rows = slots + together - 1
        self.cache = [self._zeros(rows, d.kv_heads, context, d.head) for _ in names]
        # a run of single tokens writes to the first `rows`, the n-th chunk to the n-th after them
        self.results = self._zeros(rows + slots, 1, d.vocabulary)
        self.rows: dict[int, int] = {}  # of slots that hold something
        self.bindings: dict[tuple[int, int], ort.IOBinding] = {}
        self.wanted: list[int] = []  # rows of `results`

    def _zeros(self, *shape: int) -> NDArray[np.float32]:
        memory = untouched(int(np.prod(shape)) * _FLOAT.itemsize)
        return np.frombuffer(memory, dtype=_FLOAT).reshape(shape)

    def step(self, feeds: Sequence[Feed]) -> list[int | None]:
        """Pass `feeds`; the next token of each that wants one."""
        self.lengths.check(feeds)
        for feed in feeds:
            self._row(feed.slot)
        singles = [f for f in feeds if len(f.tokens) == 1]
        # single tokens first: rows that run along must not hold anything that is not counted yet
        at = self._singles(singles) if singles else {}  # slot to row of `results`
        for number, feed in enumerate(f for f in feeds if len(f.tokens) > 1):
            at[feed.slot] = len(self.results) - len(self.lengths.held) + number
            self._chunk(feed, at[feed.slot])
        self.lengths.passed(feeds)
        self.wanted = [at[f.slot] for f in feeds if f.wanted]
        return [int(self.results[at[f.slot], 0].argmax()) if f.wanted else None for f in feeds]

    def release(self, slot: int) -> None:
        self.lengths.release(slot)
        self.rows.pop(slot, None)

    def logits(self) -> Logits:
        """Logits of the last step's wanted feeds, (wanted, vocabulary)."""
        return self.results[self.wanted, 0]

    def _row(self, slot: int) -> int:
        """The row of `slot`; where it has none yet, the lowest free one from now on."""
        if slot not in self.rows:
            self.rows[slot] = min(self._free())
        return self.rows[slot]

    def _free(self) -> set[int]:
        return set(range(len(self.lengths.held))) - set(self.rows.values())

    def _chunk(self, feed: Feed, result: int) -> None:
        tokens = np.array([feed.tokens], dtype=np.int64)
        end = self.lengths.held[feed.slot] + len(feed.tokens)
        self._run(self.rows[feed.slot], tokens, np.array([end]), result)

    def _singles(self, feeds: Sequence[Feed]) -> dict[int, int]:
        """One token of each of `feeds`, which are neighbours as far as may be."""
        rows = [self.rows[f.slot] for f in feeds]
        if any(min(rows) < free < max(rows) for free in self._free()):
            self._close_holes()
            rows = [self.rows[f.slot] for f in feeds]
        first, count = min(rows), max(rows) - min(rows) + 1
        count += -count % self.together
        tokens = np.zeros((count, 1), dtype=np.int64)
        held = np.zeros(count, dtype=np.int64)
        for slot, row in self.rows.items():
            if first <= row < first + count:
                held[row - first] = min(self.lengths.held[slot], self.lengths.context - 1)
        for feed, row in zip(feeds, rows, strict=True):
            tokens[row - first] = feed.tokens[0]
        self._run(first, tokens, held + 1, 0)
        return {feed.slot: row - first for feed, row in zip(feeds, rows, strict=True)}

    def _close_holes(self) -> None:
        """Move the last sequences into free rows below them."""
        for free in sorted(self._free()):
            slot = max(self.rows, key=self.rows.__getitem__)
            row, held = self.rows[slot], self.lengths.held[slot]
            if row < free:
                return
            for part in self.cache:
                part[free, :, :held] = part[row, :, :held]
            self.rows[slot] = free

    def _run(
        self,
        first: int,
        tokens: NDArray[np.int64],
        ends: NDArray[np.int64],
        result: int,
    ) -> None:
        """Pass `tokens` (count, n), after which the rows from `first` on hold `ends`.

        The logits go to `results` from `result` on.
        """
        count = len(tokens)
        binding = self._binding(first, count)
        mask = (np.arange(ends.max()) < ends[:, None]).astype(np.int64)
        binding.bind_cpu_input("input_ids", tokens)
        binding.bind_cpu_input("attention_mask", mask)
        self._bind_output(binding, "logits", self.results[result : result + count])
        self.session.run_with_iobinding(binding)

    def _binding(self, first: int, count: int) -> ort.IOBinding:
        """The cache rows from `first` on as past and present; made once for each stretch."""
        if (first, count) not in self.bindings:
            binding = self.session.io_binding()
            for name, part in zip(self.names, self.cache, strict=True):
                rows = part[first : first + count]
                binding.bind_input(
                    f"past_key_values.{name}", "cpu", 0, _FLOAT, rows.shape, rows.ctypes.data
                )
                self._bind_output(binding, f"present.{name}", rows)
            self.bindings[first, count] = binding
        return self.bindings[first, count]

    @staticmethod
    def _bind_output(binding: Any, name: str, memory: NDArray[np.float32]) -> None:
        binding.bind_output(name, "cpu", 0, _FLOAT, memory.shape, memory.ctypes.data)
