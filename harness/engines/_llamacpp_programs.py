"""Where llama-bench and llama-server are: a folder that was named, the PATH, or our own build's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness import places

VARIABLE = "ARMBENCH_LLAMACPP_BIN"
_FEATURES = ("flags", "Features")  # of x86 and Arm, as scripts/build-llamacpp reads them


def find(name: str, root: Path = Path("/")) -> str | None:
    """The path of llama.cpp's program `name`, or None.

    A folder named in ARMBENCH_LLAMACPP_BIN comes first and is then the only one; PATH comes
    before what scripts/build-llamacpp left in the cache for this very CPU, newest first.
    """
    if folder := os.environ.get(VARIABLE):
        return shutil.which(name, path=folder)
    if found := shutil.which(name):
        return found
    there = (shutil.which(name, path=str(build / "bin")) for build in builds(root))
    return next((path for path in there if path), None)


def builds(root: Path = Path("/")) -> list[Path]:
    """Folders of finished builds for this CPU's features, newest first."""
    features = _features(root)
    marks = places.cache_dir().glob("llamacpp/[!.]*/cpu")
    own = [m for m in marks if features and m.read_text().strip() == features]
    return [m.parent for m in sorted(own, key=lambda m: m.stat().st_mtime, reverse=True)]


def _features(root: Path) -> str | None:
    """The CPU's features as the kernel lists them; None where it does not."""
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() in _FEATURES), None)
