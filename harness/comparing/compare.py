"""Sides against the first of them: every metric with ratio, interval and verdict."""

from __future__ import annotations

import datetime
import math
from collections.abc import Collection, Iterable, Iterator, Sequence

from msgspec.structs import replace

import harness
from harness.comparing import environment, fair, outputs, question, ratio, samples
from harness.comparing.contrast import Contrast
from harness.comparing.rows import Wish, Worked, decide, rows_of
from harness.comparing.samples import Group, Runs
from harness.errors import ArmbenchError, NotComparable
from harness.records.comparison import (
    COMPARISON_SCHEMA,
    CaseRow,
    Comparison,
    GeometricMean,
    MetricRow,
    Outputs,
    Pair,
    Setting,
    SideInfo,
)


def compare(sides: Sequence[Runs], wish: Wish) -> Comparison:
    """The first side, the baseline, against every other one.

    Raises NotComparable where two sides ask nothing in common, with what differs by name, and
    ArmbenchError for an unknown metric or part.
    """
    if len(sides) < 2:
        raise ArmbenchError("one side alone is no comparison", hint="give two results or more")
    question.check_parts(wish.vary)
    wish.metrics()
    return Comparison(
        schema=COMPARISON_SCHEMA,
        armbench=harness.__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        alpha=wish.level,
        correction=wish.correction,
        pairs=[pair(sides[0], other, wish) for other in sides[1:]],
    )


def pair(a: Runs, b: Runs, wish: Wish) -> Pair:
    """Baseline `a` and new `b`, case by case."""
    matched, only_a, only_b = match(a, b, wish)
    setting = wish.setting or _setting(a, b)
    worked = [rows_of(x, y, wish, setting) for x, y in matched]
    decide([w for rows in worked for w in rows], wish)
    several = len({x.case.question["model"] for x, _ in matched}) > 1
    cases = [
        _case_row(x, y, rows, _outputs(a, b, x, y), named=several)
        for (x, y), rows in zip(matched, worked, strict=True)
    ]
    return Pair(
        a=_info(a, [x for x, _ in matched]),
        b=_info(b, [y for _, y in matched]),
        setting=setting,
        cases=cases,
        differences=environment.differences(
            _facts(a, [x for x, _ in matched]), _facts(b, [y for _, y in matched])
        ),
        geometric_means=_geometric_means(worked, cases),
        only_a=[g.case.label for g in only_a],
        only_b=[g.case.label for g in only_b],
        notes=_notes(a, b, matched, cases, wish, setting),
    )


def match(
    a: Runs, b: Runs, wish: Wish
) -> tuple[list[tuple[Group, Group]], list[Group], list[Group]]:
    """(groups that ask the same, what only `a` has, what only `b` has).

    Raises NotComparable where nothing matches.
    """
    left = {id(g.case): g for g in a.groups()}
    right = {id(g.case): g for g in b.groups()}
    cases_a, cases_b = ([g.case for g in side.values()] for side in (left, right))
    vary = question.PARTS if wish.only else wish.vary
    pairs, only_a, only_b = question.match(cases_a, cases_b, vary)
    if not pairs:
        for side in (a, b):
            if not side.groups() and _probes(side):
                raise NotComparable(
                    f"{side.label} has nothing but {_probes(side)} that a capacity search tried: "
                    "each search chooses its own",
                    hint="hold loads of the same rate against each other: `armbench load --rate`",
                )
        raise question.refuse(cases_a, cases_b, (a.label, b.label), vary)
    return (
        [(left[id(x)], right[id(y)]) for x, y in pairs],
        [left[id(x)] for x in only_a],
        [right[id(y)] for y in only_b],
    )


def _probes(side: Runs) -> str:
    """`3 rates`, of all its runs; empty where none searched for its capacity."""
    count = sum(run.probes for run in side.runs)
    return f"{count} rate{'s' if count > 1 else ''}" if count else ""


