"""The sides of a comparison by name: a file, a folder of repeats, a label, a branch."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from harness import history, store
from harness.comparing import samples, values
from harness.comparing.rules import Rules
from harness.comparing.samples import Runs
from harness.errors import ArmbenchError
from harness.machine.detect import machine_slug
from harness.records.comparison import RunValues
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
    branch. Raises ArmbenchError, naming all three, where there is none.
    """
    path = Path(name)
    if path.exists():
        return side(path, where=where, reader=reader)
    first = new.runs[0]
    kept = of_history(name, first, results, rules, reader)
    if kept.runs:
        return samples.narrowed(kept, where or {})
    committed = of_branch(name, first, results, reader)
    if committed is not None:
        return samples.narrowed(committed, where or {})
    raise ArmbenchError(
        f"there is no baseline {name!r}: no such file or folder, no run of {first.machine} noted "
        f"under it, no result of plan {first.plan} committed on such a branch",
        hint="give a result, a folder of results, a label of `armbench history`, or a branch",
    )


def of_history(
    ref: str,
    new: RunValues,
    results: Path,
    rules: Rules,
    reader: Callable[[Path], Result] = store.load,
) -> Runs:
    """The last runs that were noted under `ref` on the same machine in the same state.

    Several give one mean each. A single one gives its repeats, if its result is still there.
    """
    every = history.History(history.folder(results, new.machine)).runs(ref, new.plan)
    fit = [run for run in every if _alike(run, new, rules)][-MOST_RUNS:]
    label = f"{ref} (history)"
    if len(fit) == 1:
        file = results / store.safe_name(new.machine) / fit[0].file
        if file.is_file():
            return samples.load(file, label=label, reader=reader)
    return Runs(label=label, runs=fit)


def _alike(a: RunValues, b: RunValues, rules: Rules) -> bool:
    """Whether all that a gate wants to be the same is, as far as both tell."""
    return all(
        a.facts[name] == b.facts[name]
        for name in rules.must_match
        if name in a.facts and name in b.facts
    )


def of_branch(
    branch: str, new: RunValues, results: Path, reader: Callable[[Path], Result] = store.load
) -> Runs | None:
    """The newest result of the machine and plan of `new` that is committed on `branch`.

    None where this is no git repository, it has no such branch, or none is committed there.
    """
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{branch}^{{commit}}")
    top = _git("rev-parse", "--show-toplevel")
    if commit is None or top is None:
        return None
    folder = results.resolve() / store.safe_name(new.machine) / store.safe_name(new.plan)
    root, key = Path(os.fsdecode(top.rstrip(b"\n"))), commit.decode().strip()
    if not folder.is_relative_to(root):
        return None
    inside = folder.relative_to(root).as_posix()
    listed = _git("ls-tree", "--full-tree", "--name-only", "-z", key, "--", f"{inside}/")
    names = [n for n in os.fsdecode(listed or b"").split("\0") if n.endswith(".json")]
    newest = max(names, default=None)
    body = _git("show", f"{key}:{newest}") if newest else None
    if newest is None or body is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / Path(newest).name
        path.write_bytes(body)
        result = reader(path)
    name = f"{branch}:{newest}"
    run = values.of_result(result, name, ref=branch, commit=key)
    return Runs(label=name, runs=[run], results={name: result})


def _git(*arguments: str) -> bytes | None:
    """What git prints; None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, check=False, timeout=_GIT_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
