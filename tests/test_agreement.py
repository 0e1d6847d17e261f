"""The quality guard's figures and verdicts, on engines that are right or wrong by construction."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tokenizers import Tokenizer

from harness import agreement, engines
from harness.agreement import figures
from harness.agreement.judging import kind
from harness.agreement.texts import Pass, Samples, shipped_texts
from harness.engine_run import EngineRun
from harness.errors import ArmbenchError
from harness.model import synthetic
from harness.records.run import Agreement, AgreementPart, Check, Variant

VOCABULARY = 50
# as far apart as a shift leaves them: eighths, exact in every sum below
LOGITS = arrays(np.float32, 12, elements=st.integers(-240, 240).map(lambda n: n / 8))


class Recorded:
    """An engine that gives the reference's own logits, changed by `change` for each batch size."""

    def __init__(
        self, file: Path, change: Callable[[Any, int], Any] = lambda logits, _: logits
    ) -> None:
        stored = np.load(file)
        one = msgspec.json.decode(stored["samples"].tobytes(), type=Samples)
        self.passes = [(p, stored[str(n)]) for n, p in enumerate(one.passes)]
        self.change = change
        self.at = 0

    def allocate(self, batch: int, context: int) -> None:
        self.now, self.wanted = next(p for p in self.passes if len(p[0].rows) == batch)
        assert context == len(self.now.rows[0])

    def prefill(self, tokens: Any) -> Any:
        assert tokens.tolist() == [row[: self.now.prefix] for row in self.now.rows]
        self.at = 0

    def decode(self, tokens: Any) -> Any:
        assert tokens.tolist() == [row[self.now.prefix + self.at] for row in self.now.rows]
        self.at += 1

    def logits(self) -> Any:
        return self.change(self.wanted[:, self.at].copy(), len(self.now.rows))


class Slotted(Recorded):
    """The same, which serves too: its logits in slots are changed by `served`."""

    def __init__(self, file: Path, served: Callable[[Any], Any], chunk: int) -> None:
        super().__init__(file)
        self.served, self.chunk = served, chunk

    def open_slots(self, slots: int, context: int) -> None:
        self.allocate(slots, context)
        self.held: list[list[int]] = [[] for _ in range(slots)]

    def step(self, feeds: Any) -> Any:
        first = len(self.held[0]) < self.now.prefix
        assert sum(len(f.tokens) for f in feeds) <= (self.chunk if first else len(feeds))
        for slot, tokens, wanted in feeds:
            self.held[slot] += tokens
            assert self.held[slot] == self.now.rows[slot][: len(self.held[slot])]
            assert wanted == (len(self.held[slot]) >= self.now.prefix)
        self.at = len(self.held[0]) - self.now.prefix
        return [0 if f.wanted else None for f in feeds]

    def logits(self) -> Any:
        return self.served(super().logits())


def reference(folder: Path, meaningless: str | None = None) -> Path:
    """A file as `make_reference` writes it, of random logits over two passes."""
    numbers = np.random.default_rng(3)
    rows = numbers.integers(0, VOCABULARY, (3, 20)).tolist()
    passes = [
        Pass(["one", "two", "three"], rows, 8),
        Pass(["long"], [[t for r in rows for t in r]], 50),
    ]
    given = {
        str(n): numbers.normal(0, 2, (len(p.rows), p.positions, VOCABULARY)).astype(np.float32)
        for n, p in enumerate(passes)
    }
    encoded = msgspec.json.encode(Samples(passes, meaningless))
    file = folder / "reference.npz"
    np.savez(file, samples=np.frombuffer(encoded, np.uint8), source=np.asarray("a test"), **given)
    return file


