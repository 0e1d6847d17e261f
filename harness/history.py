"""The runs of one machine over time: an index of values, A/A comparisons, and steps between runs.

`<results>/<machine>/history/` holds files of JSON lines that only grow: `runs.jsonl`, one line for
each finished result, with what many runs share in `heads.jsonl`; `aa.jsonl`, one for each A/A
comparison; `notes.jsonl`, one for each label and commit that a run was given later. All can be
deleted: the index is made again from the results (without labels), and without A/A comparisons
margins are the defaults of the gate.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from harness import metrics, store
from harness.comparing import question, samples, values
from harness.comparing.rules import Rules
from harness.errors import ArmbenchError
from harness.records.comparison import AaEntry, CaseValues, Margin, RunValues
from harness.records.history import Head, Line, Note, Series
from harness.records.run import Result
from harness.steps import FEW, newest, steps

FOLDER = "history"
RUNS, HEADS, AA, NOTES = "runs.jsonl", "heads.jsonl", "aa.jsonl", "notes.jsonl"
AA_MOST = 100  # pairs of each question that count: older ones were measured in another world
_SAME = ("software.", "engine.", "target.")  # facts of runs that measured the same
LATEST = 1000  # runs of each question that are searched for steps

L = TypeVar("L", Line, Head, AaEntry, Note)


class Point(NamedTuple):
    """One case of one run."""

    line: Line
    head: Head
    case: int  # its position

    def value(self, metric: str) -> float | None:
        """Its value of `metric`; None where the run did not tell it."""
        if metric not in self.head.metrics:
            return None
        return self.line.values[self.case][self.head.metrics.index(metric)]


def folder(results: Path, machine: str) -> Path:
    """Where the history of `machine` lies; not made here."""
    return results / store.safe_name(machine) / FOLDER


class History:
    """An index as it was read: its lines oldest first, and their heads."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.heads = {head.key: head for head in _lines(where / HEADS, Head)}
        every = (line for line in _lines(where / RUNS, Line) if line.head in self.heads)
        self.lines = sorted(every, key=lambda line: line.created)
        noted = list(_lines(where / NOTES, Note))
        self.notes = {(note.file, note.ref) for note in noted}
        self.commits: dict[str, set[str]] = {}  # by file
        told = [(line.file, line.commit) for line in self.lines]
        for file, commit in told + [(note.file, note.commit) for note in noted]:
            if commit is not None:
                self.commits.setdefault(file, set()).add(commit)

    def by_question(self) -> dict[str, list[Point]]:
        """Valid cases by the key of their question, oldest first."""
        found: dict[str, list[Point]] = {}
        keys = {
            name: [question.key(case.question) for case in head.run.cases]
            for name, head in self.heads.items()
        }
        for line in self.lines:
            for case, key in enumerate(keys[line.head]):
                if line.valid[case]:
                    found.setdefault(key, []).append(Point(line, self.heads[line.head], case))
        return found

    def runs(self, ref: str, plan: str) -> list[RunValues]:
        """The runs of `plan` that were noted under `ref`, one value for each metric."""
        return [
            self.run(line)
            for line in self.lines
            if (line.ref == ref or (line.file, ref) in self.notes)
            and self.heads[line.head].run.plan == plan
        ]

    def run(self, line: Line) -> RunValues:
        """One run, ready to be compared."""
        head = self.heads[line.head]
        cases = [
            replace(
                case,
                repeats=[0] if count else [],
                values={
                    name: [v] for name, v in zip(head.metrics, row, strict=True) if v is not None
                },
                valid=valid,
            )
            for case, row, count, valid in zip(
                head.run.cases, line.values, line.repeats, line.valid, strict=True
            )
        ]
        return replace(
            head.run,
            file=line.file,
            created=line.created,
            ref=line.ref,
            commit=line.commit,
            cases=cases,
        )

    def made(self) -> list[AaEntry]:
        """The A/A comparisons that `armbench ab --aa` made."""
        return list(_lines(self.where / AA, AaEntry))

    def aa(
        self, wanted: Collection[str], rules: Rules, *, before: str | None = None
    ) -> list[AaEntry]:
        """A/A comparisons of these metrics: those that were made, and those that runs give.

        Neighbouring runs on the same question are separate A/A comparisons where they are known to
        be of the same commit and agree in all that `_same` holds them to: a change of the code, or
        of what surrounds it, is no noise. No run is in two pairs, so that they are independent.
        Only runs from `before` that instant count: what is judged has no part in its own margin.
        """
        found = self.made()
        for key, points in self.by_question().items():
            earlier = [p for p in points if before is None or p.line.created < before]
            pairs = [
                pair
                for same in self._stretches(earlier[-2 * AA_MOST :], rules)
                for pair in zip(same[::2], same[1::2], strict=False)
            ]
            found += [_separate(key, a, b, wanted) for a, b in pairs]
        return found

    def _stretches(self, points: Sequence[Point], rules: Rules) -> list[list[Point]]:
        """Runs in a row that measured the same; none of one whose commit is not known."""
        found: list[list[Point]] = []
        last = None
        for point in points:
            key = self._same(point, rules)
            if key is not None and key == last:
                found[-1].append(point)
            elif key is not None:
                found.append([point])
            last = key
        return found

    def _same(self, point: Point, rules: Rules) -> tuple[str, dict[str, str]] | None:
        """The commit and the facts that runs of the same share; None without one single commit.

        Facts of the software, the engine and the endpoint, and what a gate wants to be the same.
        """
        commits = self.commits.get(point.line.file, set())
        if len(commits) != 1:
            return None
        run = point.head.run
        facts = {**run.facts, **run.cases[point.case].facts}
        kept = {k: v for k, v in facts.items() if k in rules.must_match or k.startswith(_SAME)}
        return next(iter(commits)), kept

    def series(
        self,
        wanted: Sequence[str],
        rules: Rules,
        margin: Callable[[str, str], Margin],
        plan: str | None = None,
    ) -> list[Series]:
        """Each metric of `wanted` for each question over time, with its steps.

        Only of `plan` where that is given. `margin` gives the noise margin of (metric, key of the
        question) between separate runs. Raises ArmbenchError for an unknown metric.
        """
        for name in wanted:
            metrics.metric(name)
        found = []
        for key, points in self.by_question().items():
            for name in wanted:
                told = [
                    (p, v)
                    for p in points
                    if plan in (None, p.head.run.plan) and (v := p.value(name)) is not None
                ]
                if told:
                    found.append(_series(name, told[-LATEST:], rules, margin(name, key)))
        return found


