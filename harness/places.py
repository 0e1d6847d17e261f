"""Where the program's own files, its cache and its results lie.

`ARMBENCH_CACHE` and `ARMBENCH_RESULTS` override the last two.
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _shipped(name: str) -> Path:
    inside = _PACKAGE / name  # a wheel carries the folder inside the package
    return inside if inside.is_dir() else _PACKAGE.parent / name


def config_dir() -> Path:
    """The folder of shipped data: plans, models, prices, CPUs, text."""
    return _shipped("configs")


def kernel_dir() -> Path:
    """The folder of shipped C sources."""
    return _shipped("kernels")


def cache_dir() -> Path:
    """The user's cache of this program; not made here."""
    if own := os.environ.get("ARMBENCH_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "armbench"


def results_dir() -> Path:
    """Where results are written unless `--results` says otherwise; not made here."""
    return Path(os.environ.get("ARMBENCH_RESULTS") or "results")
