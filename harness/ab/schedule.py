"""In which order the sides run, and after how many blocks one may look. Pure: nothing is run.

A block is ABBA or BAAB, so that a drift that is even within the block falls on both sides alike;
which of the two is random, so that nothing that repeats every few trials favours a side. The unit
of statistics is the block: its difference of mean logarithms.

Looking at growing data again and again finds a difference sooner or later by chance. So the looks
are fixed before the start, and each is made at alpha ÷ their number: by Bonferroni's inequality the
chance that any of them cries wolf is at most alpha, whatever the data are like and whenever it
stops. (Pocock's levels, 1977, would be wider by a little, but hold for normal data and large n.)
"""

from __future__ import annotations

import random

from harness.errors import ArmbenchError

LEAST_BLOCKS = 4  # the first look: Student's t with 3 degrees of freedom
MOST_BLOCKS = 20
GROWTH = 1.5


def looks(least: int = LEAST_BLOCKS, most: int = MOST_BLOCKS) -> list[int]:
    """The numbers of blocks after which one looks: 4, 6, 9, 14, 20.

    Raises ArmbenchError where they are too few for a verdict or in the wrong order.
    """
    if not 3 <= least <= most <= 1000:
        raise ArmbenchError(
            f"from {least} to {most} blocks can't be planned",
            hint="give at least 3 blocks, and not more at first than at most",
        )
    found = [least]
    while found[-1] < most:
        found.append(min(most, max(found[-1] + 1, round(found[-1] * GROWTH))))
    return found


def level(alpha: float, planned: list[int]) -> float:
    """The significance level of each look."""
    return alpha / len(planned)


def order(blocks: int, seed: int) -> list[str]:
    """For each block ABBA or BAAB."""
    choose = random.Random(seed)
    return [choose.choice(("ABBA", "BAAB")) for _ in range(blocks)]


def blocks_to_next(done: int, planned: list[int]) -> int | None:
    """How many blocks after `done` until the next look; None after the last."""
    return next((look - done for look in planned if look > done), None)
