"""What a side of `armbench ab` is: a command, a virtual environment, or a git reference."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.errors import ArmbenchError
from harness.records.ab import AbSide

_GIT_TIMEOUT_S = 300
_CHECKOUT = "armbench-ab-"
KINDS = ("cmd", "venv", "git")
# Each trial is one repeat of its own run; ceilings would be surveyed anew in each.
_RUN = ("-m", "harness", "run")
_RUN_FLAGS = ("--repeats", "1", "--ceilings", "false", "--results", "{results}")


def parse(
    name: str, text: str, command: Sequence[str], run: Sequence[str], repository: Path
) -> AbSide:
    """The side that `text` means: `cmd:…`, `venv:FOLDER`, `git:REF`, or one of them unmarked.

    A folder with a Python in `bin` is a virtual environment, what git resolves a reference, the
    rest a command line. `command` is what measures a checkout or an environment; where it is empty,
    `armbench run` with the arguments `run`. Raises ArmbenchError for what is none of these, for a
    checkout without armbench that no command measures, and for a program that is not there.
    """
    kind, rest = _kind(text, repository)
    if kind == "venv":
        python = Path(rest) / "bin" / "python"
        if not python.exists():
            raise ArmbenchError(f"{rest} is no virtual environment: it has no bin/python")
        return AbSide(
            name=name, kind="venv", text=rest, command=_filled(command, run, str(python.absolute()))
        )
    if kind == "git":
        commit = resolve(rest, repository)
        if not command and not _has_armbench(commit, repository):
            raise ArmbenchError(
                f"{rest} has no harness/__main__.py: it is no commit of armbench",
                hint="say how a checkout is measured: --command '{python} bench.py {results}'",
            )
        return AbSide(
            name=name,
            kind="git",
            text=rest,
            command=_filled(command, run, sys.executable),
            commit=commit,
            variables={"PYTHONPATH": "{dir}"},
        )
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise ArmbenchError(f"command {rest!r} can't be read: {error}") from error
    if not words:
        raise ArmbenchError(f"--{name} is empty", hint="give a command, a venv or a git reference")
    if shutil.which(words[0]) is None:
        raise ArmbenchError(
            f"--{name} {rest}: {words[0]!r} is no program here, no virtual environment, and no "
            f"branch, tag or commit of {repository}",
            hint="write cmd:…, venv:FOLDER or git:REF to say which is meant; in CI, check out with "
            "full history",
        )
    return AbSide(name=name, kind="command", text=rest, command=words)


def installed(name: str, command: Sequence[str], run: Sequence[str]) -> AbSide:
    """The side of the armbench that runs, whatever it was installed from."""
    return AbSide(
        name=name, kind="venv", text=sys.prefix, command=_filled(command, run, sys.executable)
    )


def _has_armbench(commit: str, repository: Path) -> bool:
    return git(repository, "cat-file", "-e", f"{commit}:harness/__main__.py").returncode == 0


def _kind(text: str, repository: Path) -> tuple[str, str]:
    mark, colon, rest = text.partition(":")
    if colon and mark in KINDS:
        return ("command" if mark == "cmd" else mark), rest
    if (Path(text) / "bin" / "python").exists():
        return "venv", text
    with suppress(ArmbenchError):
        resolve(text, repository)
        return "git", text
    return "command", text


def _filled(command: Sequence[str], run: Sequence[str], python: str) -> list[str]:
    if command:
        return [word.replace("{python}", python) for word in command]
    return [python, *_RUN, *run, *_RUN_FLAGS]


def resolve(ref: str, repository: Path) -> str:
    """The commit of `ref` in the repository at `repository`. Raises ArmbenchError for none."""
    done = git(
        repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"
    )
    if done.returncode != 0:
        raise ArmbenchError(
            f"{ref!r} is no commit, branch or tag of {repository}",
            hint="fetch it first; in CI, check out with its full history",
        )
    return done.stdout.strip()


def git(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One git command. Raises ArmbenchError where git is missing or hangs."""
    try:
        return subprocess.run(
            ["git", "-C", str(repository), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ArmbenchError(f"git {arguments[0]} did not run: {error}") from error


def same(a: AbSide, b: AbSide) -> bool:
    """Whether both sides are the same thing: an A/A comparison."""
    return (a.command, a.commit, a.variables) == (b.command, b.commit, b.variables)


def new_checkout(side: AbSide) -> Path:
    """Where the commit of `side` may be checked out: a folder of our own, made here."""
    return Path(tempfile.mkdtemp(prefix=f"{_CHECKOUT}{side.name}-")) / "checkout"


def check_out(side: AbSide, repository: Path, folder: Path) -> None:
    """The commit of `side` as a git worktree in `folder`, which does not exist yet.

    Raises ArmbenchError where that fails.
    """
    assert side.commit is not None
    done = git(repository, "worktree", "add", "--detach", str(folder), side.commit)
    if done.returncode != 0:
        raise ArmbenchError(
            f"{side.text} can't be checked out: {done.stderr.strip()[-500:]}",
            hint="free disk space, or run in a git repository that has it",
        )


def remove(repository: Path, folder: Path) -> None:
    """Take a worktree away, and the folder made for it; nothing happens where it is gone."""
    if not folder.parent.name.startswith(_CHECKOUT):
        return  # a state file that was tampered with must not name a folder to delete
    with suppress(ArmbenchError):
        git(repository, "worktree", "remove", "--force", "--force", str(folder))
        git(repository, "worktree", "prune")
    with suppress(OSError):
        folder.parent.rmdir()


def command(side: AbSide, results: Path, folder: Path | None) -> tuple[list[str], dict[str, str]]:
    """(command line, variables) of one trial that writes its result under `results`."""
    return fill(side, side.command, results, folder)


def fill(
    side: AbSide, words: Sequence[str], results: Path, folder: Path | None
) -> tuple[list[str], dict[str, str]]:
    """(`words` with their places filled in, the variables of `side`)."""

    def filled(text: str) -> str:
        return text.replace("{results}", str(results)).replace("{dir}", str(folder or ""))

    variables = {name: filled(text) for name, text in side.variables.items()}
    before = os.environ.get("PYTHONPATH")
    if "PYTHONPATH" in variables and before:
        variables["PYTHONPATH"] += os.pathsep + before
    return [filled(word) for word in words], variables | {"ARMBENCH_RESULTS": str(results)}