def _lines(path: Path, kind: type[L]) -> Iterator[L]:
    """Each line that is whole; one that was cut off by a crash is passed over."""
    decoder = msgspec.json.Decoder(kind)
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    yield decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue
    except FileNotFoundError:
        return
    except OSError as error:
        raise ArmbenchError(f"history {path} cannot be read: {error.strerror}") from error


def _append(path: Path, lines: Iterable[Line | Head | AaEntry | Note]) -> None:
    """Add lines in one write, so that two writers never mix theirs, after a line cut off too."""
    body = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    if not body:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if file.tell() and not _whole(path):
                body = b"\n" + body
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ArmbenchError(
            f"history {path} cannot be written: {error.strerror}",
            hint="free disk space or give another folder with --results DIR",
        ) from error


def _whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def add_aa(where: Path, entry: AaEntry) -> None:
    """Keep one A/A comparison."""
    _append(where / AA, [entry])


def note(where: Path, ref: str, files: Iterable[str], *, commit: str | None = None) -> None:
    """Label runs of the index in `where`.

    Raises ArmbenchError for one that is not in it: it is not finished, or can't be read.
    """
    known, asked = {line.file for line in _lines(where / RUNS, Line)}, list(files)
    if missing := [file for file in asked if file not in known]:
        raise ArmbenchError(
            f"no finished run: {', '.join(missing)}", hint="finish it with `armbench run --resume`"
        )
    there = {(n.file, n.ref, c) for n in _lines(where / NOTES, Note) for c in (n.commit, None)}
    new = [Note(file=file, ref=ref, commit=commit) for file in asked]
    _append(where / NOTES, [n for n in new if (n.file, n.ref, n.commit) not in there])


