"""An interleaved comparison of two sides, as it is stored while it goes on."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

AB_SCHEMA = 2  # 2: with the rules

SideKey = Literal["a", "b"]


class AbSide(Struct, kw_only=True):
    """One side: what the user named, and the command that measures it.

    `{results}` in `command` is the folder of a trial's result, `{dir}` the checkout of a git
    reference, which is set at `commit`.
    """

    name: str  # base or head
    kind: Literal["command", "venv", "git"]
    text: str
    command: list[str]
    commit: str | None = None
    variables: dict[str, str] = field(default_factory=dict)


class AbTrial(Struct, kw_only=True):
    """One command, run once; `file` is its result, relative to the folder of the comparison."""

    block: int
    position: int
    side: SideKey
    file: str
    seconds: float
    exit: int


class AbState(Struct, kw_only=True):
    """All of it. `order` has one word for each block: ABBA or BAAB.

    `looks` are the numbers of blocks after which it is decided whether to go on; each look is made
    at `alpha` ÷ their number. `rules` are those of the gate, resolved: a resumed comparison is
    judged by what it was begun with.
    """

    schema: int
    created: str
    seed: int
    a: AbSide
    b: AbSide
    order: list[str]
    looks: list[int]
    alpha: float
    rules: dict[str, Any]
    budget_s: float | None
    trials: list[AbTrial] = field(default_factory=list)
    spent_s: float = 0.0
    looked: list[int] = field(default_factory=list)
    checkouts: list[str] = field(default_factory=list)  # to be removed, also after a kill
    repository: str | None = None
    cwd: str | None = None  # where commands run
    setup: list[str] = field(default_factory=list)  # once in each checkout, before any trial
    exit: int | None = None
    kept: int = 0  # A/A comparisons of it in the history: once is enough