def measured(**changes: Any) -> Agreement:
    """An agreement within all bounds, but for `changes`."""
    right: dict[str, Any] = {
        "reference": "a test",
        "positions": 272,
        "top1": 1.0,
        "kl_mean": 0.0,
        "kl_max": 0.0,
        "delta_mean": 0.0,
        "delta_max": 0.0,
        "spread": 2.0,
        "error": 0.0,
        "perplexity_ratio": 1.0,
        "parts": [
            AgreementPart(name="long", batch=1, positions=16, top1=1.0, kl_mean=0.0, error=0.0)
        ],
    }
    return Agreement(**right | changes)


def test_an_engine_that_gives_the_references_logits_agrees_in_everything(tmp_path: Path) -> None:
    file = reference(tmp_path)
    found = agreement.compare(Recorded(file), file)
    assert (found.top1, found.delta_max, found.error, found.perplexity_ratio) == (1, 0, 0, 1)
    assert found.kl_mean == pytest.approx(0, abs=1e-12)
    assert found.positions == 3 * 12 + 10
    assert [(p.name, p.batch, p.positions) for p in found.parts] == [
        ("one", 3, 12), ("two", 3, 12), ("three", 3, 12), ("long", 1, 10),
    ]  # fmt: skip
    assert found.perplexity == found.reference_perplexity
    assert agreement.shortfalls(found, agreement.bounds("float32", "checkpoint")) == []


def test_perplexity_is_of_the_tokens_of_the_text(tmp_path: Path) -> None:
    file = reference(tmp_path)
    found = agreement.compare(Recorded(file, lambda logits, _: np.zeros_like(logits)), file)
    assert found.perplexity == pytest.approx(VOCABULARY)
    nats = []
    for one, logits in Recorded(file).passes:
        for row, wanted in zip(one.rows, logits.astype(float), strict=True):
            for token, x in zip(row[one.prefix :], wanted, strict=True):
                nats.append(math.log(np.exp(x).sum()) - x[token])
    assert found.reference_perplexity == pytest.approx(math.exp(sum(nats) / len(nats)))
    ratio = found.perplexity / found.reference_perplexity
    assert found.perplexity_ratio == pytest.approx(ratio)
    assert found.perplexity_ratio_low < ratio < found.perplexity_ratio_high


def test_stretch_is_how_many_times_as_wide_the_logits_are_spread(tmp_path: Path) -> None:
    file = reference(tmp_path)
    found = agreement.compare(Recorded(file, lambda logits, _: 1.25 * logits + 3), file)
    assert found.stretch == pytest.approx(1.25)
    assert found.int4_error is None


def test_synthetic_weights_have_no_perplexity_but_a_reason(tmp_path: Path) -> None:
    file = reference(tmp_path, "with synthetic weights only the arithmetic can be checked")
    found = agreement.compare(Recorded(file), file)
    unknown = (found.perplexity, found.reference_perplexity, found.perplexity_ratio)
    assert unknown == (None, None, None)
    assert {p.perplexity for p in found.parts} == {None}
    assert "synthetic" in found.perplexity_reason
    assert agreement.shortfalls(found, agreement.bounds("float32", "synthetic")) == []


def test_a_kernel_that_is_wrong_for_a_single_row_only_is_caught(tmp_path: Path) -> None:
    file = reference(tmp_path)
    numbers = np.random.default_rng(4)

    def change(logits: Any, batch: int) -> Any:
        noise = numbers.normal(0, 1.5, logits.shape).astype(np.float32)
        return logits + noise if batch == 1 else logits

    found = agreement.compare(Recorded(file, change), file)
    wanted = agreement.bounds("int4", "checkpoint")
    assert found.kl_mean <= wanted.kl_mean
    assert any("long alone" in reason for reason in agreement.shortfalls(found, wanted))


@pytest.mark.parametrize("chunk", [3, 7, 8, 50, 512])
def test_what_only_serving_gets_wrong_is_caught_in_slots(chunk: int, tmp_path: Path) -> None:
    file = reference(tmp_path)
    wanted = agreement.bounds("float32", "checkpoint")
    right = agreement.compare(Slotted(file, lambda x: x, chunk), file, chunk=chunk)
    assert agreement.shortfalls(right, wanted) == []
    assert right.positions == agreement.compare(Recorded(file), file).positions
    wrong = agreement.compare(Slotted(file, lambda x: 1.5 * x, chunk), file, chunk=chunk)
    assert agreement.shortfalls(wrong, wanted) != []


