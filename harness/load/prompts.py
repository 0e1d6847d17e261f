"""Prompts as token ids: random, seeded, no two alike, the same for every engine."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence

from harness.records.run import LoadPoint, Plan


def prompts(
    load: LoadPoint,
    *,
    seed: int,
    repeat: int,
    vocabulary: int,
    requests: int | None = None,
    instance: int = 0,
    surplus: int = 0,
) -> list[list[list[int]]]:
    """For each request of a trial its batch of prompts: (requests, batch, input tokens).

    Ids are uniform over the vocabulary. Warm-up takes repeat -1, so that no measured prompt was
    seen before. For a dense decoder in-process, speed does not depend on which ids these are.
    Each `instance` has prompts of its own, and `surplus` counts the sets beyond its share.
    """
    import numpy as np

    shape = (requests or load.requests, load.batch, load.input_tokens)
    key = [seed, repeat + 1, load.batch, load.input_tokens]
    if instance or surplus:
        key += [2, instance, surplus]
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
    """One hash over every prompt of the plan's trials; surplus ones of instances are left out."""
    assert plan.seed is not None  # only an imported plan has none
    total = hashlib.sha256()
    instances: dict[LoadPoint, int] = {}
    for case in plan.cases:
        instances[case.load] = max(case.variant.instances, instances.get(case.load, 1))
    loads: Sequence[LoadPoint] = sorted(
        instances, key=lambda load: (load.kind, load.batch, load.input_tokens, load.output_tokens)
    )
    sets = itertools.chain.from_iterable(
        itertools.product([load], range(instances[load]), range(plan.repeats)) for load in loads
    )
    for load, instance, repeat in sets:
        for batch in prompts(
            load, seed=plan.seed, repeat=repeat, vocabulary=vocabulary, instance=instance
        ):
            for row in batch:
                total.update(bytes.fromhex(digest(row)))
    return total.hexdigest()
