"""What every writer of a foreign format gives and takes: text with what it had to leave out."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct, field

from harness import bounds, metrics
from harness.metrics import Metric, Subject
from harness.records.run import Case, Estimate, Result


class Export(Struct, kw_only=True):
    """A file's text, and in plain words what the format has no place for."""

    text: str
    left_out: list[str] = field(default_factory=list)


class Figure(Struct, kw_only=True, frozen=True):
    """One metric of one case: its estimate, and its value in each valid repeat that tells it."""

    case: Case
    metric: Metric
    estimate: Estimate
    values: list[float]


def figures(result: Result) -> Iterator[Figure]:
    """Every metric of every case that its valid trials tell, in the order of the metric table."""
    for case in result.plan.cases:
        limits = bounds.of_case(result, case)
        trials = metrics.valid_trials(result.trials, case)
        subjects = [Subject(trial=t, case=case, bounds=limits) for t in trials]
        summary = metrics.summarise(result.trials, case, limits)
        for row in metrics.METRICS:
            if (found := summary.get(row.name)) is not None:
                values = [v for s in subjects if (v := row.value(s)) is not None]
                yield Figure(case=case, metric=row, estimate=found, values=values)


def load_name(case: Case) -> str:
    """What tells a load apart from every other of a result, without blanks: `closed-c8-512+128`.

    The requests of a trial are left out; of a served load, its concurrency and rate are told.
    """
    load, serving = case.load, case.load.serving
    parts = [load.kind.replace("_", "-")]
    if serving and serving.concurrency:
        parts.append(f"c{serving.concurrency}")
    if serving and serving.arrivals and serving.arrivals.rate:
        parts.append(f"{serving.arrivals.process}-{serving.arrivals.rate:g}rps")
    if load.batch > 1:
        parts.append(f"b{load.batch}")
    return "-".join([*parts, f"{load.input_tokens}+{load.output_tokens}"])


def case_names(result: Result) -> dict[int, str]:
    """A name for each case by id, made of model, engine and load; equal ones get their id."""
    model = result.model.name.rstrip("/").rsplit("/", 1)[-1]
    names = {
        case.id: f"{model}/{case.variant.label.replace(' ', '-')}/{load_name(case)}"
        for case in result.plan.cases
    }
    twice = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {i: f"{name}#{i}" if name in twice else name for i, name in names.items()}
