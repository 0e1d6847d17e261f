"""Engines: each file of this folder is one, by its name; a leading underscore marks a part.

An engine module is cheap to import (no torch, no onnxruntime at its top) and has

- `DTYPES`: the dtypes it can compute in;
- `PACKAGES`: the packages it needs, by import name;
- `OPTIONS`: its options with their defaults;
- `environment(cpus, options)`: variables to set before anything is imported;
- `memory_bytes(dimensions, dtype, batch, context, options)`: an estimate of its peak memory;
- `load(spec)`: the engine, ready; called in the pinned child only;
- `check_options(options)`, optional: raises ArmbenchError for a value that it does not know, or
  that this machine can't give;
- `prepare(spec, folder)`, optional: converts the checkpoint once, in a child of its own;
- `prepare_options(dtype, options)`, `prepare_packages(options)` and
  `prepare_bytes(dimensions, dtype, options)` beside it: what the conversion depends on, what it
  needs installed, and the (memory, disk) it takes at most;
- `CONVERSION_OF`, optional: the engine that it shares conversions with;
- `OPTION_HELP`, optional: the meaning of each option in one line;
- `here(found)`, optional: what it can do on the machine of which `abilities.here` says `found`;
- `stored(dtype, options)`, optional: how it keeps the model, where not in plain `dtype`;
- `INT8`, optional: the CPU features that its 8-bit products use, where not all that there are;
- `KLEIDIAI`, optional: True where it runs Arm's own kernels;
- `serves`, optional: True where its engine is a ServingEngine;
- `serving_bytes(dimensions, dtype, slots, context, chunk, options)`, optional beside it: an
  estimate of its peak memory while it serves, where not that of `slots` whole prompts at once;
- `shared_bytes(dimensions, dtype, options)`, optional: how much of that memory is mapped from files
  that all processes here share, so that further instances do not take it again;
- `TUNABLE`, optional: option name → values that `armbench tune` tries, each by itself beside the
  defaults of the other options; such as `{"spinning": [True, False]}`;
- `TUNABLE_IN`, optional: the same for one dtype only, by dtype;
- `NEUTRAL`, optional: options that change no number it computes, such as `huge_pages`: what
  the quality guard said of one of their values holds for the others;
- `TRACE`, optional: variables that make its libraries tell which kernels they run. The engine then
  has `trace(work)`, which calls `work` and returns a KernelPath.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from msgspec import Struct, field

from harness import packages
from harness.errors import ArmbenchError, unknown_name
from harness.model.architecture import Dimensions
from harness.records.load import ServeSetting
from harness.records.run import RuntimeThreads, Stored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Tokens = NDArray[np.int64]
    Logits = NDArray[np.float32]


class EngineSpec(Struct, kw_only=True):
    """What a child needs to load an engine. `cpus` is in the order of the threads."""

    engine: str
    checkpoint: str
    dtype: str
    cpus: list[int]
    options: dict[str, Any] = field(default_factory=dict)
    prepared: str | None = None  # folder of the conversion, where the engine has one
    trace: bool = False  # whether the engine is loaded to show which kernels it runs


class Engine(Protocol):
    """A loaded model. Greedy: each call returns the argmax of its last logits.

    All sequences of a batch have the same length; `prefill` starts them anew.
    """

    def allocate(self, batch: int, context: int) -> None:
        """Make room for `batch` sequences of up to `context` tokens."""

    def prefill(self, tokens: Tokens) -> Tokens:
        """Pass `tokens` (batch, n) and return the first output token of each, (batch,)."""

    def decode(self, tokens: Tokens) -> Tokens:
        """Pass one more token of each sequence, (batch,), and return the next, (batch,)."""

    def logits(self) -> Logits:
        """Logits of the last call's last position, (batch, vocabulary)."""

    def facts(self) -> dict[str, Any]:
        """What the runtime says of itself: versions, kernels, caches."""

    def runtime(self) -> RuntimeThreads:
        """What the runtime says of its compute threads. Never called inside a window."""


class Feed(NamedTuple):
    """One sequence's share of a step: its next `tokens`, behind what `slot` holds already.

    A decode step feeds one token, a prompt chunk several. Without `wanted` the next token is not
    computed: more of the prompt follows.
    """

    slot: int
    tokens: Sequence[int]
    wanted: bool = True


