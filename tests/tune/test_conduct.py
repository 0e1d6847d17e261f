"""What a search does with what it decided, its engines and processes pretended."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.records.run import Check, Variant
from harness.records.tune import Candidate, Left, Probe, Tune
from harness.tune.candidates import Candidates
from harness.tune.conduct import Tuning
from harness.tune.knowing import known_of
from harness.tune.search import ReviveMove, Rules, TrialMove
from tests.test_bounds import result
from tests.tune.test_space import asked


class Pretended:
    """A run that checks nothing: every variant gets `told`, which stands in a `Check`."""

    def __init__(self, tune: Tune, reference: Path | None = Path("x"), **told: Any) -> None:
        self.result = result()
        self.result.trials, self.result.checks, self.result.tune = [], [], tune
        self.result.calibrations = [None]  # type: ignore[list-item]
        self.plan = self.result.plan
        self.told, self.made, self.file = told, list[Variant](), reference
        self.listener: Any = SimpleNamespace(
            checked=lambda *_: None,
            left_out=lambda *_: None,
            phase=lambda *_: None,
            say=lambda *_: None,
            tried=lambda *_: None,
        )

    def reference(self) -> Path:
        from harness.engine_process import EngineFailed

        if self.file is None:
            raise EngineFailed("no transformers here")
        return self.file

    def prepare_variant(self, variant: Variant, reference: Path | str) -> Any:
        self.made.append(variant)
        told = {"ok": None, "load_s": 1.0, "reason": None, **self.told}
        if isinstance(reference, str):
            told["reason"] = reference
        return SimpleNamespace(check=Check(variant=variant, **told))


def search(*candidates: Candidate, **changes: Any) -> Tune:
    return Tune(
        asked=asked(**changes), candidates=list(candidates), lengths=asked(**changes).lengths
    )


def tuning(run: Pretended) -> Tuning:
    tune = run.result.tune
    assert tune is not None
    one = Tuning.__new__(Tuning)
    one.run, one.tune, one.listener = run, tune, run.listener  # type: ignore[assignment]
    plans: dict[int, Any] = {
        index: SimpleNamespace(cases=[SimpleNamespace(variant=variant(c))])
        for index, c in enumerate(tune.candidates)
    }
    one.hands = Candidates(run, tune, plans)  # type: ignore[arg-type]
    one.rules = Rules(budget_s=tune.asked.budget_s)
    return one


def variant(one: Candidate) -> Variant:
    return Variant(engine=one.engine, dtype=one.dtype, threads=one.threads, options=one.options)


def onnx(threads: int, **options: Any) -> Candidate:
    return Candidate(engine="onnxruntime", dtype="int8", threads=threads, options=options)


def test_one_trial_is_not_spent_on_an_equal_of_what_failed_its_check() -> None:
    """It was out as slower when the check was made, and is looked at again since."""
    tune = search(onnx(2, int8="dynamic"), onnx(1, int8="dynamic"), onnx(2))
    run = Pretended(tune, ok=False, reason="mean KL 0.9")
    one, tried = tuning(run), []
    one.hands.trial = lambda index, _: tried.append(index)  # type: ignore[assignment,method-assign]
    tune.left = [Left(candidates=[1], why="slower", reason="by a probe")]
    one._try(TrialMove(0, 0))
    one._revive(ReviveMove((1,), 1))
    one._try(TrialMove(1, 0))
    assert tried == []
    assert len(run.made) == 1
    assert {(c, left.why) for left in tune.left for c in left.candidates} == {
        (0, "quality"),
        (1, "quality"),
    }


def test_lengths_are_shortened_though_something_was_barred_from_the_start() -> None:
    """The first move of such a search looks whom that brings back."""
    tune = search(onnx(2), lengths=(2048, 256), budget_s=60.0)
    one = tuning(Pretended(tune))
    assert not one._fitted(known_of(one.result, [[0]]), ReviveMove((), 1))
    tune.probes = [
        Probe(candidate=0, rung=0, prefill_s=9.0, step_s=0.1, load_s=5.0, input_tokens=512)
    ]
    assert one._fitted(known_of(one.result, [[0]]), TrialMove(0, 0))
    assert tune.lengths < (2048, 256)


def told(one: Tuning) -> list[tuple[list[int], str, str]]:
    return [(left.candidates, left.why, left.reason) for left in one.tune.left]


def test_what_crashes_when_it_is_compared_cannot_win() -> None:
    one = tuning(Pretended(search(onnx(2), onnx(1)), reason="'compare' failed: boom"))
    one._try(TrialMove(0, 0))
    assert told(one) == [([0, 1], "quality", "could not be checked: 'compare' failed: boom")]


def test_without_a_reference_and_for_the_fake_engine_nothing_is_left_out_unchecked() -> None:
    one = tuning(Pretended(search(onnx(2)), reference=None))
    assert one.hands.check(0) is None
    fake = Candidate(engine="fake", dtype="float32", threads=1)
    assert tuning(Pretended(search(fake), reason="it computes nothing")).hands.check(0) is None


def test_a_probe_above_its_limit_ends_the_trust_in_limits_of_its_compute_type() -> None:
    every = [onnx(2), onnx(1), Candidate(engine="torch", dtype="float32", threads=2)]
    tune = search(*every)
    one = tuning(Pretended(tune))
    tune.limits = [20.0, 15.0, 10.0]
    near = Probe(candidate=0, rung=0, prefill_s=0.0, step_s=0.05, load_s=1.0, input_tokens=512)
    assert one.hands.doubt_limits([near]) is None  # 20.2 tok/s: within what a kernel may gain
    above = Probe(candidate=0, rung=0, prefill_s=0.0, step_s=0.04, load_s=1.0, input_tokens=512)
    note = one.hands.doubt_limits([above])
    assert note is not None
    assert "no limit of" in note
    assert tune.limits == [None, None, 10.0]
