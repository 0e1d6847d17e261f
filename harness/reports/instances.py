"""What must be read beside figures of several instances: their window, and each one's own part."""

from __future__ import annotations

import statistics

from harness import metrics, validity
from harness.metrics import together
from harness.records.run import Case, Result

_NOTE = (
    "2×1: two instances of one thread, begun together; rates are over the time in which all of "
    "them worked (prefill and decode: did the same), latencies over the requests of all"
)


def notes(result: Result) -> list[str]:
    """One line on what the figures are, then each batched case's output rate by instance."""
    several = [
        case
        for case in result.plan.cases
        if case.variant.instances > 1 and case.load.serving is None
    ]
    told = [text for case in several if (text := _own(result, case))]
    return [_NOTE, *told] if several else []


def _own(result: Result, case: Case) -> str | None:
    """`torch int8 2×1T offline x4: output by instance 0: 50.2 %, 1: 49.8 %`."""
    rate = metrics.metric("output_tok_per_s")
    found: list[list[float]] = [[] for _ in range(case.variant.instances)]
    for trial in metrics.valid_trials(result.trials, case):
        for number, (part, alone) in enumerate(together.by_instance(trial, case)):
            made = rate.value(metrics.Subject(trial=part, case=alone))
            found[number].append(made or 0.0)
    means = [statistics.fmean(values) for values in found if values]
    total = sum(means)
    if not total:
        return None
    shares = ", ".join(f"{number}: {100 * one / total:.1f} %" for number, one in enumerate(means))
    return f"{validity.label(case)}: output by instance {shares}"