class ServingEngine(Engine, Protocol):
    """An engine whose sequences come and go between steps: ragged lengths, one slot each.

    The greedy tokens of a sequence do not depend on what else a step holds.
    """

    def open_slots(self, slots: int, context: int) -> None:
        """Make room for `slots` sequences of up to `context` tokens each, all empty."""

    def step(self, feeds: Sequence[Feed]) -> list[int | None]:
        """Pass every feed, at most one for each slot; the next tokens, None where unwanted."""

    def release(self, slot: int) -> None:
        """Forget what `slot` holds; its next feed begins a sequence."""


class EngineModule(Protocol):
    """The face of an engine's file."""

    DTYPES: Sequence[str]
    PACKAGES: Sequence[str]
    OPTIONS: Mapping[str, Any]

    def environment(self, cpus: Sequence[int], options: Mapping[str, Any]) -> dict[str, str]: ...

    def memory_bytes(
        self, d: Dimensions, dtype: str, batch: int, context: int, options: Mapping[str, Any]
    ) -> int: ...

    def load(self, spec: EngineSpec) -> Engine: ...


def names() -> list[str]:
    """The engines there are."""
    here = Path(__file__).parent
    return sorted(p.stem for p in here.glob("*.py") if not p.stem.startswith("_"))


def module(name: str) -> EngineModule:
    """The module of engine `name`. Raises ArmbenchError for one that does not exist."""
    if name not in names():
        raise unknown_name("engine", name, names())
    return cast("EngineModule", importlib.import_module(f"harness.engines.{name}"))


def converter(name: str) -> ModuleType | None:
    """The module of engine `name` where it converts checkpoints, else None."""
    found = module(name)
    return cast("ModuleType", found) if hasattr(found, "prepare") else None


_STORED = {
    "float32": Stored(body="float32", compute="f32", kv_element_bytes=4),
    "bfloat16": Stored(body="bfloat16", compute="bf16", kv_element_bytes=2),
}


def stored(name: str, dtype: str, options: Mapping[str, Any]) -> Stored | None:
    """How engine `name` keeps a model of `dtype`; None where it keeps none, or does not tell."""
    own = getattr(module(name), "stored", None)
    return cast("Stored | None", own(dtype, options)) if own else plain_stored(dtype)


def plain_stored(dtype: str) -> Stored | None:
    """How an engine keeps a model in plain `dtype`; None for one that is not plain."""
    return _STORED.get(dtype)


def numeric_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `options` that may change what engine `name` computes."""
    neutral = getattr(module(name), "NEUTRAL", ())
    return {key: value for key, value in options.items() if key not in neutral}


def serving_bytes(
    name: str, d: Dimensions, dtype: str, serve: ServeSetting, options: Mapping[str, Any]
) -> int:
    """An estimate of the peak memory of engine `name` while it serves under `serve`."""
    slots, context = serve.slots, serve.context
    if own := getattr(module(name), "serving_bytes", None):
        return int(own(d, dtype, slots, context, serve.chunk, options))
    return module(name).memory_bytes(d, dtype, slots, context, options)


def shared_bytes(name: str, d: Dimensions, dtype: str, options: Mapping[str, Any]) -> int:
    """Bytes of engine `name` that several processes of it have together; 0 where it tells none."""
    own = getattr(module(name), "shared_bytes", None)
    return int(own(d, dtype, options)) if own else 0


def trace_environment(name: str) -> dict[str, str] | None:
    """Variables for a traced pass of engine `name`; None where it cannot be traced."""
    variables: Mapping[str, str] | None = getattr(module(name), "TRACE", None)
    return None if variables is None else dict(variables)


def missing_packages(name: str) -> list[str]:
    """Packages that engine `name` needs and that are not installed here."""
    return packages.missing(module(name).PACKAGES)


def resolve_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of engine `name` with defaults filled in.

    Raises ArmbenchError for an option it does not have, or one of another type.
    """
    known = module(name).OPTIONS
    for key, value in given.items():
        if key not in known:
            raise unknown_name(f"option of engine {name}", key, known)
        if type(value) is not type(known[key]):
            raise ArmbenchError(
                f"option {key} of engine {name} is {value!r}",
                hint=f"give a {type(known[key]).__name__}, such as {known[key]!r}",
            )
    resolved = {**known, **given}
    if check := getattr(module(name), "check_options", None):
        check(resolved)
    return resolved