@pytest.mark.parametrize("first", [True, False])
def test_the_worse_of_batches_and_slots_is_the_verdict(first: bool, tmp_path: Path) -> None:
    file = reference(tmp_path)
    good = agreement.compare(Recorded(file), file)
    bad = agreement.compare(Recorded(file, lambda x, _: 1.5 * x), file)
    check = Check(variant=Variant(engine="torch", dtype="float32", threads=1), ok=None)
    run = EngineRun.__new__(EngineRun)
    run.model = SimpleNamespace(synthetic=False)  # type: ignore[assignment]
    for found, where in [(bad, "in slots: "), (good, "")][:: 1 if first else -1]:
        run.judge(check, found, where)
    assert (check.ok, check.agreement) == (False, bad)
    assert (check.reason or "").startswith("in slots: ")


def test_logits_that_are_not_finite_are_counted_and_never_pass(tmp_path: Path) -> None:
    file = reference(tmp_path)

    def change(logits: Any, batch: int) -> Any:
        logits[0, 7] = np.nan
        return logits

    found = agreement.compare(Recorded(file, change), file)
    assert found.not_finite == 12 + 10
    assert found.positions == 2 * 12
    again = msgspec.json.decode(msgspec.json.encode(found), type=Agreement)
    assert again == found
    loose = agreement.bounds("int4", "synthetic")
    assert agreement.shortfalls(found, loose) == ["logits that are not finite at 22 positions"]


def test_nothing_compared_is_not_agreement() -> None:
    wanted = agreement.bounds("int4", "synthetic")
    assert agreement.shortfalls(measured(positions=0), wanted) == ["no position was compared"]


def test_a_slow_engine_is_judged_by_fewer_positions(tmp_path: Path) -> None:
    file = reference(tmp_path)
    found = agreement.compare(Recorded(file), file, limit_s=0)
    assert [p.positions for p in found.parts] == [4, 4, 4, 4]


def test_logits_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    file = reference(tmp_path)
    with pytest.raises(ArmbenchError, match=r"\(3, 49\).* 3 rows of 50"):
        agreement.compare(Recorded(file, lambda logits, _: logits[:, :-1]), file)


@given(LOGITS, LOGITS, st.floats(-50, 50), st.integers(0, 11))
def test_only_differences_between_logits_count(
    ours: Any, theirs: Any, shift: float, token: int
) -> None:
    plain = figures.position(ours, theirs, token)
    moved = figures.position(ours.astype(np.float64) + shift, theirs, token)
    assert plain is not None
    assert moved is not None
    assert moved.kl == pytest.approx(plain.kl, abs=1e-9)
    assert moved.nats == pytest.approx(plain.nats, abs=1e-9)
    assert moved.error == pytest.approx(plain.error, rel=1e-6, abs=1e-9)
    assert plain.kl >= -1e-12
    assert plain.nats >= 0


@pytest.mark.parametrize("weights", ["synthetic", "checkpoint"])
def test_every_dtype_of_every_engine_has_bounds(weights: Any) -> None:
    for name in engines.names():
        if name != "fake":
            for dtype in engines.module(name).DTYPES:
                agreement.bounds(dtype, weights)


def test_a_dtype_without_bounds_is_named_with_what_to_do() -> None:
    with pytest.raises(ArmbenchError, match="no bounds for dtype 'int1'") as raised:
        agreement.bounds("int1", "checkpoint")
    assert "dtypes" in (raised.value.hint or "")


def test_float32_that_multiplies_in_bfloat16_is_judged_as_bfloat16() -> None:
    assert kind("float32") == kind("float32", "f32") == "float32"
    assert kind("float32", "bf16") == "bfloat16"
    assert kind("int8", "bf16") == "int8"