def index(
    results: Path,
    machine: str,
    *,
    ref: str | None = None,
    commit: str | None = None,
    reader: Callable[[Path], Result] = store.load,
) -> int:
    """Bring the index of `machine` up to date with its results; how many runs were added.

    `ref` and `commit` are noted with the runs that are new. Results that are not finished or can't
    be read are passed over: they come in when they are. What was read before an interrupt stays.
    """
    home, where = results / store.safe_name(machine), folder(results, machine)
    known = {line.file for line in _lines(where / RUNS, Line)}
    heads = {head.key for head in _lines(where / HEADS, Head)}
    new_heads: dict[str, Head] = {}
    found = []
    try:
        for path in sorted(home.glob("*/*.json")):
            name = path.relative_to(home).as_posix()
            skipped = path.name.startswith(".") or path.parent.name in (store.CEILINGS, FOLDER)
            if skipped or name in known:
                continue
            try:
                result = reader(path)
            except ArmbenchError:
                continue
            if result.finished:
                run = values.of_result(result, name, ref=ref, commit=commit)
                head, line = split(run)
                if head.key not in heads:
                    new_heads[head.key] = head
                found.append(line)
    finally:
        _append(where / HEADS, new_heads.values())
        _append(where / RUNS, found)
    return len(found)


def split(run: RunValues) -> tuple[Head, Line]:
    """A run as what it shares with others like it, and its own line."""
    names = sorted({name for case in run.cases for name in case.values})
    shared = replace(
        run,
        file="",
        created="",
        ref=None,
        commit=None,
        cases=[replace(c, repeats=[], values={}, valid=True, faults=[]) for c in run.cases],
    )
    body = msgspec.json.encode([shared, names], order="deterministic")
    head = Head(key=hashlib.sha256(body).hexdigest()[:16], run=shared, metrics=names)
    line = Line(
        head=head.key,
        file=run.file,
        created=run.created,
        values=[[samples.typical(case, name) for name in names] for case in run.cases],
        repeats=[len(case.repeats) for case in run.cases],
        valid=[case.valid for case in run.cases],
        ref=run.ref,
        commit=run.commit,
    )
    return head, line


def _separate(key: str, a: Point, b: Point, wanted: Collection[str]) -> AaEntry:
    both = {name: (a.value(name), b.value(name)) for name in wanted}
    return AaEntry(
        at=b.line.created,
        machine=b.head.run.machine,
        question=key,
        setting="separate",
        n=min(a.line.repeats[a.case], b.line.repeats[b.case]),
        ratios={
            name: math.log(y / x)
            for name, (x, y) in both.items()
            if x is not None and y is not None and x > 0 and y > 0
        },
    )


def _series(name: str, told: Sequence[tuple[Point, float]], rules: Rules, margin: Margin) -> Series:
    levels = [value for _, value in told]
    at = [point.line.created for point, _ in told]
    last = told[-1][0]
    case: CaseValues = last.head.run.cases[last.case]
    direction, scale = rules.direction(name), rules.scale(name)
    found = steps(levels, at, direction, margin, scale)
    return Series(
        machine=last.head.run.machine,
        label=case.label,
        metric=name,
        unit=metrics.metric(name).unit,
        at=at,
        values=levels,
        files=[point.line.file for point, _ in told],
        steps=found,
        newest=newest(found, direction, margin, scale),
        note=None if len(levels) >= FEW else f"{len(levels)} runs: a step shows from {FEW} on",
    )
