"""What each engine is, whether it can run here, and what this machine's CPU does for it.

Nothing of an engine is imported: versions are read from the installed packages' records, and what
the CPU can do from its feature flags.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from typing import Any, Literal

from msgspec import Struct, field

from harness import engines, packages
from harness.load import recipes
from harness.load.recipes import Recipe
from harness.machine.cpuinfo import BFLOAT16
from harness.records.machine import Machine

_ARM = ("aarch64", "arm64")
# kernels' flags that multiply bytes in one instruction, best first
_INT8 = ("amx_int8", "avx512_vnni", "avx_vnni", "svei8mm", "i8mm", "asimddp")
_SMALL = ("int8", "int4", "q8_0", "q4_0", "q4_k_m")


class EngineRow(Struct, kw_only=True):
    """One engine, endpoint or foreign server, as `armbench engines` shows it."""

    engine: str
    kind: Literal["in process", "endpoint", "server"]
    installed: bool | None  # None where only trying it would tell
    missing: list[str] = field(default_factory=list)
    install: str | None = None  # the command that brings what is missing
    versions: dict[str, str | None] = field(default_factory=dict)
    dtypes: list[str] = field(default_factory=list)
    serves: bool = False
    shares_weights: bool = False  # whether several processes have them in memory once
    converts: bool = False
    conversion_missing: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    option_help: dict[str, str] = field(default_factory=dict)
    here: list[str] = field(default_factory=list)  # what it can do on this machine
    program: str | None = None  # of a server: where it is
    about: str = ""


class Here(Struct, kw_only=True):
    """What this machine has for the engines; None where its features are not known."""

    bfloat16: str | None  # the feature that multiplies it
    int8: str | None
    arm: bool
    known: bool
    compiler: str | None  # a C++ compiler, for torch.compile


def here(machine: Machine, environment: Mapping[str, str] = os.environ) -> Here:
    """What of `machine` matters to the engines."""
    features = machine.cpu.features
    asked = environment.get("CXX", "")
    names = [asked] if asked else ["c++", "g++", "clang++"]
    return Here(
        bfloat16=_first(BFLOAT16, features),
        int8=_first(_INT8, features),
        arm=machine.architecture in _ARM,
        known=bool(features),
        compiler=next((found for name in names if (found := shutil.which(name))), None),
    )


def _first(wanted: Collection[str], features: Collection[str]) -> str | None:
    return next((name for name in wanted if name in features), None)


def abilities(name: str, found: Here) -> list[str]:
    """What engine `name` can expect of this machine, in words."""
    if name == "fake":
        return ["computes nothing: for demos and tests"]
    module = engines.module(name)
    said = []
    if "bfloat16" in module.DTYPES:
        said.append(_told("bfloat16", found.bfloat16, found, "emulated"))
    if any(dtype in _SMALL for dtype in module.DTYPES):
        used = found.int8 if found.int8 in getattr(module, "INT8", _INT8) else None
        said.append(_told("8-bit products", used, found, "without an instruction of theirs"))
    if getattr(module, "KLEIDIAI", False):
        has = "asimddp or i8mm is there" if found.int8 else "needs asimddp, which is not there"
        said.append(f"KleidiAI: {has}" if found.arm else "KleidiAI: Arm only")
    if "compile" in module.OPTIONS:
        said.append(f"torch.compile: {found.compiler or 'lacks a C++ compiler'}")
    return said + list(getattr(module, "here", lambda _: [])(found))


def _told(what: str, feature: str | None, found: Here, otherwise: str) -> str:
    if not found.known:
        return f"{what}: the CPU's features are not known"
    return f"{what}: {f'by {feature}' if feature else otherwise}"


def engine_row(name: str, found: Here) -> EngineRow:
    """Engine `name` on this machine. Raises ArmbenchError for one that does not exist."""
    module = engines.module(name)
    needed = list(module.PACKAGES)
    missing = engines.missing_packages(name)
    converter = engines.converter(name)
    options = dict(module.OPTIONS)
    conversion = list(converter.prepare_packages(options)) if converter else []
    lacking = packages.missing(conversion)
    return EngineRow(
        engine=name,
        kind="in process",
        installed=not missing,
        missing=missing,
        install=packages.install_command(name, missing + lacking) if missing + lacking else None,
        versions=packages.versions(needed),
        dtypes=list(module.DTYPES),
        serves=bool(getattr(module, "serves", False)),
        shares_weights=hasattr(module, "shared_bytes"),
        converts=converter is not None,
        conversion_missing=lacking,
        options=options,
        option_help=dict(getattr(module, "OPTION_HELP", {})),
        here=abilities(name, found),
        about=(module.__doc__ or "").split("\n", 1)[0],
    )


def _server_row(recipe: Recipe) -> EngineRow:
    program = shutil.which(recipe.command[0])
    part = recipe.command[2] if recipe.command[1:2] == ["-m"] else None
    if part and program:
        here = [f"{part} may lie in another environment than this: {recipe.install}"]
    else:
        here = []
    return EngineRow(
        engine=recipe.name,
        kind="server",
        installed=program is not None if part is None or program is None else None,
        missing=[] if program else [recipe.command[0]],
        install=None if program else recipe.install,
        here=here,
        serves=True,
        program=program,
        about=f"{recipe.title}: armbench run --server {recipe.name}",
    )


def _endpoint_row() -> EngineRow:
    return EngineRow(
        engine="openai",
        kind="endpoint",
        installed=True,
        serves=True,
        about="any OpenAI-compatible endpoint: armbench load URL",
    )


def rows(found: Here) -> list[EngineRow]:
    """Every engine, then any endpoint, then the servers that we can start."""
    ours = [engine_row(name, found) for name in engines.names()]
    servers = [_server_row(recipes.read_recipe(name)) for name in recipes.shipped()]
    return [*ours, _endpoint_row(), *servers]


def row(name: str, found: Here) -> EngineRow:
    """The row of `name`. Raises ArmbenchError where there is none."""
    if name in recipes.shipped():
        return _server_row(recipes.read_recipe(name))
    return _endpoint_row() if name == "openai" else engine_row(name, found)
