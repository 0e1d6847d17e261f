"""What a case asks, part by part, and which cases of two sides ask the same.

A part that is not known (another tool did not tell) is an empty text, and equals everything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from harness.errors import NotComparable, unknown_name
from harness.records.comparison import CaseValues
from harness.records.run import Case, ModelIdentity, Result

# In order of how readily they may differ between two sides. Those before `instances` belong to the
# answer rather than to the question: they may differ unasked where nothing is ambiguous, and are
# named in the table then. `instances` may not: several engines beside each other have caches and
# weights of their own, and another load each.
PARTS = (
    *("requests", "serve", "options", "threads"),
    *("instances", "engine", "dtype", "weights", "slo", "sampling", "endpoint", "serving"),
    *("output_tokens", "input_tokens", "batch", "load", "model"),
)
FREE = PARTS[:4]


def parts(result: Result, case: Case) -> dict[str, str]:
    """Every part of what `case` asks, as text; `config` stands beside `model` to tell it by."""
    load, target = case.load, result.target
    serving = None if load.serving is None else msgspec.to_builtins(load.serving)
    slo = serving.pop("slo", None) if serving else None
    return {
        "model": result.model.name,
        "config": (result.model.config_sha256 or "")[:16],
        "weights": weights(result.model),
        "engine": case.variant.engine,
        "dtype": case.variant.dtype or "",
        "threads": "" if case.variant.threads is None else str(case.variant.threads),
        "instances": str(case.variant.instances),
        "options": _text(case.variant.options),
        "serve": _text(case.serve),
        "load": load.kind,
        "batch": str(load.batch),
        "input_tokens": str(load.input_tokens),
        "output_tokens": str(load.output_tokens),
        "requests": str(load.requests),
        "serving": _text(serving),
        "slo": _text(slo),
        "endpoint": target.endpoint if target else "",
        "sampling": _text(target.sampling) if target else "",
    }


def weights(model: ModelIdentity) -> str:
    """`synthetic`, or a short hash over the weight files; empty where no file is known."""
    if model.weights == "synthetic":
        return "synthetic"
    if not model.files:
        return ""
    listed = "\n".join(sorted(model.files.values()))
    return hashlib.sha256(listed.encode()).hexdigest()[:12]


def _text(value: Any) -> str:
    """`value` as short, ordered JSON; empty for None and for nothing."""
    if value is None or value == {}:
        return ""
    return msgspec.json.encode(value, order="deterministic").decode()


def key(question: dict[str, str], leave_out: Sequence[str] = ()) -> str:
    """A short hash of a question, to find it again in a history.

    One instance is left out, so that it is the key of results that knew no other number.
    """
    kept = {
        k: v for k, v in question.items() if k not in leave_out and (k, v) != ("instances", "1")
    }
    return hashlib.sha256(_text(kept).encode()).hexdigest()[:16]


def told(part: str, question: dict[str, str]) -> str:
    """The text of `part`; in an index from before there were several instances there was one."""
    return question.get(part, "1" if part == "instances" else "")


def same(part: str, a: dict[str, str], b: dict[str, str]) -> bool:
    """Whether `part` is the same on both sides, or unknown on one."""
    if part == "model" and a.get("config") and b.get("config"):
        return a["config"] == b["config"]
    left, right = told(part, a), told(part, b)
    return not left or not right or left.casefold() == right.casefold()


def differing(a: dict[str, str], b: dict[str, str], among: Iterable[str] = PARTS) -> list[str]:
    """The parts that are known on both sides and not the same."""
    return [part for part in among if not same(part, a, b)]


def check_parts(names: Iterable[str]) -> None:
    """Raise ArmbenchError for a name that is no part of a question."""
    for name in names:
        if name not in PARTS:
            raise unknown_name("part of a question", name, PARTS)


Matched = list[tuple[CaseValues, CaseValues]]


def match(
    a: Sequence[CaseValues], b: Sequence[CaseValues], vary: Iterable[str] = ()
) -> tuple[Matched, list[CaseValues], list[CaseValues]]:
    """(pairs that ask the same, what only `a` asks, what only `b` asks).

    Parts in `vary` may differ, and those in `FREE`. A part is let go only where each side then has
    one single candidate: two threads are never held against eight because four had its match.
    """
    allowed = [part for part in PARTS if part in FREE or part in set(vary)]
    pairs: Matched = []
    left, right = list(a), list(b)
    for count in range(len(allowed) + 1):
        held = [part for part in PARTS if part not in allowed[:count]]
        for x in list(left):
            y = _only_partner(x, a, b, held)
            if y is not None and any(y is other for other in right):
                pairs.append((x, y))
                left = [other for other in left if other is not x]
                right = [other for other in right if other is not y]
    order = {id(x): i for i, x in enumerate(a)}
    return sorted(pairs, key=lambda pair: order[id(pair[0])]), left, right


def _only_partner(
    x: CaseValues, a: Sequence[CaseValues], b: Sequence[CaseValues], held: Sequence[str]
) -> CaseValues | None:
    """The one case of `b` that asks as `x` does in every part of `held`, if that is mutual."""
    partners = [y for y in b if not differing(x.question, y.question, held)]
    if len(partners) != 1:
        return None
    back = [z for z in a if not differing(z.question, partners[0].question, held)]
    return partners[0] if len(back) == 1 else None


def refuse(
    a: Sequence[CaseValues], b: Sequence[CaseValues], names: tuple[str, str], vary: Iterable[str]
) -> NotComparable:
    """The error for two sides of which no case asks the same: how the nearest two differ."""
    if not a or not b:
        empty = names[0] if not a else names[1]
        return NotComparable(f"{empty} has no case to compare", hint="run its plan again")
    allowed = {*FREE, *vary}
    x, y, parted = min(
        ((x, y, differing(x.question, y.question)) for x in a for y in b),
        key=lambda found: sum(part not in allowed for part in found[2]),
    )
    blocking = [part for part in parted if part not in allowed]
    if not blocking:
        return NotComparable(
            f"{x.label} in {names[0]} could be held against several cases of {names[1]}, "
            f"which differ in {', '.join(parted) or 'nothing'}",
            hint=f"choose one with --where {parted[0] if parted else 'engine'}=VALUE",
        )
    each = (f"{p} {told(p, x.question)} against {told(p, y.question)}" for p in blocking)
    return NotComparable(
        f"{names[0]} and {names[1]} ask different questions: {'; '.join(each)}",
        hint=f"if that is what you compare: --vary {','.join(blocking)}; or name with --only the "
        "metrics that still make sense",
    )
