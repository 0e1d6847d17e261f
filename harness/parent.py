"""What ties a process to the one that started it."""

from __future__ import annotations

import ctypes
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2)
_HERE = Path(__file__).parents[1]  # holds the package, installed or not
# By its folder, so that a child is of the same program as its parent; the folder does not stay on
# the path, where it would come before the standard library.
_BEGIN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import harness; del sys.path[0]; "
    "import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def child_command(module: str, *arguments: str) -> list[str]:
    """What runs `module` of this program as a process, as `python -m` would.

    Nothing is imported from the current directory, which may be a checkpoint that nobody trusts.
    """
    return [sys.executable, "-P", "-c", _BEGIN, str(_HERE), module, *arguments]


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies; nothing on other systems."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
