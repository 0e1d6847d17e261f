"""What each of several engines still has before it, and which of them takes the next request."""

from __future__ import annotations

from collections.abc import Sequence


class Outstanding:
    """Tokens that one engine still has to pass for its requests, at most.

    Of a request these are the tokens of its prompt that are not filled yet, and the output tokens
    it may still get. `total` is over all requests here. Requests that are not here are ignored.
    """

    def __init__(self) -> None:
        self.total = 0
        self._left: dict[int, tuple[int, int]] = {}  # of the prompt, of the output

    def begin(self, request: int, prompt: int, output: int) -> None:
        """`request` is here now."""
        self._set(request, prompt, output)

    def filled(self, request: int, tokens: int) -> None:
        """A step passed `tokens` of its prompt."""
        if request in self._left:
            prompt, output = self._left[request]
            self._set(request, max(0, prompt - tokens), output)

    def produced(self, request: int) -> None:
        """It got one token, so its prompt is filled."""
        if request in self._left:
            self._set(request, 0, max(0, self._left[request][1] - 1))

    def end(self, request: int) -> None:
        """It is gone, whatever it had left."""
        self.total -= sum(self._left.pop(request, (0, 0)))

    def _set(self, request: int, prompt: int, output: int) -> None:
        self.total += prompt + output - sum(self._left.get(request, (0, 0)))
        self._left[request] = prompt, output


def least(totals: Sequence[int | None]) -> int | None:
    """The index of the engine with the fewest tokens before it, the first of equal ones.

    Those that take nothing now are None; None where that is all of them.
    """
    able = [n for n, total in enumerate(totals) if total is not None]
    return min(able, key=lambda n: (totals[n], n), default=None)
