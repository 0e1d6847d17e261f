"""Prompts as token ids: random, seeded, no two alike, the same for every engine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from harness.records.run import LoadPoint, Plan


def prompts(
    load: LoadPoint, *, seed: int, repeat: int, vocabulary: int, requests: int | None = None
) -> list[list[list[int]]]:
    """For each request of a trial its batch of prompts: (requests, batch, input tokens).

    Ids are uniform over the vocabulary. Warm-up takes repeat -1, so that no measured prompt was
    seen before. For a dense decoder in-process, speed does not depend on which ids these are.
    """
    import numpy as np

    shape = (requests or load.requests, load.batch, load.input_tokens)
    key = [seed, repeat + 1, load.batch, load.input_tokens]
    ids = np.random.Generator(np.random.PCG64(key)).integers(0, vocabulary, shape)
    ids[:, :, 0] = np.random.Generator(np.random.PCG64([*key, 1])).choice(
        vocabulary, size=shape[:2], replace=shape[0] * shape[1] > vocabulary
    )
    listed: list[list[list[int]]] = ids.tolist()
    return listed


def digest(tokens: Iterable[int]) -> str:
    """SHA-256 of token ids, each as 32 bits, little-endian."""
    return hashlib.sha256(b"".join(t.to_bytes(4, "little") for t in tokens)).hexdigest()


def prompt_set_digest(plan: Plan, vocabulary: int) -> str:
    """One hash over every prompt of the plan's trials."""
    assert plan.seed is not None  # only an imported plan has none
    total = hashlib.sha256()
    loads: Sequence[LoadPoint] = sorted(
        {case.load for case in plan.cases},
        key=lambda load: (load.kind, load.batch, load.input_tokens, load.output_tokens),
    )
    for load in loads:
        for repeat in range(plan.repeats):
            for batch in prompts(load, seed=plan.seed, repeat=repeat, vocabulary=vocabulary):
                for row in batch:
                    total.update(bytes.fromhex(digest(row)))
    return total.hexdigest()
