"""What counts as a change, and what the gate holds a result to: configs/gate.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from harness import metrics, places
from harness.comparing import environment
from harness.comparing.verdict import Correction
from harness.errors import ArmbenchError, unknown_name
from harness.metrics import Direction
from harness.records.comparison import Scale, Setting


class Rule(Struct, kw_only=True, forbid_unknown_fields=True):
    """One metric: a tolerance on top of the noise, or an absolute one."""

    margin: float | None = None
    absolute: float | None = None
    direction: Literal["higher", "lower"] | None = None


class Margins(Struct, kw_only=True, forbid_unknown_fields=True):
    """Default noise margins, and the least that A/A runs may give."""

    interleaved: float = 0.03
    separate: float = 0.10
    least: float = 0.005


class Rules(Struct, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    alpha: float = 0.05
    power: float = 0.8
    correction: Correction = "holm"
    gate: list[str] = field(default_factory=list)
    must_match: list[str] = field(default_factory=list)
    margin: Margins = field(default_factory=Margins)
    metrics: dict[str, Rule] = field(default_factory=dict)

    def rule(self, metric: str) -> Rule:
        """The row of `metric`; an empty one where there is none."""
        return self.metrics.get(metric) or Rule()

    def scale(self, metric: str) -> Scale:
        """Whether `metric` is compared by ratio or by difference."""
        return "ratio" if self.rule(metric).absolute is None else "difference"

    def direction(self, metric: str) -> Direction:
        """Which way of `metric` is better."""
        return self.rule(metric).direction or metrics.metric(metric).direction

    def default(self, setting: Setting) -> float:
        """The noise margin where no A/A runs are known."""
        return self.margin.interleaved if setting == "interleaved" else self.margin.separate


def read(path: Path | None = None) -> Rules:
    """The shipped rules, with those of `path` on top.

    Raises ArmbenchError for a file that is missing or malformed, and for a name or a number that
    no gate could use.
    """
    shipped = places.config_dir() / "gate.toml"
    table = _table(shipped)
    if path is not None:
        table = _merged(table, _table(path))
    try:
        rules = msgspec.convert(table, Rules)
    except msgspec.ValidationError as error:
        raise ArmbenchError(f"{path or shipped}: {error}", hint=f"see {shipped}") from error
    _check(rules, path or shipped)
    return rules


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ArmbenchError(f"rules {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ArmbenchError(f"rules {path} are not valid TOML: {error}") from error


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`: tables are joined key by key at any depth, the rest is replaced."""
    found = dict(base)
    for name, value in over.items():
        old = found.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            found[name] = _merged(old, value)
        else:
            found[name] = value
    return found


def _check(rules: Rules, path: Path) -> None:
    for name in [*rules.gate, *rules.metrics]:
        metrics.metric(name)
    for name in rules.must_match:
        if not environment.known(name):
            raise unknown_name("fact of must_match", name, environment.NAMES)
    shares = {"alpha": rules.alpha, "power": rules.power}
    for name, value in shares.items():
        if not 0 < value < 1:
            raise ArmbenchError(f"{path}: {name} is {value}", hint="give a share between 0 and 1")
    margins = {f"margin.{k}": v for k, v in msgspec.structs.asdict(rules.margin).items()}
    for metric, rule in rules.metrics.items():
        margins |= {f"{metric}.margin": rule.margin, f"{metric}.absolute": rule.absolute}
    for name, value in margins.items():
        if value is not None and not 0 <= value < float("inf"):
            raise ArmbenchError(f"{path}: {name} is {value}", hint="give a share such as 0.03")
