"""A side of a comparison: runs, their cases by question, and the units of statistics in them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from harness import store
from harness.comparing import question, values
from harness.comparing.ratio import MANY_RUNS, Side
from harness.errors import ArmbenchError
from harness.records.comparison import CaseValues, RunValues, Scale
from harness.records.run import Result

Reader = Callable[[Path], Result]


class Group(Struct, kw_only=True):
    """What one side has on one question: the case in each of its runs."""

    case: CaseValues
    members: list[tuple[RunValues, CaseValues]] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        """Whether more than half of its runs can be believed; the others have no value."""
        return 2 * sum(case.valid for _, case in self.members) > len(self.members)

    @property
    def faults(self) -> list[str]:
        return list(dict.fromkeys(f for _, case in self.members for f in case.faults))


class Runs(Struct, kw_only=True):
    """One side: a name for people, its runs, and where they are at hand the results themselves."""

    label: str
    runs: list[RunValues]
    results: dict[str, Result] = field(default_factory=dict)

    def groups(self) -> list[Group]:
        """Its cases by question, in order of appearance."""
        found: dict[str, Group] = {}
        for run in self.runs:
            for case in run.cases:
                group = found.setdefault(question.key(case.question), Group(case=case))
                group.members.append((run, case))
        return list(found.values())


def load(
    path: Path,
    *,
    label: str | None = None,
    where: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    reader: Reader = store.load,
) -> Runs:
    """The side in `path`: a result, or a folder of results that repeat one another.

    `where` keeps the cases with these parts of the question, such as engine torch. Raises
    ArmbenchError for a folder without results, and where no case is left.
    """
    runs: list[RunValues] = []
    results: dict[str, Result] = {}
    for file in files(path):
        result = reader(file)
        runs.append(values.of_result(result, str(file), only=only))
        results = results or {str(file): result}  # outputs are compared of the first ones
    side = Runs(label=label or name(path, where), runs=runs, results=results)
    return narrowed(side, where or {})


def name(path: Path, where: Mapping[str, str] | None) -> str:
    """A side for people: its path, and which cases of it."""
    told = ", ".join(f"{part} {text}" for part, text in (where or {}).items())
    return f"{path} ({told})" if told else str(path)


def files(path: Path) -> list[Path]:
    """`path` itself, or the result files right in it, oldest name first.

    Of a machine's folder, which has none itself, those of all its plans.
    """
    if not path.is_dir():
        return [path]
    found = _results(path, "*.json") or [
        p for p in _results(path, "*/*.json") if p.parent.name not in (store.CEILINGS, "history")
    ]
    if not found:
        raise ArmbenchError(
            f"there is no result in {path}", hint="give a file, or the folder of a plan or machine"
        )
    return found


def _results(path: Path, pattern: str) -> list[Path]:
    return sorted(p for p in path.glob(pattern) if not p.name.startswith("."))


def narrowed(side: Runs, where: Mapping[str, str]) -> Runs:
    """`side` with the cases only whose question has these parts."""
    question.check_parts(where)
    if not where:
        return side
    for run in side.runs:
        run.cases = [c for c in run.cases if all(_is(c, k, v) for k, v in where.items())]
    if not any(run.cases for run in side.runs):
        told = ", ".join(f"{k}={v}" for k, v in where.items())
        raise ArmbenchError(f"{side.label} has no case with {told}", hint="see `armbench show`")
    return side


def _is(case: CaseValues, part: str, text: str) -> bool:
    return case.question.get(part, "").casefold() == text.casefold()


def units(a: Group, b: Group, metric: str, scale: Scale) -> tuple[Side, Side, bool]:
    """(baseline, new, whether they are paired): the values that statistics may count as one each.

    Runs of interleaved blocks are paired by block. One single run a side gives its repeats, paired
    where both cases ran in the rounds of one run. Several runs give one mean each, since repeats of
    one run resemble each other more than those of another; a single run against too few to tell
    how such means scatter is held against the repeats of the newest.
    """
    if _blocked(a) and _blocked(b):
        return _by_block(a, b, metric, scale)
    if len(a.members) == 1 and len(b.members) == 1:
        return _by_repeat(a, b, metric)
    if few_runs(a, b):
        newest = [Side(values=_column(_newest(group), metric)) for group in (a, b)]
        if min(side.n for side in newest) > 1:
            return newest[0], newest[1], False
    left, right = _by_run(a, metric, scale), _by_run(b, metric, scale)
    if min(left.n, right.n) == 1 and not _as_long(a, b):
        left = replace(left, unit="shorter run")  # the spread of longer runs is not its own
    return left, right, False


def few_runs(a: Group, b: Group) -> bool:
    """Whether a single run is held against several that are too few to tell its spread."""
    one, many = sorted((len(a.members), len(b.members)))
    return one == 1 < many < MANY_RUNS


def _newest(group: Group) -> CaseValues:
    """The case in the last of its runs that can be believed."""
    cases = [case for _, case in group.members]
    return next((case for case in reversed(cases) if case.valid), cases[-1])


def _by_run(group: Group, metric: str, scale: Scale) -> Side:
    means = [typical(case, metric, scale) for _, case in group.members]
    return Side(values=[m for m in means if m is not None], unit="run")


def _as_long(a: Group, b: Group) -> bool:
    """Whether the single run of one side has as many repeats as those of the other."""
    one, many = sorted((a, b), key=lambda g: len(g.members))
    return one.case.asked >= max(case.asked for _, case in many.members)


def own_units(group: Group, metric: str) -> list[float]:
    """The values of one side that statistics may count: repeats of one run, or means of several."""
    if len(group.members) == 1:
        return _column(group.members[0][1], metric)
    return _by_run(group, metric, "ratio").values


def _blocked(group: Group) -> bool:
    return all(run.block is not None for run, _ in group.members)


def _column(case: CaseValues, metric: str) -> list[float]:
    return [v for v in case.values.get(metric, []) if v is not None]


def typical(case: CaseValues, metric: str, scale: Scale = "ratio") -> float | None:
    """The mean over the repeats of one run; None where none of them tells the metric.

    Geometric for a ratio, where every value is above zero; else arithmetic.
    """
    column = _column(case, metric)
    if len(column) < 2:  # runs of a history have one value each
        return column[0] if column else None
    return _mean(column, scale)


def _mean(column: Sequence[float], scale: Scale) -> float:
    if scale == "difference" or min(column) <= 0:
        return statistics.fmean(column)
    return math.exp(statistics.fmean(map(math.log, column)))


def _by_repeat(a: Group, b: Group, metric: str) -> tuple[Side, Side, bool]:
    (run_a, case_a), (run_b, case_b) = a.members[0], b.members[0]
    if run_a.file != run_b.file:
        return Side(values=_column(case_a, metric)), Side(values=_column(case_b, metric)), False
    left, right = (_by_number(c, metric) for c in (case_a, case_b))
    return _together(left, right, [n for n in left if n in right], "repeat")


def _together(
    left: Mapping[int, float], right: Mapping[int, float], both: Sequence[int], unit: str
) -> tuple[Side, Side, bool]:
    """The values of the numbers in `both`, paired.

    Where there is none, each side's own, unpaired: a metric that one side lost is not lost unseen.
    """
    tables = [{n: table[n] for n in both} if both else table for table in (left, right)]
    sides = [Side(values=list(table.values()), unit=unit) for table in tables]
    return sides[0], sides[1], bool(both)


def _by_number(case: CaseValues, metric: str) -> dict[int, float]:
    column = case.values.get(metric, [])
    return {n: v for n, v in zip(case.repeats, column, strict=False) if v is not None}


def _by_block(a: Group, b: Group, metric: str, scale: Scale) -> tuple[Side, Side, bool]:
    """Blocks in which both sides have the same number of values, each as its mean."""
    left, right = (_blocks(g, metric, scale) for g in (a, b))
    both = [n for n in sorted(left) if len(left[n]) == len(right.get(n, []))]
    means = [{n: _mean(v, scale) for n, v in table.items()} for table in (left, right)]
    return _together(means[0], means[1], both, "block")


def _blocks(group: Group, metric: str, scale: Scale) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for run, case in group.members:
        mean = typical(case, metric, scale)
        if run.block is not None and mean is not None:
            found.setdefault(run.block, []).append(mean)
    return found


def joined(facts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The facts of several runs as one: values that differ among them stand side by side."""
    found: dict[str, dict[str, None]] = {}
    for one in facts:
        for name, text in one.items():
            found.setdefault(name, {})[text] = None
    return {name: " | ".join(texts) for name, texts in found.items()}
