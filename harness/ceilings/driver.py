"""Calls the driver program and reads what it prints."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

from harness.ceilings.build import Build

_PORTABLE = "portable"


class Kernel(Struct, frozen=True, kw_only=True):
    """A kernel as it describes itself."""

    name: str
    isa: str
    operation: str
    type: str
    features: str
    unit: str
    arrays: int
    tunable: int
    scalable: int
    loop_bytes: int
    loop_ops: int
    loop: str

    def lacks(self, features: frozenset[str]) -> list[str]:
        """The features it needs that are not among these."""
        return [f for f in self.features.split() if f not in features]

    @property
    def is_portable(self) -> bool:
        return self.isa == _PORTABLE


class Repetition(Struct, kw_only=True):
    """One line of `driver run`; `error` where there is no value."""

    kernel: str
    error: str | None = None
    unit: str = ""
    value: float = 0.0
    threads: int = 0
    seconds: float = 0.0
    bytes: int = 0
    ops_per_s: float = 0.0
    bytes_per_s: float = 0.0
    huge_bytes: int = 0
    cpu_share: float = 1.0
    vector_bytes: int = 0
    streams: int = 1
    ahead: int = 0
    nontemporal: int = 0
    per_thread: list[float] = field(default_factory=list)
    on: list[int] = field(default_factory=list)

    @property
    def setting(self) -> tuple[str, int, int, int]:
        """What was run: kernel, streams, prefetch distance, whether stores bypass the caches."""
        return self.kernel, self.streams, self.ahead, self.nontemporal

    @property
    def rank(self) -> float:
        """Larger is better, whatever the unit."""
        return -self.value if self.unit == "s" else self.value


class DriverFailed(Exception):
    """The driver ended without an answer; the message says how."""


def kernels(build: Build) -> list[Kernel]:
    """Every kernel in the build, by its own description. Calls none of them."""
    return [msgspec.json.decode(line, type=Kernel) for line in call(build, ["list"], limit_s=20)]


def run(
    build: Build,
    names: Sequence[str],
    cpus: Sequence[int],
    *,
    seconds: float,
    repeats: int = 1,
    limit_s: float = 120,
    **options: int | str | Sequence[int] | None,
) -> list[Repetition]:
    """Repetitions of the kernels on one thread per CPU, by turns over their settings.

    Options are those of the driver, lists joined by commas; None leaves one out. Raises
    DriverFailed where the driver died, as on an instruction that the CPU lacks after all.
    """
    words = ["run", "--kernels", ",".join(names), "--cpus", ",".join(map(str, cpus))]
    words += ["--seconds", f"{seconds:g}", "--repeats", str(repeats)]
    for name, value in options.items():
        if value is not None:
            joined = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            words += [f"--{name.replace('_', '-')}", joined]
    lines = call(build, words, limit_s=limit_s)
    return [msgspec.json.decode(line, type=Repetition) for line in lines]


def call(build: Build, words: Sequence[str], *, limit_s: float) -> list[bytes]:
    """The lines that the driver prints. Raises DriverFailed where it prints none."""
    command: list[Any] = [build.driver, *words]
    try:
        ran = subprocess.run(command, capture_output=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise DriverFailed(f"the driver took longer than {limit_s:g} s") from None
    except OSError as error:
        raise DriverFailed(f"the driver cannot be started: {error.strerror}") from None
    if ran.returncode < 0:
        raise DriverFailed(f"the driver was ended by signal {-ran.returncode}")
    lines = ran.stdout.splitlines()
    if not lines:
        said = ran.stderr.decode(errors="replace").strip() or f"exit code {ran.returncode}"
        raise DriverFailed(f"the driver gave no answer: {said[:200]}")
    return lines
