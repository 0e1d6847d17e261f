"""Kernels built for this machine, for aarch64, and under sanitizers."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

from harness.ceilings.build import (
    FLAGS,
    Build,
    Source,
    build_kernels,
    find_compiler,
    sources_for,
)
from harness.errors import ArmbenchError
from harness.places import kernel_dir

REPOSITORY = Path(__file__).resolve().parents[2]
CROSS = "aarch64-linux-gnu-gcc"
CROSS_INSTALL = "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1", "-O1")
LIMIT_S = 300


def cannot(reason: str) -> NoReturn:
    """Skips with the reason; where CI must be able to, fails."""
    if os.environ.get("ARMBENCH_REQUIRE_ARM"):
        pytest.fail(reason)
    pytest.skip(reason)


def lines(*command: str | Path, env: dict[str, str] | None = None) -> list[dict[str, Any]]:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode >= 0, f"signal {-done.returncode}: {done.stderr[-2000:]}"
    assert "ERROR: " not in done.stderr, done.stderr[:4000]
    assert "runtime error" not in done.stderr, done.stderr[:4000]
    return [json.loads(line) for line in done.stdout.splitlines()]


def portable_copy(to: Path) -> Path:
    """A folder of the sources with the portable kernels alone, to be spoilt."""
    for path in [*kernel_dir().glob("*.[ch]"), *kernel_dir().glob("portable/*")]:
        copied = to / path.relative_to(kernel_dir())
        copied.parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(path, copied)
    return to


def spoil(path: Path, right: str, wrong: str) -> None:
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong))


class Objects(NamedTuple):
    """Every source of one machine compiled by itself with warnings as errors."""

    machine: str
    objdump: str
    folder: Path
    errors: list[str]


def compile_all(machine: str, command: str, objdump: str, folder: Path) -> Objects:
    def one(source: Source) -> str:
        to = folder / f"{source.path.parent.name}-{source.path.stem}.o"
        return subprocess.run(
            [command, *FLAGS, "-Werror", *source.flags, "-c", source.path, "-o", to],
            capture_output=True,
            text=True,
            check=False,
        ).stderr

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        errors = [text for text in pool.map(one, sources_for(machine)) if text]
    return Objects(machine, objdump, folder, errors)


class Arm(NamedTuple):
    """The kernels for aarch64, and an emulator to run them on a CPU model."""

    qemu: Path
    root: Path
    built: Build

    def command(self, model: str, *words: str) -> list[str | Path]:
        return [self.qemu, "-cpu", model, "-L", self.root, self.built.driver, *words]


@pytest.fixture(scope="session")
def compiler() -> str:
    try:
        return find_compiler()
    except ArmbenchError as error:
        cannot(f"{error}: {error.hint}")


@pytest.fixture(scope="session")
def native(compiler: str, own_kernels: Build) -> Build:
    """After `compiler`, which fails where CI must have one."""
    return own_kernels


@pytest.fixture(scope="session")
def sanitized(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Build:
    try:
        return build_kernels(
            compiler=compiler, flags=SANITIZERS, cache=tmp_path_factory.mktemp("sanitized")
        )
    except ArmbenchError as error:
        cannot(f"the sanitizers' libraries are not here: {error}")


@pytest.fixture(scope="session")
def aarch64(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The kernels for aarch64, by this machine's own compiler or a cross-compiler."""
    if platform.machine() == "aarch64":
        return build_kernels(compiler=find_compiler(), cache=tmp_path_factory.mktemp("aarch64"))
    if not shutil.which(CROSS):
        cannot(f"no {CROSS}: {CROSS_INSTALL}")
    return build_kernels(
        compiler=CROSS, machine="aarch64", cache=tmp_path_factory.mktemp("aarch64")
    )


@pytest.fixture(scope="session")
def x86_objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    command = "gcc" if platform.machine() == "x86_64" else "x86_64-linux-gnu-gcc"
    objdump = "objdump" if command == "gcc" else "x86_64-linux-gnu-objdump"
    for tool in (command, objdump):
        if not shutil.which(tool):
            cannot(f"no {tool}")
    return compile_all("x86_64", command, objdump, tmp_path_factory.mktemp("x86"))


@pytest.fixture(scope="session")
def arm_objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    command = "gcc" if platform.machine() == "aarch64" else CROSS
    objdump = "objdump" if command == "gcc" else "aarch64-linux-gnu-objdump"
    for tool in (command, objdump):
        if not shutil.which(tool):
            cannot(f"no {tool}: {CROSS_INSTALL}")
    return compile_all("aarch64", command, objdump, tmp_path_factory.mktemp("arm"))


@pytest.fixture(scope="session")
def arm(aarch64: Build) -> Arm:
    done = subprocess.run(
        [REPOSITORY / "scripts" / "arm-env"],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip() or "scripts/arm-env failed"
        cannot(said.splitlines()[-1])
    folder = Path(done.stdout.strip())
    return Arm(folder / "qemu-aarch64", folder / "root", aarch64)
