"""The answer drawn from stored probes and trials: who wins, who may, who must not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from harness import store
from harness.cli.tune import _exit as exit_of
from harness.errors import Exit
from harness.load.slo import parse_slo
from harness.records.run import Case, Check, LoadPoint, Result, Trial, Variant
from harness.records.tune import Candidate, Left, Probe, Standing, Tune
from harness.reports.sheet import Sheet
from harness.reports.tune import tune_sheets
from harness.tune import outcome, writing
from harness.tune.search import Rules
from tests.test_bounds import result as bare_result
from tests.test_metrics import record
from tests.test_metrics import trial as of_records
from tests.tune.test_space import asked


def trial(case: int, repeat: int, step_ms: float, batch: int = 1, prefill_ms: int = 10) -> Trial:
    """A batch whose five tokens come `step_ms` apart."""
    tokens = [prefill_ms + round(step_ms * n) for n in range(5)]
    one = of_records(*(record(i, 0, 0, 0, tokens, slot=i) for i in range(batch)), repeat=repeat)
    one.case = case
    return one


def searched(
    steps: Sequence[Sequence[float]], candidates: Sequence[Candidate], **changes: Any
) -> Result:
    """A result whose candidates had trials with steps of these milliseconds."""
    found = bare_result()
    found.plan.cases = [
        Case(
            id=i,
            variant=Variant(engine=c.engine, dtype=c.dtype, threads=c.threads),
            load=LoadPoint(
                kind="offline", batch=c.batch, input_tokens=100, output_tokens=5, requests=1
            ),
        )
        for i, c in enumerate(candidates)
    ]
    found.trials = [
        trial(i, n, step, candidates[i].batch)
        for i, mine in enumerate(steps)
        for n, step in enumerate(mine)
    ]
    found.tune = Tune(
        asked=asked(lengths=(100, 5), **changes), candidates=list(candidates), lengths=(100, 5)
    )
    return found


def engines(*threads: int, **changes: Any) -> list[Candidate]:
    return [Candidate(engine="torch", dtype="float32", threads=t, **changes) for t in threads]


def test_the_winner_comes_first_and_losers_have_their_ratio() -> None:
    result = searched([[40, 41, 40], [20, 20, 21], [60, 61, 60]], engines(1, 2, 4))
    answer = outcome.draw(result, Rules())
    assert answer.winner == 1
    assert answer.standings[0].candidate == 1
    assert (answer.tied, answer.open) == ([], [])
    assert [(s.here, s.there) for s in answer.steps if s.knob == "threads"] == [
        ("2", "1"),
        ("2", "4"),
    ]
    slower = answer.steps[0]
    assert slower.basis == "trials"
    assert slower.ratio is not None
    assert slower.low is not None
    assert slower.high is not None
    assert slower.low < slower.ratio < slower.high < 1


def test_what_trials_cannot_tell_apart_is_said() -> None:
    result = searched([[40, 44, 36], [41, 36, 43]], engines(1, 2))
    answer = outcome.draw(result, Rules())
    assert len(answer.tied) == 1
    assert answer.open == answer.tied


@pytest.mark.parametrize("why", ["quality", "slo", "failed", "disturbed"])
def test_the_fastest_does_not_win_where_something_is_wrong_with_it(why: Any) -> None:
    result = searched([[10, 10, 10], [20, 20, 20]], engines(1, 2))
    assert result.tune is not None
    result.tune.left = [Left(candidates=[0], why=why, reason="so")]
    answer = outcome.draw(result, Rules())
    assert answer.winner == 1
    assert 0 in {s.candidate for s in answer.standings}


def test_a_broken_promise_cannot_win_even_by_one_trial() -> None:
    slo = parse_slo("tpot:p99<=30ms")
    result = searched([[40], [50]], engines(1, 2), slo=slo)
    assert outcome.draw(result, Rules()).winner is None
    result = searched([[40], [20]], engines(1, 2), slo=slo)
    answer = outcome.draw(result, Rules())
    assert answer.winner == 1
    assert answer.standings[0].kept is True


def test_invalid_trials_are_in_no_figure() -> None:
    result = searched([[10, 40], [20, 20]], engines(1, 2))
    result.trials[0].invalid = ["disturbed"]
    answer = outcome.draw(result, Rules())
    assert answer.winner == 1
    assert next(s.n for s in answer.standings if s.candidate == 0) == 1


def test_equal_steps_are_decided_by_the_first_token() -> None:
    result = searched([[20, 20, 20], [20, 20, 20]], engines(1, 2), objective="latency")
    for one in result.trials[:3]:
        for each in one.records:
            each.due_ns -= 50_000_000
    answer = outcome.draw(result, Rules())
    assert (answer.winner, answer.tied) == (1, [0])


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    def standing(c: int, rate: float, tpot: float, basis: Any = "trials") -> Standing:
        return Standing(
            candidate=c, basis=basis, score=rate, low=rate, high=rate, n=1,
            output_tok_per_s=rate, tpot_s=tpot,
        )  # fmt: skip

    every = [standing(0, 10, 0.1), standing(1, 40, 0.4), standing(2, 30, 0.5), standing(3, 8, 0.2)]
    assert outcome.front(every) == [0, 1]
    assert outcome.front([*every, standing(4, 99, 0.01, "probes")]) == [0, 1]


def test_probes_answer_where_there_is_no_trial_and_say_so() -> None:
    result = searched([[20, 20], []], engines(1, 2))
    assert result.tune is not None
    for c, step_s in ((0, 0.02), (1, 0.03)):
        result.tune.probes.append(
            Probe(candidate=c, rung=0, prefill_s=0.01, step_s=step_s, load_s=1.0, input_tokens=100)
        )
    answer = outcome.draw(result, Rules())
    assert [s.basis for s in answer.standings] == ["trials", "probes"]
    assert answer.steps[0].basis == "probes"


def test_a_faster_one_that_was_always_disturbed_leaves_the_answer_in_doubt() -> None:
    result = searched([[20, 20], [10]], engines(1, 2))
    assert result.tune is not None
    result.trials[-1].invalid = ["other processes used 1 of 2 CPUs"]
    probe = Probe(candidate=1, rung=0, prefill_s=0.01, step_s=0.01, load_s=1.0, input_tokens=100)
    result.tune.probes = [probe]
    result.tune.left = [Left(candidates=[1], why="disturbed", reason="so")]
    result.tune.answer = outcome.draw(result, Rules())
    assert (result.tune.answer.winner, result.tune.answer.unmeasured) == (0, [1])
    assert "looked faster in short probes" in texts(tune_sheets(result))
    result.tune.left[0].why = "slower"
    assert outcome.draw(result, Rules()).unmeasured == []


@pytest.mark.parametrize(("engine", "doubted"), [("torch", True), ("fake", False)])
def test_a_winner_without_a_reference_leaves_the_answer_inconclusive(
    engine: str, doubted: bool
) -> None:
    every = [Candidate(engine=engine, dtype="float32", threads=1)]
    result = searched([[20, 20, 20]], every)
    assert result.tune is not None
    check = Check(variant=result.plan.cases[0].variant, ok=None, load_s=1.0)
    check.reason = "no reference: transformers is not installed"
    result.checks = [check]
    answer = result.tune.answer = outcome.draw(result, Rules())
    assert answer.winner == 0
    assert ("not checked for quality: no reference" in texts(tune_sheets(result))) is doubted
    assert exit_of(result) == (Exit.INCONCLUSIVE if doubted else Exit.FINE)
    check.ok, check.reason = True, None
    assert outcome.draw(result, Rules()).unchecked is None


def texts(sheets: Sequence[Sheet]) -> str:
    return "\n".join(
        [cell for s in sheets for row in s.rows for cell in row]
        + [note for s in sheets for note in s.notes]
    )


def test_the_tables_tell_winner_interval_rivals_and_what_was_left_out() -> None:
    result = searched([[40, 41, 40], [20, 21, 20]], engines(1, 2))
    assert result.tune is not None
    result.tune.left = [Left(candidates=[0], why="slower", reason="it is slower")]
    result.tune.stopped = "decided"
    result.tune.answer = outcome.draw(result, Rules())
    writing.complete(result.tune)
    told = texts(tune_sheets(result))
    assert "torch float32 2T ×1: 5" in told
    assert "by 3 trials" in told
    assert "it is slower" in told
    assert "ended: decided" in told


def test_a_search_survives_its_file(tmp_path: Any) -> None:
    result = searched([[40, 41], [20, 21]], engines(1, 2), slo=parse_slo("server"))
    assert result.tune is not None
    result.tune.answer = outcome.draw(result, Rules())
    store.save(result, tmp_path / "x.json")
    assert store.load(tmp_path / "x.json").tune == result.tune