def _case_row(
    a: Group, b: Group, worked: Sequence[Worked], same: Outputs | None, *, named: bool
) -> CaseRow:
    """The case with its rows; with the model in its label where there are several."""
    parts = question.differing(a.case.question, b.case.question)
    faults = [*_told("baseline", a), *_told("new", b)]
    if faults:
        for one in worked:
            if one.row.verdict is not None:
                one.row.verdict, one.row.reason = "inconclusive", "the case is not valid"
    rows = [w.row for w in worked]
    label = both(a.case.label, b.case.label)
    return CaseRow(
        label=f"{a.case.question['model']} {label}" if named else label,
        varied={
            p: (question.told(p, a.case.question), question.told(p, b.case.question)) for p in parts
        },
        metrics=rows,
        shares=fair.shares(a, b, rows),
        outputs=same,
        faults=faults,
    )


def _told(name: str, group: Group) -> list[str]:
    """The first reasons why a side can't be believed; nothing where it can."""
    if group.valid:
        return []
    faults = group.faults or ["more than half of its repeats are missing or not valid"]
    more = [f"{name}: and {len(faults) - 2} more such reasons"] if len(faults) > 2 else []
    return [*(f"{name}: {fault}" for fault in faults[:2]), *more]


def both(a: str, b: str) -> str:
    """One label for two cases: `torch→onnxruntime float32 2T offline x4`."""
    left, right = a.split(), b.split()
    if len(left) != len(right):
        return f"{a} → {b}"
    return " ".join(x if x == y else f"{x}→{y}" for x, y in zip(left, right, strict=True))


def _outputs(a: Runs, b: Runs, x: Group, y: Group) -> Outputs | None:
    """Of the first run of each side whose result is at hand."""
    (run_a, case_a), (run_b, case_b) = x.members[0], y.members[0]
    left, right = a.results.get(run_a.file), b.results.get(run_b.file)
    if left is None or right is None:
        return None
    cases = [
        next(c for c in result.plan.cases if c.id == wanted.case)
        for result, wanted in ((left, case_a), (right, case_b))
    ]
    return outputs.outputs(left, cases[0], right, cases[1])


def _facts(side: Runs, groups: Iterable[Group]) -> dict[str, str]:
    every = [run.facts for run in side.runs]
    every += [case.facts for group in groups for _, case in group.members]
    return samples.joined({id(facts): facts for facts in every}.values())


def _info(side: Runs, groups: Sequence[Group]) -> SideInfo:
    first = side.runs[0]
    budgets = dict.fromkeys(fair.budget(group) for group in groups)
    return SideInfo(
        label=side.label,
        files=[run.file for run in side.runs],
        machine=" | ".join(dict.fromkeys(run.machine for run in side.runs)),
        tool=" | ".join(dict.fromkeys(run.tool for run in side.runs)),
        created=min(run.created for run in side.runs),
        runs=len(side.runs),
        budget="; ".join(budgets) if groups else f"unknown ({first.vcpus or 'unknown'} vCPUs)",
    )


def _geometric_means(
    worked: Sequence[Sequence[Worked]], cases: Sequence[CaseRow]
) -> list[GeometricMean]:
    """Of each metric that is better one way, over the cases in which it has a ratio.

    The interval is for these very cases: their squared standard errors are added. Beside the whole,
    the means for each unit of what the sides took, where it is known in all of those cases.
    """
    by_metric: dict[str, list[tuple[Contrast, CaseRow]]] = {}
    for rows, case in zip(worked, cases, strict=True):
        for one in rows:
            found = one.contrast
            if found is not None and found.scale == "ratio" and one.row.direction != "none":
                by_metric.setdefault(one.row.metric, []).append((found, case))
    means = []
    for name, members in by_metric.items():
        if len(members) > 1:
            whole = _mean_of(name, [found for found, _ in members])
            means += [whole, *_mean_shares(whole, [case for _, case in members])]
    return means


