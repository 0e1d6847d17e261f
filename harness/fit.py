"""How long trials will take, and shorter ones where the budget is too small for them."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, structs

from harness.records.run import LoadPoint, Plan
from harness.units import format_duration

# Starting a process and importing its runtime, beyond what the engine counts as loading.
START_S = 2.0
_WARMUPS = 2
_WARMUP_STEPS = 8
# The lengths below which a measurement says little: the order in which they give way.
_FLOORS = (("output_tokens", 32), ("input_tokens", 128), ("output_tokens", 8), ("input_tokens", 16))


class Speed(Struct, frozen=True):
    """Times of one case in seconds: load, prefill of its batch, one decode step."""

    load_s: float
    prefill_s: float
    step_s: float


def trial_seconds(load: LoadPoint, speed: Speed) -> float:
    """Estimated seconds of one trial: start, load, warm-up and its requests."""
    if load.serving is not None:
        return START_S + speed.load_s + served_seconds(load)
    return batch_seconds(speed, load.output_tokens, load.requests)


def batch_seconds(speed: Speed, output_tokens: int, requests: int) -> float:
    """Estimated seconds of a trial that passes `requests` batches one after the other."""
    warm = _WARMUPS * (speed.prefill_s + min(_WARMUP_STEPS, output_tokens) * speed.step_s)
    request = speed.prefill_s + (output_tokens - 1) * speed.step_s
    return START_S + speed.load_s + warm + requests * request


def served_seconds(load: LoadPoint) -> float:
    """Seconds a served load lasts by its own schedule; 0 where only the server decides that."""
    serving = load.serving
    if serving is None:
        return 0.0
    if serving.duration_s is not None:
        return serving.duration_s
    rate = serving.arrivals.rate if serving.arrivals else None
    return load.requests / rate if rate else 0.0


def plan_seconds(plan: Plan, speeds: Mapping[int, Speed]) -> float:
    """Estimated seconds of all trials whose speed is known."""
    return plan.repeats * sum(
        trial_seconds(case.load, speeds[case.id]) for case in plan.cases if case.id in speeds
    )


def _halved(plan: Plan, speeds: Mapping[int, Speed], key: str, floor: int) -> dict[int, Speed]:
    """Halve `key` of every case that stays at or above `floor`; the speeds that then hold."""
    changed = dict(speeds)
    for case in plan.cases:
        value = getattr(case.load, key)
        if value // 2 < floor or case.load.serving is not None:
            continue
        case.load = structs.replace(case.load, **{key: value // 2})
        if key == "input_tokens" and case.id in changed:
            speed = changed[case.id]
            changed[case.id] = structs.replace(speed, prefill_s=speed.prefill_s / 2)
    return changed


def fit(plan: Plan, speeds: Mapping[int, Speed]) -> float:
    """Halve the lengths in `plan` until its trials fit the budget; the seconds they will take.

    All cases change alike, so that they stay comparable, and a note says what was changed.
    """
    seconds = plan_seconds(plan, speeds)
    budget = plan.time_budget_s
    if budget is None or seconds <= budget:
        return seconds
    asked = sorted({(c.load.input_tokens, c.load.output_tokens) for c in plan.cases})
    for key, floor in _FLOORS:
        while seconds > budget and any(
            getattr(c.load, key) // 2 >= floor for c in plan.cases if c.load.serving is None
        ):
            speeds = _halved(plan, speeds, key, floor)
            seconds = plan_seconds(plan, speeds)
    got = sorted({(c.load.input_tokens, c.load.output_tokens) for c in plan.cases})
    plan.notes.append(
        f"lengths were shortened from {_lengths(asked)} to {_lengths(got)} for the time budget of "
        f"{format_duration(budget)}"
    )
    if seconds > budget:
        plan.notes.append(
            f"the trials take about {format_duration(seconds)} even so, over the time budget"
        )
    return seconds


def _lengths(pairs: list[tuple[int, int]]) -> str:
    return ", ".join(f"pp{i}/tg{o}" for i, o in pairs)
