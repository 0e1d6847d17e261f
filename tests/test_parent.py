"""Processes of this program run this program's code, wherever the user stands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import harness
from harness import wire
from harness.engine_process import EngineProcess
from harness.parent import child_command

PACKAGE = Path(harness.__file__).parent
MODULES = (
    "harness.worker",
    "harness.serving",
    "harness.load.sender",
    "harness.load.null_server",
    "harness.load.supervisor",
)


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    """A folder, such as a checkpoint from anywhere, whose modules have names that we import."""
    for name in ("msgspec.py", "runpy.py", "harness/__init__.py"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    return tmp_path


@pytest.mark.parametrize("module", MODULES)
def test_a_process_imports_nothing_from_the_current_directory(module: str, traps: Path) -> None:
    done = subprocess.run(
        child_command(module), cwd=traps, capture_output=True, text=True, check=False
    )
    assert not (traps / "sprung").exists()
    path = PACKAGE.joinpath(*module.split(".")[1:])
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    assert f'File "{file}"' in done.stderr  # it came to miss its arguments
    assert "Error: list index" in done.stderr or "not enough values" in done.stderr


def test_an_engine_starts_beside_another_package_of_our_name(
    traps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(traps)
    with EngineProcess([min(os.sched_getaffinity(0))], {}) as process:
        process.ask(wire.Mark(), wire.Done, 30)
    assert not (traps / "sprung").exists()


def test_no_process_is_started_in_another_way() -> None:
    others = [
        path.name
        for path in PACKAGE.rglob("*.py")
        if 'sys.executable, "-m", "harness' in path.read_text()
    ]
    assert others == []
