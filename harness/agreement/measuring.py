"""The reference's logits, and an engine teacher-forced over the same tokens. Runs in a child."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from harness.agreement.texts import Pass, Samples
from harness.errors import ArmbenchError
from harness.model.for_transformers import folder_for_transformers
from harness.records.run import Agreement

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.agreement.in_slots import InSlots
    from harness.engines import Engine, ServingEngine

# A pass that has taken its share of this ends, after a few positions at least: a large model on a
# slow machine is judged by fewer.
LIMIT_S = 120.0
# What a reference holds. The number rises when the same is computed in another way.
REFERENCE = "transformers float32, int4: 2"
_LEAST_POSITIONS = 4
_GROUP = 32
_ROWS_AT_ONCE = 8192  # of a matrix, so that a large one is not there twice


def make_reference(checkpoint: Path, samples: Samples, file: Path) -> None:
    """Logits of transformers float32 at every position of `samples`, into `file` (.npz).

    Array `p` holds pass `p` as (rows, positions, vocabulary); `int4_error` is the error that the
    same model has with its matrices rounded to 4 bits. Takes as many threads as this process may
    use.
    """
    import numpy as np
    import torch
    import transformers

    with folder_for_transformers(checkpoint) as folder:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder),
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
    errors: list[Any] = []
    with torch.inference_mode():
        for number, one in enumerate(samples.passes):
            arrays[str(number)] = _logits(model, one).numpy()
        for matrix in model.parameters():
            if matrix.dim() == 2:
                _round_to_4_bits(matrix)
        for number, one in enumerate(samples.passes):
            wanted = torch.from_numpy(arrays[str(number)])
            difference = _logits(model, one) - wanted
            errors.append((difference.var(dim=-1) / wanted.var(dim=-1)).flatten())
    arrays["int4_error"] = torch.cat(errors).mean().sqrt().numpy()
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    with draft.open("wb") as written:
        np.savez(written, **arrays)
    draft.replace(file)


def _logits(model: Any, one: Pass) -> Any:
    import torch

    tokens = torch.tensor(one.rows)[:, :-1]
    return model(input_ids=tokens, use_cache=False, logits_to_keep=one.positions).logits


def _round_to_4_bits(matrix: Any) -> None:
    """Rounds a matrix in place, in groups of 32 in a row, the largest value of each to step -8.

    That is q4_0 of GGUF, the plainest of the forms in use. A row's rest that fills no group stays.
    """
    for rows in matrix.split(_ROWS_AT_ONCE):
        whole = rows.shape[1] - rows.shape[1] % _GROUP
        if not whole:
            return
        groups = rows[:, :whole].unflatten(1, (-1, _GROUP))
        scale = groups.gather(-1, groups.abs().argmax(dim=-1, keepdim=True)) / -8
        scale[scale == 0] = 1
        groups.copy_((groups / scale).round_().clamp_(-8, 7) * scale)


def compare(
    engine: Engine, file: Path, limit_s: float = LIMIT_S, chunk: int | None = None
) -> Agreement:
    """`engine` teacher-forced on the reference in `file`, in about `limit_s` seconds at most.

    With `chunk` through its slots, as it serves, and so many prompt tokens a step.
    """
    import numpy as np

    from harness.agreement.figures import Tally
    from harness.agreement.in_slots import InSlots

    led = engine if chunk is None else InSlots(cast("ServingEngine", engine), chunk)
    start, tally = time.monotonic(), Tally()
    with np.load(file, allow_pickle=False) as stored:
        samples = msgspec.json.decode(stored["samples"].tobytes(), type=Samples)
        for number, one in enumerate(samples.passes):
            share = limit_s / len(samples.passes)
            _force(led, one, stored[str(number)], tally.add, share)
        source = str(stored["source"])
        rounded = float(stored["int4_error"]) if "int4_error" in stored else None
    return tally.agreement(source, samples.meaningless, time.monotonic() - start, rounded)


def _force(
    engine: Engine | InSlots, one: Pass, wanted: NDArray[np.float32], add: Any, limit_s: float
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
