"""The sides of a comparison by name: a file, a folder of repeats, a label, a branch."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from harness import history, store
from harness.comparing import question, samples, values
from harness.comparing.ratio import MANY_RUNS
from harness.comparing.rules import Rules
from harness.comparing.samples import Runs
from harness.errors import ArmbenchError, NotComparable
from harness.machine.detect import machine_slug
from harness.records.comparison import CaseValues, RunValues
from harness.records.run import Result

MOST_RUNS = 20  # of a history: older ones were measured by another world
INDEXED_FROM = 50  # results of a folder; reading each takes some 30 ms
MOST_INDEXED = 200
_GIT_TIMEOUT_S = 60


def side(
    path: Path,
    *,
    where: Mapping[str, str] | None = None,
    reader: Callable[[Path], Result] = store.load,
) -> Runs:
    """The result in `path`, or the results of a folder.

    A folder `<results>/<machine>/<plan>` of many is read from the history of its machine, which is
    brought up to date; then its newest `MOST_INDEXED` runs count. Raises ArmbenchError as
    `samples.load` does.
    """
    if not path.is_dir():
        return samples.load(path, where=where, reader=reader)
    files = samples.files(path)
    home = path.resolve().parent
    if len(files) < INDEXED_FROM or machine_slug(reader(files[0]).machine) != home.name:
        return samples.load(path, where=where, reader=reader)
    kept, plan = history.History(home / history.FOLDER), path.resolve().name
    if not {f"{plan}/{file.name}" for file in files} <= {line.file for line in kept.lines}:
        history.index(home.parent, home.name, reader=reader)
        kept = history.History(home / history.FOLDER)
    inside = [line for line in kept.lines if line.file.startswith(f"{plan}/")]
    runs = [kept.run(line) for line in inside[-MOST_INDEXED:]]
    label = samples.name(path, where)
    if len(runs) < len(inside):
        label += f", newest {len(runs)} of {len(inside)}"
    return samples.narrowed(Runs(label=label, runs=runs), where or {})


def find(
    name: str,
    new: Runs,
    results: Path,
    rules: Rules,
    *,
    where: Mapping[str, str] | None = None,
    reader: Callable[[Path], Result] = store.load,
) -> Runs:
    """The baseline that `name` means for `new`, looked for in this order.

    A result file or a folder of them; runs of this machine's history that were noted under that
    branch or label; the newest result of the same machine and plan that is committed on a git
    branch. Runs of `new` itself are no part of it. Raises ArmbenchError, naming all three, where
    there is none, and NotComparable where there is none but `new`.
    """
    path = Path(name)
    if path.exists():
        return _others(side(path, where=where, reader=reader), new)
    kept = of_history(name, new, results, rules, reader)
    if kept.runs:
        return samples.narrowed(kept, where or {})
    committed = of_branch(name, new, results, reader)
    if committed is not None:
        return samples.narrowed(committed, where or {})
    first = new.runs[0]
    raise ArmbenchError(
        f"there is no baseline {name!r}: no such file or folder, no run of {first.machine} noted "
        f"under it, no result of plan {first.plan} committed on such a branch",
        hint="give a result, a folder of results, a label of `armbench history`, or a branch",
    )


def _others(found: Runs, new: Runs, folder: Path = Path()) -> Runs:
    """`found`, whose files are relative to `folder`, without the runs of `new`.

    Raises NotComparable where there were none but those.
    """
    mine = {Path(run.file).resolve() for run in new.runs}
    left = [
        run
        for run in found.runs
        if (folder / run.file).resolve() not in mine and not _among(run, new)
    ]
    if found.runs and not left:
        raise _itself(found.label)
    return Runs(label=found.label, runs=left, results=found.results)


def _itself(label: str) -> NotComparable:
    return NotComparable(
        f"{label} has no run but the new one, which can't be held against itself",
        hint="give an older result, or a label that older runs were noted under",
    )


def _among(run: RunValues, new: Runs) -> bool:
    """Whether `run` is one of `new` in another place: as old, of that machine, the same figures."""
    return any(
        (run.created, run.machine) == (one.created, one.machine)
        and all(_figures(case) in map(_figures, run.cases) for case in one.cases)
        for one in new.runs
    )


def _figures(case: CaseValues) -> tuple[str, dict[str, float | None]]:
    typical = {name: samples.typical(case, name) for name in case.values}
    return question.key(case.question), typical


def of_history(
    ref: str,
    new: Runs,
    results: Path,
    rules: Rules,
    reader: Callable[[Path], Result] = store.load,
) -> Runs:
    """The last other runs that were noted under `ref` on the same machine in the same state.

    Many give one mean each. Below `MANY_RUNS` each has its repeats, if its result is still there.
    """
    first = new.runs[0]
    home = results / store.safe_name(first.machine)
    every = history.History(home / history.FOLDER).runs(ref, first.plan)
    alike = [run for run in every if _alike(run, first, rules)]
    found = _others(Runs(label=f"{ref} (history)", runs=alike), new, home)
    found.runs = found.runs[-MOST_RUNS:]
    return found if len(found.runs) >= MANY_RUNS else _with_repeats(found, home, reader)


def _with_repeats(found: Runs, home: Path, reader: Callable[[Path], Result]) -> Runs:
    whole = Runs(label=found.label, runs=[])
    for run in found.runs:
        file = home / run.file
        one = samples.load(file, reader=reader) if file.is_file() else Runs(label="", runs=[run])
        whole.runs += one.runs
        whole.results |= one.results
    return whole


def _alike(a: RunValues, b: RunValues, rules: Rules) -> bool:
    """Whether all that a gate wants to be the same is, as far as both tell."""
    return all(
        a.facts[name] == b.facts[name]
        for name in rules.must_match
        if name in a.facts and name in b.facts
    )


def of_branch(
    branch: str, new: Runs, results: Path, reader: Callable[[Path], Result] = store.load
) -> Runs | None:
    """The newest result of the machine and plan of `new`, other than it, committed on `branch`.

    None where this is no git repository, it has no such branch, or none is committed there. Raises
    NotComparable where there is none but `new`.
    """
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{branch}^{{commit}}")
    top = _git("rev-parse", "--show-toplevel")
    if commit is None or top is None:
        return None
    first = new.runs[0]
    folder = results.resolve() / store.safe_name(first.machine) / store.safe_name(first.plan)
    root, key = Path(os.fsdecode(top.rstrip(b"\n"))), commit.decode().strip()
    if not folder.is_relative_to(root):
        return None
    inside = folder.relative_to(root).as_posix()
    listed = _git("ls-tree", "--full-tree", "--name-only", "-z", key, "--", f"{inside}/")
    names = [n for n in os.fsdecode(listed or b"").split("\0") if n.endswith(".json")]
    for file in sorted(names, reverse=True):
        body = _git("show", f"{key}:{file}")
        if body is None:
            return None
        name = f"{branch}:{file}"
        result = _read(body, Path(file).name, reader)
        run = values.of_result(result, name, ref=branch, commit=key)
        if not _among(run, new):
            return Runs(label=name, runs=[run], results={name: result})
    if names:
        raise _itself(branch)
    return None


def _read(body: bytes, name: str, reader: Callable[[Path], Result]) -> Result:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / name
        path.write_bytes(body)
        return reader(path)


def _git(*arguments: str) -> bytes | None:
    """What git prints; None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, check=False, timeout=_GIT_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
