"""A serving engine led as one of batches: what the guard asks then runs the code that serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.engines import Feed

if TYPE_CHECKING:
    from harness.engines import Logits, ServingEngine, Tokens


class InSlots:
    """`engine` with each row of a batch in a slot, and `chunk` prompt tokens a step at most."""

    def __init__(self, engine: ServingEngine, chunk: int) -> None:
        self.engine, self.chunk = engine, chunk

    def allocate(self, batch: int, context: int) -> None:
        """Open a slot for each row, empty."""
        self.engine.open_slots(batch, context)

    def prefill(self, tokens: Tokens) -> Tokens:
        """Pass the rows side by side, part by part."""
        batch, length = tokens.shape
        part = max(1, self.chunk // batch)
        ends = range(part, length + part, part)
        return [self._step(tokens[:, end - part : end], wanted=end >= length) for end in ends][-1]

    def decode(self, tokens: Tokens) -> Tokens:
        """Pass one more token of each row."""
        return self._step(tokens[:, None])

    def logits(self) -> Logits:
        """Those of the last step, in the order of the rows."""
        return self.engine.logits()

    def _step(self, tokens: Tokens, *, wanted: bool = True) -> Tokens:
        rows = enumerate(tokens.tolist())
        return np.array(self.engine.step([Feed(slot, row, wanted) for slot, row in rows]))
