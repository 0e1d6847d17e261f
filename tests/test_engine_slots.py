"""Engines that serve: sequences come and go, and each gets the tokens that it gets alone."""

from __future__ import annotations

import os
import platform
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from harness import conversion, engines
from harness.engines import EngineSpec, Feed, fake
from harness.engines._slots import SlotLengths
from harness.errors import ArmbenchError
from harness.model import checkpoint, synthetic
from harness.model.architecture import dimensions
from harness.records.load import ServeSetting
from harness.records.run import Variant
from tests.conftest import tiny_config

CPUS = sorted(os.sched_getaffinity(0))[:2]
VOCABULARY, CONTEXT, SLOTS = 4096, 300, 5
MIXES = 3  # of nine requests each
SETTINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "torch": ("torch", "float32", {}),
    "torch unpacked": ("torch", "float32", {"packed": False}),
    "torch bfloat16": ("torch", "bfloat16", {}),
    "torch int8": ("torch", "int8", {}),
    "torch int4": ("torch", "int4", {"kernel": "int4pack"}),
    "onnxruntime": ("onnxruntime", "float32", {}),
    "onnxruntime int8": ("onnxruntime", "int8", {}),
    "onnxruntime int4": ("onnxruntime", "int4", {}),
    "fake": ("fake", "float32", {"step_s": 0.0, "prefill_s_per_token": 0.0}),
}
TRIED = [
    *(("qwen2", name) for name in SETTINGS),
    *(("qwen3", name) for name in ("torch", "onnxruntime", "onnxruntime int4")),
    *(("wide", name) for name in ("torch", "torch bfloat16")),
]


def spec_for(folder: Path, engine: str, dtype: str, options: dict[str, Any]) -> EngineSpec:
    variant = Variant(
        engine=engine,
        dtype=dtype,
        threads=len(CPUS),
        options=engines.resolve_options(engine, options),
    )
    opened = checkpoint.open_folder(folder)
    key = checkpoint.fingerprint(checkpoint.identify(opened))
    prepared, _ = conversion.prepare(variant, opened, key, CPUS)
    return EngineSpec(
        engine=engine,
        checkpoint=str(folder),
        dtype=dtype,
        cpus=CPUS,
        options=variant.options,
        prepared=str(prepared) if prepared else None,
    )


