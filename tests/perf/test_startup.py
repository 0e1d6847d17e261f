"""How fast the command answers: `pytest tests/perf --benchmark-enable`, never asserted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COMMAND = Path(sys.executable).with_name("armbench")


@pytest.mark.skipif(not COMMAND.exists(), reason="armbench is not installed beside this Python")
@pytest.mark.parametrize(
    "arguments", [["--help"], ["machine"], ["machine", "--json"]], ids=" ".join
)
def test_startup(benchmark: Any, arguments: list[str]) -> None:
    """The issue's targets: 0.15 s for --help, 0.4 s for machine."""
    done = benchmark(
        subprocess.run, [COMMAND, *arguments], capture_output=True, check=True, text=True
    )
    assert done.stdout
