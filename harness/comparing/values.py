"""From a result to the values that are compared: one column for each metric of each case."""

from __future__ import annotations

from collections.abc import Collection

from harness import bounds, metrics, validity
from harness.comparing import environment, question
from harness.machine.detect import machine_slug
from harness.records.comparison import CaseValues, RunValues
from harness.records.machine import Conditions
from harness.records.run import Case, Result, Trial

POWER = "power_w"  # column of mean watts of the whole machine, where an energy counter was read


def of_result(
    result: Result,
    file: str,
    *,
    only: Collection[str] | None = None,
    ref: str | None = None,
    commit: str | None = None,
) -> RunValues:
    """What `result` of `file` gives to compare; `only` names the metrics that are wanted.

    Probes of a capacity search are left out: each search chooses its own rates.
    """
    asked = [case for case in result.plan.cases if not validity.is_probe(result, case)]
    shape, unknown = result.machine.topology, result.machine.unknown
    cores_reason = None if shape.vcpu else unknown.get("topology.vcpu")
    return RunValues(
        file=file,
        created=result.created,
        machine=machine_slug(result.machine),
        plan=result.plan.name,
        cases=[of_case(result, case, only) for case in asked],
        probes=len(result.plan.cases) - len(asked),
        facts=environment.facts(result),
        finished=result.finished,
        tool=result.tool,
        ref=ref,
        commit=commit,
        vcpus=shape.cpus or None,
        physical_cores=shape.physical_cores or None,
        cores_reason=cores_reason,
        price=result.price,
        price_reason=result.price_reason,
    )


def of_case(result: Result, case: Case, only: Collection[str] | None = None) -> CaseValues:
    """One case: metrics over its valid trials, and why it can't be believed where that is so."""
    trials = sorted(metrics.valid_trials(result.trials, case), key=lambda t: t.repeat)
    return CaseValues(
        label=f"{validity.label(case)} {case.load.input_tokens}+{case.load.output_tokens}",
        question=question.parts(result, case),
        repeats=[t.repeat for t in trials],
        values=_columns(result, case, trials, only),
        asked=result.plan.repeats,
        valid=validity.case_valid(result, case),
        faults=_faults(result, case),
        facts=environment.case_facts(result, case),
        case=case.id,
    )


def _columns(
    result: Result, case: Case, trials: list[Trial], only: Collection[str] | None
) -> dict[str, list[float | None]]:
    limits = bounds.of_case(result, case)
    subjects = [metrics.Subject(trial=t, case=case, bounds=limits) for t in trials]
    found: dict[str, list[float | None]] = {}
    for row in metrics.METRICS:
        if only is None or row.name in only:
            column = [row.value(subject) for subject in subjects]
            if any(v is not None for v in column):
                found[row.name] = column
    watts = [mean_watts(t) for t in trials]
    if any(w is not None for w in watts):
        found[POWER] = watts
    return found


def _faults(result: Result, case: Case) -> list[str]:
    """Why trials of the case are left out, each reason once."""
    found: list[str] = []
    for trial in result.trials:
        if trial.case == case.id:
            found += [f"failed: {trial.reason}"] if trial.state == "failed" else trial.invalid
    return list(dict.fromkeys(found))


def mean_watts(trial: Trial) -> float | None:
    """Joules between the conditions before and after ÷ seconds; None without a counter.

    None too where the counter wrapped around in between.
    """
    if trial.before is None or trial.after is None:
        return None
    first, last = (_joules(c) for c in (trial.before, trial.after))
    seconds = (trial.after.at_ns - trial.before.at_ns) / 1e9
    if first is None or last is None or last < first or seconds <= 0:
        return None
    return (last - first) / seconds


def _joules(conditions: Conditions) -> float | None:
    reading = conditions.readings.get("energy_j")
    value = reading.value if reading else None
    return float(value) if isinstance(value, int | float) else None
