"""What this machine can do at best: kernels built on first use, and what they measure."""

from harness.ceilings.build import Build, build_kernels
from harness.ceilings.measuring import (
    DEFAULT,
    KINDS,
    SHORT,
    again,
    cache_curve,
    curves,
    measure,
    scaling,
)

__all__ = [
    "DEFAULT",
    "KINDS",
    "SHORT",
    "Build",
    "again",
    "build_kernels",
    "cache_curve",
    "curves",
    "measure",
    "scaling",
]
