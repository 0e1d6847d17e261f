"""What of other people's packages is installed, without importing any."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, metadata, version

# import name -> name on the package index, where it is not the same with dashes
_DISTRIBUTIONS = {"llama_cpp": "llama-cpp-python", "optimum.onnxruntime": "optimum-onnx"}


def distribution(package: str) -> str:
    """The name under which `package`, an import name, is installed."""
    return _DISTRIBUTIONS.get(package, package.split(".", maxsplit=1)[0].replace("_", "-"))


def missing(packages: Iterable[str]) -> list[str]:
    """Those of `packages` that cannot be imported here."""
    return [p for p in packages if not _there(p)]


def _there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # its parent is absent
        return False


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """The version of each of `packages` by its import name; None where it has none."""
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = version(distribution(package))
        except PackageNotFoundError:
            found[package] = None
    return found


def install_command(engine: str, packages: Iterable[str]) -> str:
    """What installs `packages` for `engine`: an extra of this program where there is one."""
    extra = engine.replace("_", "-")
    try:
        extras = metadata("armbench").get_all("Provides-Extra") or []
    except PackageNotFoundError:
        extras = []
    if extra in extras:
        return f"pip install 'armbench[{extra}]'"
    return f"pip install {' '.join(dict.fromkeys(map(distribution, packages)))}"
