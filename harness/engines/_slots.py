"""The slots of a serving engine: how much each holds, and what may be fed to it."""

from __future__ import annotations

import mmap
from collections.abc import Sequence

from harness.engines import Feed
from harness.errors import ArmbenchError


def untouched(size: int) -> mmap.mmap:
    """`size` bytes of zeros that take memory where they are written only, page by page."""
    return mmap.mmap(-1, size)


class SlotLengths:
    """`held[slot]` tokens of at most `context` are in each slot; all begin empty."""

    def __init__(self, slots: int, context: int, vocabulary: int) -> None:
        if slots < 1 or context < 1:
            raise ArmbenchError(
                f"{slots} slots of {context} tokens were asked for", hint="ask for at least one"
            )
        self.context, self.vocabulary = context, vocabulary
        self.held = [0] * slots

    def check(self, feeds: Sequence[Feed]) -> None:
        """Raise ArmbenchError, with nothing changed, where one of `feeds` cannot be passed."""
        seen: set[int] = set()
        for slot, tokens, _ in feeds:
            self._check_slot(slot)
            if slot in seen:
                raise ArmbenchError(
                    f"slot {slot} was fed twice in one step", hint="join both feeds"
                )
            seen.add(slot)
            self._check_tokens(slot, tokens)

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < len(self.held):
            raise ArmbenchError(
                f"there is no slot {slot}", hint=f"slots 0 to {len(self.held) - 1} are open"
            )

    def _check_tokens(self, slot: int, tokens: Sequence[int]) -> None:
        if not tokens:
            raise ArmbenchError(f"slot {slot} was fed no token", hint="leave it out of the step")
        if min(tokens) < 0 or max(tokens) >= self.vocabulary:
            raise ArmbenchError(
                f"slot {slot} was fed tokens from {min(tokens)} to {max(tokens)}",
                hint=f"the model's vocabulary goes from 0 to {self.vocabulary - 1}",
            )
        if self.held[slot] + len(tokens) > self.context:
            raise ArmbenchError(
                f"slot {slot} holds {self.held[slot]} tokens and was fed {len(tokens)} more, "
                f"with room for {self.context}",
                hint="open slots with a larger context, or send a shorter request",
            )

    def passed(self, feeds: Sequence[Feed]) -> None:
        """Count `feeds`, which went through."""
        for slot, tokens, _ in feeds:
            self.held[slot] += len(tokens)

    def release(self, slot: int) -> None:
        """Count `slot` as empty. Raises ArmbenchError for one that is not open."""
        self._check_slot(slot)
        self.held[slot] = 0


def none_open() -> ArmbenchError:
    """What to raise where a slot is used before any was opened."""
    return ArmbenchError("no slots are open", hint="call open_slots first")