def in_child(work: Callable[..., Any], spec: EngineSpec, *arguments: Any) -> Any:
    """What `work` returns for the loaded engine of `spec`, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_with_engine, work, spec, *arguments).result(timeout=120)


def _with_engine(work: Callable[..., Any], spec: EngineSpec, *arguments: Any) -> Any:
    module = engines.module(spec.engine)
    os.environ.update(module.environment(spec.cpus, spec.options))
    os.sched_setaffinity(0, spec.cpus)
    return work(module.load(spec), *arguments)


class Request(NamedTuple):
    prompt: list[int]
    output: int


class Got(NamedTuple):
    tokens: list[int]
    logits: list[bytes]


def requests_of(seed: int) -> list[Request]:
    chance = random.Random(seed)
    return [
        Request(
            [
                chance.randrange(VOCABULARY)
                for _ in range(chance.choice((1, 2, 30, 63, 64, 65, 150)))
            ],
            chance.randint(1, 16),
        )
        for _ in range(9)
    ]


def alone(engine: Any, request: Request) -> Got:
    """Through the slots, in steps of its own, the prompt in one chunk."""
    got = Got([], [])
    tokens: list[int] = request.prompt
    while len(got.tokens) < request.output:
        tokens = engine.step([Feed(2, tokens)])
        got.tokens.append(tokens[0])
        got.logits.append(engine.logits()[0].tobytes())
    engine.release(2)
    return got


def plainly(engine: Any, request: Request) -> list[int]:
    """Through prefill and decode."""
    engine.allocate(1, CONTEXT)
    tokens = engine.prefill(np.array([request.prompt]))
    made = [int(tokens[0])]
    while len(made) < request.output:
        tokens = engine.decode(tokens)
        made.append(int(tokens[0]))
    return made


class Mix:
    """Requests at random times in random slots, cut at random, some left out of a step, some
    forgotten half way and sent again, wrong feeds between."""

    CHUNKS = (1, 2, 7, 16, 31, 64, 100)

    def __init__(self, engine: Any, requests: list[Request], seed: int) -> None:
        self.engine, self.requests, self.chance = engine, requests, random.Random(seed)
        self.waiting = list(range(len(requests)))
        self.running: dict[int, int] = {}  # slot: request
        self.filled = [0] * len(requests)
        self.got = [Got([], []) for _ in requests]
        self.forgotten = 0

    def run(self) -> list[Got]:
        while self.waiting or self.running:
            self.arrive()
            feeds = [
                self.feed(*item) for item in self.running.items() if self.chance.random() < 0.85
            ]
            self.chance.shuffle(feeds)
            if self.chance.random() < 0.2:
                self.refused([*feeds, Feed(SLOTS, [1])])
            self.take(feeds, self.engine.step(feeds))
            if self.running and self.forgotten < 3 and self.chance.random() < 0.1:
                self.forget(self.chance.choice(list(self.running)))
        return self.got

    def arrive(self) -> None:
        free = sorted(set(range(SLOTS)) - set(self.running))
        while self.waiting and free and self.chance.random() < 0.6:
            slot = free.pop(self.chance.randrange(len(free)))
            self.running[slot] = self.waiting.pop(0)

    def feed(self, slot: int, index: int) -> Feed:
        prompt, filled = self.requests[index].prompt, self.filled[index]
        if filled == len(prompt):
            return Feed(slot, self.got[index].tokens[-1:])
        part = prompt[filled : filled + self.chance.choice(self.CHUNKS)]
        return Feed(slot, part, filled + len(part) == len(prompt))

    def take(self, feeds: list[Feed], tokens: list[int | None]) -> None:
        logits = iter(self.engine.logits()) if any(f.wanted for f in feeds) else iter(())
        for feed, token in zip(feeds, tokens, strict=True):
            index = self.running[feed.slot]
            if self.filled[index] < len(self.requests[index].prompt):
                self.filled[index] += len(feed.tokens)
            if not feed.wanted:
                assert token is None
                continue
            assert token is not None
            self.got[index].tokens.append(token)
            self.got[index].logits.append(next(logits).tobytes())
            if len(self.got[index].tokens) == self.requests[index].output:
                self.engine.release(feed.slot)
                del self.running[feed.slot]

    def forget(self, slot: int) -> None:
        self.engine.release(slot)
        index = self.running.pop(slot)
        self.got[index], self.filled[index] = Got([], []), 0
        self.waiting.append(index)
        self.forgotten += 1

    def refused(self, feeds: list[Feed]) -> None:
        with pytest.raises(ArmbenchError):
            self.engine.step(feeds)


def mixed(engine: Any) -> tuple[list[Got], list[Got], list[list[int]]]:
    """(alone, in a mix, by the plain protocol) of each request of some mixes."""
    by_itself, together, plain = [], [], []
    engine.open_slots(SLOTS, CONTEXT)
    for seed in range(MIXES):
        requests = requests_of(seed)
        by_itself += [alone(engine, request) for request in requests]
        together += Mix(engine, requests, seed).run()
    for seed in range(MIXES):
        plain += [plainly(engine, request) for request in requests_of(seed)]
    return by_itself, together, plain


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2.5 with sums so long that oneDNN cuts them among threads for a single row."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    synthetic.build(folder, tiny_config("qwen2.5-7b", intermediate_size=8192))
    return folder


@pytest.fixture(scope="session")
def mixes(qwen2: Path, qwen3: Path, wide: Path) -> Callable[[str, str], Any]:
    """`mixed` by model and setting, each computed once."""
    folders = {"qwen2": qwen2, "qwen3": qwen3, "wide": wide}

    @cache
    def of(model: str, setting: str) -> Any:
        return in_child(mixed, spec_for(folders[model], *SETTINGS[setting]))

    return of


@pytest.mark.engine
@pytest.mark.parametrize(("model", "setting"), TRIED)
def test_a_sequence_gets_the_tokens_it_gets_alone_whatever_else_a_step_holds(
    model: str, setting: str, mixes: Callable[[str, str], Any]
) -> None:
    by_itself, together, _ = mixes(model, setting)
    assert [got.tokens for got in together] == [got.tokens for got in by_itself]
    assert sum(len(got.tokens) for got in together) > 9 * MIXES


@pytest.mark.engine
@pytest.mark.parametrize(("model", "setting"), [t for t in TRIED if t[1] != "torch bfloat16"])
def test_slots_give_the_tokens_of_prefill_and_decode(
    model: str, setting: str, mixes: Callable[[str, str], Any]
) -> None:
    by_itself, _, plain = mixes(model, setting)
    assert [got.tokens for got in by_itself] == plain


@pytest.mark.engine
@pytest.mark.skipif(platform.machine() != "x86_64", reason="seen with oneDNN's x86 kernels only")
@pytest.mark.parametrize(
    ("model", "setting"), [t for t in TRIED if t[1] in ("torch", "torch bfloat16")]
)
def test_on_packed_torch_layers_not_one_bit_depends_on_the_mix(
    model: str, setting: str, mixes: Callable[[str, str], Any]
) -> None:
    by_itself, together, _ = mixes(model, setting)
    assert [got.logits for got in together] == [got.logits for got in by_itself]


def rows_after_a_release(engine: Any) -> tuple[dict[int, int], list[int | None]]:
    engine.open_slots(4, 64)
    prompts = [[9, 8, 7], [6, 5], [4, 3, 2, 1]]
    (alone,) = engine.step([Feed(3, prompts[2])])
    tokens = [alone, engine.step([Feed(3, [alone])])[0]]
    engine.release(3)
    engine.step([Feed(slot, prompt) for slot, prompt in enumerate(prompts)])
    engine.release(1)
    tokens += engine.step([Feed(0, [1]), Feed(2, [alone])])[1:]
    return engine.slots.rows, tokens


@pytest.mark.engine
def test_the_last_sequence_moves_into_a_hole_and_goes_on(qwen2: Path) -> None:
    """So that a run of ONNX Runtime computes no row for nothing."""
    rows, tokens = in_child(rows_after_a_release, spec_for(qwen2, "onnxruntime", "float32", {}))
    assert rows == {0: 0, 2: 1}
    assert tokens[1] == tokens[2]


def unused_slots(engine: Any) -> tuple[int, int]:
    """(bytes that opening slots of 2 GiB of KV took, bytes that one token in each took)."""
    status = Path("/proc/self/statm")
    pages = [int(status.read_text().split()[1])]
    slots = 2**31 // (
        2 * 2 * 2 * 16 * 4 * CONTEXT
    )  # of two layers, keys and values, two heads of 16
    engine.open_slots(slots, CONTEXT)
    pages.append(int(status.read_text().split()[1]))
    engine.step([Feed(slot, [1]) for slot in range(0, slots, slots // 4)])
    pages.append(int(status.read_text().split()[1]))
    page = os.sysconf("SC_PAGE_SIZE")
    return (pages[1] - pages[0]) * page, (pages[2] - pages[1]) * page


@pytest.mark.engine
@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_slots_take_memory_when_they_are_used(engine: str, qwen2: Path) -> None:
    opened, _ = in_child(unused_slots, spec_for(qwen2, engine, "float32", {}))
    assert opened < 200 * 2**20


def opened_slots(engine: Any) -> str:
    try:
        engine.step([Feed(0, [1])])
    except ArmbenchError as error:
        first = error.message
    try:
        engine.open_slots(2, 8)
    except ArmbenchError as error:
        return f"{first}; {error.message}; {error.hint}"
    return first


@pytest.mark.engine
@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "fake"])
def test_a_step_before_slots_are_open_says_so(engine: str, qwen2: Path) -> None:
    assert in_child(opened_slots, spec_for(qwen2, engine, "float32", {})) == "no slots are open"


@pytest.mark.engine
def test_a_growing_cache_cannot_serve_and_says_what_can(qwen2: Path) -> None:
    spec = spec_for(qwen2, "onnxruntime", "float32", {})
    spec.options["exporter"] = "optimum"  # on the other's graph: it is refused before it runs
    assert "take exporter builder" in in_child(opened_slots, spec)


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ([Feed(4, [1])], "there is no slot 4"),
        ([Feed(-1, [1])], "there is no slot -1"),
        ([Feed(0, [1]), Feed(1, [1]), Feed(0, [1])], "slot 0 was fed twice"),
        ([Feed(0, [])], "slot 0 was fed no token"),
        ([Feed(0, [1, 100])], "slot 0 was fed tokens from 1 to 100"),
        ([Feed(0, [-1])], "slot 0 was fed tokens from -1 to -1"),
        ([Feed(1, [1] * 5)], "slot 1 holds 6 tokens and was fed 5 more, with room for 10"),
        ([Feed(0, [1] * 11)], "slot 0 holds 0 tokens and was fed 11 more, with room for 10"),
    ],
)
def test_a_feed_that_cannot_be_passed_is_refused_in_plain_words(
    feeds: list[Feed], words: str
) -> None:
    slots = SlotLengths(4, 10, 100)
    slots.passed([Feed(1, [1] * 6)])
    with pytest.raises(ArmbenchError, match=words):
        slots.check([Feed(2, [3]), *feeds])
    assert slots.held == [0, 6, 0, 0]


def test_a_full_slot_is_empty_again_after_its_release() -> None:
    slots = SlotLengths(1, 10, 100)
    full = [Feed(0, [1] * 10)]
    slots.check(full)
    slots.passed(full)
    with pytest.raises(ArmbenchError):
        slots.check([Feed(0, [1])])
    slots.release(0)
    slots.check(full)
    with pytest.raises(ArmbenchError, match="there is no slot 1"):
        slots.release(1)


def test_slots_must_be_at_least_one() -> None:
    with pytest.raises(ArmbenchError, match="0 slots of 10 tokens"):
        SlotLengths(0, 10, 100)


class Clock:
    """Stands in for the fake engine's threads: notes for how long they were to compute."""

    def __init__(self, _: Any) -> None:
        self.asked: list[float] = []

    def compute(self, seconds: float) -> None:
        self.asked.append(seconds)


