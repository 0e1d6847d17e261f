"""Seeds of a trial's parts, so that each part has randomness of its own."""

from __future__ import annotations

import hashlib


def derived(*parts: int | str) -> int:
    """A seed of 63 bits for `parts`: another one for any other parts, the same everywhere."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
