"""The reference's logits, and an engine teacher-forced over the same tokens. Runs in a child."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness.agreement.texts import Pass, Samples
from harness.errors import ArmbenchError
from harness.records.run import Agreement

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.engines import Engine

# A pass that has taken its share of this ends, after a few positions at least: a large model on a
# slow machine is judged by fewer.
LIMIT_S = 120.0
_LEAST_POSITIONS = 4


def make_reference(checkpoint: Path, samples: Samples, file: Path) -> None:
    """Logits of transformers float32 at every position of `samples`, into `file` (.npz).

    Array `p` holds pass `p` as (rows, positions, vocabulary). Takes as many threads as this process
    may use.
    """
    import numpy as np
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(checkpoint),
        dtype=torch.float32,
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
    )
    model.train(mode=False)
    arrays: dict[str, Any] = {
        "samples": np.frombuffer(msgspec.json.encode(samples), dtype=np.uint8),
        "source": np.asarray(f"transformers {transformers.__version__} float32"),
    }
    with torch.inference_mode():
        for number, one in enumerate(samples.passes):
            tokens = torch.tensor(one.rows)[:, :-1]
            out = model(input_ids=tokens, use_cache=False, logits_to_keep=one.positions)
            arrays[str(number)] = out.logits.numpy()
    draft = file.with_suffix(".draft.npz")
    np.savez(draft, **arrays)
    draft.replace(file)


def compare(engine: Engine, file: Path, limit_s: float = LIMIT_S) -> Agreement:
    """`engine` teacher-forced on the reference in `file`, in about `limit_s` seconds at most."""
    import numpy as np

    from harness.agreement.figures import Tally

    start, tally = time.monotonic(), Tally()
    with np.load(file, allow_pickle=False) as stored:
        samples = msgspec.json.decode(stored["samples"].tobytes(), type=Samples)
        for number, one in enumerate(samples.passes):
            share = limit_s / len(samples.passes)
            _force(engine, one, stored[str(number)], tally.add, share)
        source = str(stored["source"])
    return tally.agreement(source, samples.meaningless, time.monotonic() - start)


def _force(
    engine: Engine, one: Pass, wanted: NDArray[np.float32], add: Any, limit_s: float
) -> None:
    """Lead `engine` through one pass and add each position's figures."""
    import numpy as np

    from harness.agreement.figures import position

    rows = np.asarray(one.rows, dtype=np.int64)
    batch, length = rows.shape
    engine.allocate(batch, length)
    start = time.monotonic()
    for n in range(one.positions):
        at = one.prefix + n
        if n == 0:
            engine.prefill(rows[:, :at])
        else:
            engine.decode(rows[:, at - 1])
        ours = engine.logits()
        if ours.shape != (batch, wanted.shape[2]):
            raise ArmbenchError(
                f"the engine gives logits of shape {ours.shape}, the reference has "
                f"{batch} rows of {wanted.shape[2]}"
            )
        for row, name in enumerate(one.names):
            add(name, batch, position(ours[row], wanted[row, n], int(rows[row, at])))
        if n + 1 >= _LEAST_POSITIONS and time.monotonic() - start > limit_s:
            return