def test_fewer_bits_are_never_held_to_a_tighter_bound() -> None:
    order = ["float32", "float16", "bfloat16", "int8", "int4"]
    for weights in ("synthetic", "checkpoint"):
        found = [agreement.bounds(dtype, weights) for dtype in order]
        for tight, loose in itertools.pairwise(found):
            assert tight.error <= loose.error
            assert (tight.kl_mean or 0) <= (loose.kl_mean or math.inf)
            assert (tight.top1 or 1) >= (loose.top1 or 0)
            assert (tight.perplexity_ratio or 1) <= (loose.perplexity_ratio or math.inf)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"top1": 0.5}, "same next token at 50.0%"),
        ({"kl_mean": 5.0}, "mean KL 5 nats"),
        ({"error": 2.0}, "error is 2 standard deviations"),
        ({"delta_max": 90.0}, "largest .* 45 standard deviations"),
        ({"perplexity_ratio": 3.0}, "3 times the reference's"),
        ({"kl_mean": math.nan}, "mean KL nan"),
    ],
)
def test_each_figure_out_of_bounds_is_a_shortfall(changes: dict[str, Any], words: str) -> None:
    wanted = agreement.bounds("float32", "checkpoint")
    assert agreement.shortfalls(measured(), wanted) == []
    (reason,) = agreement.shortfalls(measured(**changes), wanted)
    assert re.search(words, reason)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"error": 0.1, "int4_error": 0.04}, "2.5 times that of plain rounding"),
        ({"stretch": 1.05}, "spread 1.05 times as wide"),
        ({"stretch": 0.9}, "spread 0.9 times as wide"),
    ],
)
def test_4_bits_are_held_against_plain_rounding_and_an_even_scale(
    changes: dict[str, Any], words: str
) -> None:
    wanted = agreement.bounds("int4", "checkpoint")
    plain = measured(error=0.1, int4_error=0.08, stretch=1.005)
    assert agreement.shortfalls(plain, wanted) == []
    (reason,) = agreement.shortfalls(measured(**changes), wanted)
    assert words in reason


def test_the_texts_are_of_several_languages_and_code_and_train_no_tokenizer() -> None:
    found = shipped_texts()
    assert {"english", "german", "spanish", "chinese", "arabic", "python", "c"} <= set(found)
    _, trained_on = synthetic.identity()
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in found.values()]
    assert set(digests).isdisjoint(trained_on)


def test_the_samples_are_the_checkpoints_own_tokens_in_two_passes(qwen3: Path) -> None:
    found = agreement.samples(qwen3, 4096, synthetic=False)
    batch, alone = found.passes
    assert found.meaningless is None
    assert len(batch.rows) == len(shipped_texts())
    assert len(alone.rows) == 1
    assert {len(row) for row in batch.rows} == {batch.prefix + batch.positions}
    decode = Tokenizer.from_file(str(qwen3 / "tokenizer.json")).decode
    for name, row in zip(batch.names, batch.rows, strict=True):
        assert shipped_texts()[name].startswith(decode(row).rstrip("\ufffd"))
    assert found == agreement.samples(qwen3, 4096, synthetic=False)


def test_without_a_tokenizer_the_tokens_are_numbered_and_mean_nothing(
    qwen3: Path, tmp_path: Path
) -> None:
    found = agreement.samples(tmp_path, 4096, synthetic=False)
    shapes = [(len(p.rows), len(p.rows[0]), p.prefix) for p in found.passes]
    like = agreement.samples(qwen3, 4096, synthetic=False).passes
    assert shapes == [(len(p.rows), len(p.rows[0]), p.prefix) for p in like]
    assert all(0 <= token < 4096 for p in found.passes for row in p.rows for token in row)
    assert "no tokenizer" in (found.meaningless or "")
    foreign = agreement.samples(qwen3, 100, synthetic=False)
    assert foreign.meaningless == found.meaningless