@pytest.fixture
def model(qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The fake engine with times of 1 s a step, 0.1 s a row, 0.01 s a prompt token."""
    monkeypatch.setattr(fake, "_Threads", Clock)
    options = {"step_s": 1.0, "row_s": 0.1, "prefill_s_per_token": 0.01}
    engine: Any = fake.load(spec_for(qwen3, "fake", "float32", options))
    engine.open_slots(3, 64)
    return engine


def test_a_step_of_the_fake_engine_takes_what_its_rows_and_prompt_tokens_take(model: Any) -> None:
    model.step([Feed(0, [1] * 20), Feed(1, [5])])  # a prompt of one token is a prompt
    model.step([Feed(0, [7]), Feed(1, [7])])
    model.step([Feed(0, [7]), Feed(1, [7]), Feed(2, [1] * 30, wanted=False)])
    model.step([Feed(2, [1, 2])])
    assert model.threads.asked == pytest.approx([0.21, 1.2, 1.5, 0.02])


def test_a_batch_of_the_fake_engine_takes_what_its_rows_take(model: Any) -> None:
    model.prefill(np.ones((2, 10), dtype=np.int64))
    model.decode(np.ones(2, dtype=np.int64))
    assert model.threads.asked == pytest.approx([0.2, 1.2])


def test_only_a_step_that_decodes_counts_towards_the_fake_engines_fault(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "fault", "error")
    monkeypatch.setitem(model.spec.options, "fault_step", 2)
    model.step([Feed(0, [1, 2])])
    model.step([Feed(0, [3])])
    with pytest.raises(RuntimeError, match="failing as asked"):
        model.step([Feed(0, [3])])


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_serving_needs_memory_for_full_slots_but_for_one_chunk_of_prompts_only(engine: str) -> None:
    d = dimensions(checkpoint.builtin_config("qwen2.5-0.5b"))
    options = engines.resolve_options(engine, {})

    def needed(slots: int, chunk: int) -> int:
        serve = ServeSetting(slots=slots, context=4096, chunk=chunk, kv_tokens=slots * 4096)
        return engines.serving_bytes(engine, d, "float32", serve, options)

    kv = 2 * d.layers * d.kv_heads * d.head * 4096 * 4
    assert kv * 8 < needed(16, 512) - needed(8, 512) < kv * 8.2
    assert needed(8, 512) < engines.module(engine).memory_bytes(d, "float32", 8, 4096, options)
    assert needed(8, 512) < needed(8, 1024)


def test_an_engine_without_an_estimate_of_its_own_needs_what_its_slots_need_at_once() -> None:
    serve = ServeSetting(slots=2, context=64, chunk=16, kv_tokens=128)
    options = engines.resolve_options("fake", {"memory_bytes": 12345})
    d = dimensions(checkpoint.builtin_config("qwen2.5-0.5b"))
    assert engines.serving_bytes("fake", d, "float32", serve, options) == 12345
