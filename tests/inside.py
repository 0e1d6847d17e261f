"""The command in this process: what it says and how it ends, where no process is claimed."""

from __future__ import annotations

import io
import subprocess
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

from harness import cli


def armbench(*arguments: str, cwd: Path | str = ".") -> subprocess.CompletedProcess[str]:
    """As `tests.test_run.armbench`, without the seconds that a new Python takes to import.

    For commands that read and print: one that pins, locks or starts something would do so to the
    process of the tests.
    """
    out, err = io.StringIO(), io.StringIO()
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err):
        try:
            code = cli.main(arguments)
        except SystemExit as end:  # argparse's
            code = end.code if isinstance(end.code, int) else 1
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
