"""The quality guard: an engine's logits held against transformers float32 on the same weights.

`samples` are the tokens, `make_reference` and `compare` run in a child, `shortfalls` judges what
came out by the `bounds` of configs/quality.toml.
"""

from __future__ import annotations

from harness.agreement.judging import Bounds, bounds, shortfalls
from harness.agreement.measuring import REFERENCE, compare, make_reference
from harness.agreement.texts import Pass, Samples, samples

__all__ = [
    "REFERENCE",
    "Bounds",
    "Pass",
    "Samples",
    "bounds",
    "compare",
    "make_reference",
    "samples",
    "shortfalls",
]
