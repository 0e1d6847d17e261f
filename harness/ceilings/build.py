"""The kernels' shared library and driver, built once by the system's C compiler.

They lie in the user's cache under a key of sources, compiler and flags, so that a changed kernel
is built anew and an unchanged one never. A wheel may carry them built (`prebuilt/`).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from harness.cache import use
from harness.errors import ArmbenchError
from harness.places import cache_dir, kernel_dir

FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra")
LIBRARY = "libarmbench.so"
DRIVER = "driver"
_COMMON = ("driver.c",)
_LIMIT_S = 300
_PREBUILT = Path(__file__).resolve().parent / "prebuilt"

_INSTALL = {  # by ID or ID_LIKE of /etc/os-release
    "debian": "sudo apt-get install gcc libc6-dev",
    "fedora": "sudo dnf install gcc",
    "rhel": "sudo dnf install gcc",
    "anolis": "sudo dnf install gcc",
    "suse": "sudo zypper install gcc",
    "alpine": "sudo apk add gcc musl-dev",
    "arch": "sudo pacman -S gcc",
}


class NoCompiler(ArmbenchError):
    """There is no C compiler, and no build that could be used without one."""


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """Where the built driver and library lie, what built them, and what could not be built."""

    folder: str
    key: str
    machine: str
    sources: str  # hash of the sources alone
    compiler: str
    skipped: dict[str, str] = {}  # kernel file -> the compiler's words

    @property
    def driver(self) -> Path:
        return Path(self.folder) / DRIVER

    @property
    def library(self) -> Path:
        return Path(self.folder) / LIBRARY


class Source(msgspec.Struct, frozen=True):
    """One C file and what its head asks for."""

    path: Path
    arch: str | None
    flags: tuple[str, ...]


def read_source(path: Path) -> Source:
    """The file with the `// arch:` and `// flags:` of its head."""
    head = path.read_text(encoding="utf-8")[:1000]
    arch = re.search(r"^// arch: *(\S+)$", head, re.MULTILINE)
    flags = re.search(r"^// flags: *(.+)$", head, re.MULTILINE)
    return Source(path, arch[1] if arch else None, tuple(flags[1].split()) if flags else ())


def sources_for(machine: str, folder: Path | None = None) -> list[Source]:
    """Every C file that is for `machine`, the driver last."""
    root = folder or kernel_dir()
    files = [read_source(p) for p in sorted(root.glob("*/*.c"))]
    files += [read_source(p) for p in sorted(root.glob("*.c")) if p.name not in _COMMON]
    return [s for s in files if s.arch in (None, machine)] + [read_source(root / "driver.c")]


def find_compiler(env: Mapping[str, str] = os.environ) -> str:
    """The C compiler's command: `$CC`, else the first of cc, gcc and clang.

    Raises NoCompiler, with the command that installs one as its hint.
    """
    asked = env.get("CC")
    for name in [asked] if asked else ["cc", "gcc", "clang"]:
        if shutil.which(shlex.split(name)[0], path=env.get("PATH")):
            return name
    found = f"$CC is {asked!r}, which is not found" if asked else "no C compiler"
    raise NoCompiler(found, hint=f"install one: {install_command()}")


def install_command(root: Path = Path("/")) -> str:
    """The command that installs a C compiler on this system."""
    try:
        text = (root / "etc/os-release").read_text(encoding="utf-8")
    except OSError:
        text = ""
    names = " ".join(re.findall(r"^ID(?:_LIKE)?=(.*)$", text, re.MULTILINE)).replace('"', " ")
    for name in names.split():
        if name in _INSTALL:
            return _INSTALL[name]
    return _INSTALL["debian"] if not names else "your package manager's gcc"


def build_kernels(
    *,
    compiler: str | None = None,
    machine: str | None = None,
    folder: Path | None = None,
    cache: Path | None = None,
    flags: Sequence[str] = (),
) -> Build:
    """The built kernels for `machine` (this one's, unless a cross-compiler is given).

    Builds what the cache lacks. A file that the compiler cannot build, such as one for an ISA it
    does not know, is left out and named in `skipped`. Raises NoCompiler, or ArmbenchError where
    the driver itself cannot be built.
    """
    machine = machine or platform.machine()
    sources = sources_for(machine, folder)
    hashed = _hash_sources(folder or kernel_dir())
    if compiler is None and not flags and (ready := _prebuilt(machine, hashed)):
        return ready
    command = shlex.split(compiler or find_compiler())
    version = _version(command)
    every = (*FLAGS, *flags)
    text = "\0".join([hashed, machine, *command, version, *every])
    key = hashlib.sha256(text.encode()).hexdigest()[:24]
    place = (cache or cache_dir() / "kernels") / key
    if cache is None:
        use(place)
    if found := _read(place):
        return found
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".building-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        skipped = _compile(command, every, sources, made)
        result = Build(
            folder=str(place),
            key=key,
            machine=machine,
            sources=hashed,
            compiler=version,
            skipped=skipped,
        )
        (made / "build.json").write_bytes(msgspec.json.encode(result))
        try:
            made.rename(place)
        except OSError:  # another process was first: its build is as good
            if not _read(place):
                raise
    return result


def _read(place: Path) -> Build | None:
    try:
        found = msgspec.json.decode((place / "build.json").read_bytes(), type=Build)
    except (OSError, msgspec.MsgspecError):
        return None
    if not (place / DRIVER).exists():
        return None
    return msgspec.structs.replace(found, folder=str(place))  # the cache may have moved


def _prebuilt(machine: str, hashed: str) -> Build | None:
    found = _read(_PREBUILT / machine)
    return found if found and found.sources == hashed else None


def _hash_sources(root: Path) -> str:
    total = hashlib.sha256()
    for path in sorted([*root.rglob("*.c"), *root.rglob("*.h")]):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def _version(command: Sequence[str]) -> str:
    ran = _call([*command, "--version"])
    return ran.stdout.splitlines()[0].strip() if ran.returncode == 0 and ran.stdout else command[0]


def _call(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    # The compiler's words are read, so they must be in the language we expect.
    env = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_LIMIT_S, env=env, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def _compile(
    command: Sequence[str], flags: Sequence[str], sources: Sequence[Source], made: Path
) -> dict[str, str]:
    """Builds library and driver in `made`; returns the kernels that the compiler refused."""
    root = made.parent

    def one(source: Source) -> tuple[Source, Path, str]:
        to = root / f"{source.path.parent.name}-{source.path.stem}.o"
        ran = _call([*command, *flags, *source.flags, "-c", str(source.path), "-o", str(to)])
        return source, to, "" if ran.returncode == 0 else _first_error(ran.stderr)

    workers = max(1, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(workers) as pool:
        done = list(pool.map(one, sources))
    skipped: dict[str, str] = {}
    for source, _, error in done:
        if error and source.path.parent == sources[-1].path.parent:
            raise ArmbenchError(
                f"the C compiler cannot build {source.path.name}: {error}",
                hint=f"is the C library's development package there? {install_command()}",
            )
        if error:
            skipped[f"{source.path.parent.name}/{source.path.stem}"] = error
    objects = [str(to) for _, to, error in done if not error]
    library, driver = str(made / LIBRARY), str(made / DRIVER)
    _link([*command, *flags, "-shared", "-o", library, *objects[:-1]])
    where = ["-L", str(made), "-larmbench", "-pthread", "-Wl,-rpath,$ORIGIN"]
    _link([*command, *flags, "-o", driver, objects[-1], *where])
    return skipped


def _link(command: Sequence[str]) -> None:
    ran = _call(command)
    if ran.returncode:
        raise ArmbenchError(
            f"the C compiler cannot link the kernels: {_first_error(ran.stderr)}",
            hint=f"is the C library's development package there? {install_command()}",
        )


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["it said nothing"])[0][:200]


def main(words: Sequence[str] | None = None) -> int:
    """Builds into a folder for a wheel: `python -m harness.ceilings.build --output FOLDER`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, default=_PREBUILT / platform.machine())
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as scratch:
        made = build_kernels(compiler=find_compiler(), cache=Path(scratch))
        shutil.copytree(made.folder, options.output, dirs_exist_ok=True)
    print(f"{options.output}: {made.compiler}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
