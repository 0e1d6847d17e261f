"""Right before fast: an engine's logits held against transformers float32 on the same weights."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, convert

from harness import places
from harness.errors import ArmbenchError
from harness.records.run import Agreement

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.engines import Engine

PROMPT_TOKENS = 48
POSITIONS = 24
_PROMPT_TEXT = "english.txt"


class Bounds(Struct, forbid_unknown_fields=True, kw_only=True):
    """What agreement a dtype must reach; `delta_max` in standard deviations of the logits."""

    top1: float
    kl_mean: float
    delta_max: float


def bounds(dtype: str) -> Bounds:
    """The bounds of `dtype` from configs/quality.toml."""
    table = tomllib.loads((places.config_dir() / "quality.toml").read_text())
    if dtype not in table:
        raise ArmbenchError(f"configs/quality.toml has no bounds for dtype {dtype!r}")
    return convert(table[dtype], Bounds)


def shortfalls(found: Agreement, wanted: Bounds) -> list[str]:
    """Every bound that `found` misses, in plain words; empty is agreement."""
    delta = found.delta_max / found.spread if found.spread else float("inf")
    missed = []
    if not found.top1 >= wanted.top1:
        missed.append(f"same next token at {found.top1:.1%} of positions, {wanted.top1:.1%} wanted")
    if not found.kl_mean <= wanted.kl_mean:
        missed.append(f"mean KL {found.kl_mean:.2g} nats, at most {wanted.kl_mean:.2g} wanted")
    if not delta <= wanted.delta_max:
        missed.append(
            f"largest |Δlogit| {delta:.2g} standard deviations, at most {wanted.delta_max:g} wanted"
        )
    return missed


def fixed_prompt(folder: Path, vocabulary: int) -> list[int]:
    """The check's prompt: shipped text in the checkpoint's own tokens, else numbered tokens."""
    if (folder / "tokenizer.json").is_file():
        try:
            from tokenizers import Tokenizer

            text = (places.config_dir() / "text" / _PROMPT_TEXT).read_text()
            ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
            if len(ids) >= PROMPT_TOKENS and max(ids) < vocabulary:
                return list(ids[:PROMPT_TOKENS])
        except Exception as error:  # the tokenizer library raises bare Exception
            raise ArmbenchError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
    step = max(1, vocabulary // (PROMPT_TOKENS + 1))
    return [(i + 1) * step % vocabulary for i in range(PROMPT_TOKENS)]


def make_reference(checkpoint: Path, prompt: Sequence[int], positions: int, file: Path) -> None:
    """Greedy tokens and logits (positions, vocabulary) of transformers float32, into `file`.

    Takes as many threads as this process may use.
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
    tokens, rows = torch.tensor([list(prompt)]), []
    cache: Any = None
    with torch.inference_mode():
        step = tokens
        for _ in range(positions):
            out = model(input_ids=step, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            rows.append(out.logits[0, -1].numpy())
            step = out.logits[:, -1].argmax(dim=-1, keepdim=True)
            tokens = torch.cat([tokens, step], dim=1)
    draft = file.with_suffix(".draft.npz")
    np.savez(
        draft,
        prompt=np.asarray(prompt, dtype=np.int64),
        tokens=tokens[0, len(prompt) :].numpy(),
        logits=np.stack(rows),
        source=np.asarray(f"transformers {transformers.__version__} float32"),
    )
    draft.replace(file)


def _log_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    shifted = x - x.max()
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def compare(engine: Engine, file: Path) -> Agreement:
    """`engine` teacher-forced on the reference in `file`."""
    import numpy as np

    with np.load(file, allow_pickle=False) as stored:
        prompt, tokens, wanted = stored["prompt"], stored["tokens"], stored["logits"]
        source = str(stored["source"])
    engine.allocate(1, len(prompt) + len(tokens))
    same, kls, deltas, largest = 0, [], [], 0.0
    for position, token in enumerate(tokens):
        if position == 0:
            engine.prefill(prompt[None, :])
        else:
            engine.decode(tokens[position - 1 : position])
        ours, theirs = engine.logits()[0].astype(np.float64), wanted[position].astype(np.float64)
        same += int(ours.argmax() == token)
        p, q = _log_softmax(theirs), _log_softmax(ours)
        kls.append(float((np.exp(p) * (p - q)).sum()))
        deltas.append(float(np.abs(ours - theirs).mean()))
        largest = max(largest, float(np.abs(ours - theirs).max()))
    return Agreement(
        reference=source,
        positions=len(tokens),
        top1=same / len(tokens),
        kl_mean=sum(kls) / len(kls),
        kl_max=max(kls),
        delta_mean=sum(deltas) / len(deltas),
        delta_max=largest,
        spread=float(wanted.std()),
    )