def _mean_shares(whole: GeometricMean, cases: Sequence[CaseRow]) -> Iterator[GeometricMean]:
    """`whole` for each unit of each basis: amounts count as exact, so that it is scaled."""
    factors: dict[str, list[float]] = {}
    for case in cases:
        ratio = next(row.ratio.value for row in case.metrics if row.metric == whole.metric)
        for share in case.shares:
            if share.metric == whole.metric and share.ratio and ratio:
                factors.setdefault(share.basis, []).append(math.log(share.ratio / ratio))
    for basis, known in factors.items():
        if len(known) == len(cases):
            factor = math.exp(math.fsum(known) / len(known))
            yield replace(
                whole,
                basis=basis,
                ratio=whole.ratio * factor,
                low=None if whole.low is None else whole.low * factor,
                high=None if whole.high is None else whole.high * factor,
            )


def _mean_of(metric: str, found: Sequence[Contrast]) -> GeometricMean:
    n = len(found)
    whole = Contrast(
        effect=sum(c.effect for c in found) / n,
        se=None,
        df=None,
        n=(n, n),
        scale="ratio",
        method="",
    )
    known = [(c.se, c.df) for c in found if c.se is not None and c.df is not None]
    if len(known) == n:
        squares = sum(se**2 for se, _ in known)
        below = sum(se**4 / df for se, df in known)
        least = min(df for _, df in known)
        freedom = max(least, squares**2 / below) if below > 0 else least
        whole = replace(whole, se=math.sqrt(squares) / n, df=freedom)
    bounds = whole.interval()
    low, high = bounds if bounds else (None, None)
    return GeometricMean(metric=metric, n=n, ratio=whole.value, low=low, high=high)


def _setting(a: Runs, b: Runs) -> Setting:
    blocks = all(run.block is not None for run in [*a.runs, *b.runs])
    return "interleaved" if blocks or _same_file(a, b) else "separate"


def _notes(
    a: Runs,
    b: Runs,
    matched: Sequence[tuple[Group, Group]],
    cases: Sequence[CaseRow],
    wish: Wish,
    setting: Setting,
) -> list[str]:
    """What must be read with the table."""
    found = list(dict.fromkeys(fair.matched(x, y) for x, y in matched))
    for side in (a, b):
        found += [f"{run.file} is not finished" for run in side.runs if not run.finished]
        if told := _probes(side):
            found.append(f"{side.label}: {told} that a capacity search tried are left out")
    if wish.only:
        asked = [question.differing(x.case.question, y.case.question) for x, y in matched]
        parts = sorted({part for each in asked for part in each})
        found += [f"different questions, as --only allows: {', '.join(parts)}"] if parts else []
    if setting == "separate":
        found.append(
            "the sides were measured at different times: what differs between runs for that alone "
            "is in the noise margin, not in the intervals; `armbench ab` interleaves them"
        )
    if any(samples.few_runs(x, y) for x, y in matched):
        found.append(
            "a single run against a few: where the newest of these has repeats, they are what "
            f"counts, for it takes {ratio.MANY_RUNS} runs to tell how one scatters"
        )
    counts = [n for x, y in matched for n in (len(x.case.repeats), len(y.case.repeats))]
    if _single(a) and _single(b) and min(counts, default=4) == 1:
        found.append(
            "one repeat on a side tells no spread: there is no interval and no verdict; measure "
            "with --repeats 3 or more"
        )
    elif _single(a) and _single(b) and min(counts, default=4) < 4:
        found.append(
            f"{min(counts)} repeats: a test that assumes no distribution can't reach 5 % below 4 a "
            "side, so that verdicts rest on Student's t alone"
        )
    words = [row.verdict for case in cases for row in case.metrics if row.verdict is not None]
    changes = sum(word in ("improved", "regressed") for word in words)
    if wish.correction == "none" and changes:
        found.append(
            f"{changes} changes among {len(words)} verdicts, each at {1 - wish.level:.0%} by "
            "itself: some may be chance; `armbench gate` corrects for their number"
        )
    return found


def _single(side: Runs) -> bool:
    return len(side.runs) == 1


def _same_file(a: Runs, b: Runs) -> bool:
    return {run.file for run in a.runs} == {run.file for run in b.runs}


def chosen(comparison: Comparison, names: Collection[str]) -> list[tuple[CaseRow, MetricRow]]:
    """The rows of these metrics, case by case."""
    return [
        (case, row)
        for one in comparison.pairs
        for case in one.cases
        for row in case.metrics
        if row.metric in names
    ]
