"""What a probe tells of a candidate, on an engine whose times are made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.load.slo import parse_slo
from harness.records.tune import Probe, Tune
from harness.tune import fitting
from harness.tune.knowing import known_of
from harness.tune.probing import Job, Prober
from harness.tune.search import Rules
from tests.test_bounds import result
from tests.tune.test_space import asked
from tests.tune.test_worth import SIZES, candidate

PROMISED = {"load": "closed", "slo": parse_slo("ttft:p90<=2s,tpot:p90<=200ms")}


class Timed(Prober):
    """0.2 ms for each token of a prompt, 10 ms for a step, and `once` for the first request."""

    def __init__(self, once_s: float, lengths: tuple[int, int] = (512, 128)) -> None:
        self.job = Job(lengths=lengths, sizes=SIZES, stored=None, seed=1, rung=0)
        self.crew: Any = SimpleNamespace(each=lambda work: None)
        self.load_s, self.once_s = 1.0, once_s
        self.longest = 0

    def _time(self, batch: int, tokens: int, steps: int) -> tuple[float, float]:
        extra_s, self.once_s = self.once_s, 0.0
        self.longest = max(self.longest, tokens + steps)
        return batch * tokens * 0.0002 + extra_s, 0.01 + extra_s


@pytest.mark.parametrize("once_s", [0.0, 1.0, 10.0])
def test_a_cold_first_request_does_not_shorten_the_prompt_of_a_probe(once_s: float) -> None:
    probe = Timed(once_s).probe(0, 1)
    assert probe.input_tokens == 512
    assert probe.prefill_s == pytest.approx(512 * 0.0002)
    assert probe.step_s == pytest.approx(0.01)


@pytest.mark.parametrize("lengths", [(16, 1), (1, 1), (4, 2), (512, 128)])
def test_no_request_of_a_probe_stores_more_tokens_than_are_asked_for(
    lengths: tuple[int, int],
) -> None:
    prober = Timed(0.0, lengths)
    prober.probe(0, 1)
    assert prober.longest <= sum(lengths)


def search(*steps_s: float, **changes: Any) -> Tune:
    """One candidate whose probes had these steps, and a prefill of a second."""
    tune = Tune(
        asked=asked(lengths=(2048, 256), **changes),
        candidates=[candidate(batch=4)],
        lengths=(2048, 256),
    )
    for rung, step_s in enumerate(steps_s):
        tune.probes.append(
            Probe(
                candidate=0,
                rung=rung,
                prefill_s=1.0,
                step_s=step_s,
                load_s=5.0,
                input_tokens=512,
            )
        )
    return tune


def test_one_bad_probe_of_several_does_not_rule_a_candidate_out() -> None:
    held = result()
    held.trials = []
    held.tune = search(0.1, 0.1, 0.5, **PROMISED)
    assert known_of(held, [[0]]).broken == {}
    held.tune = search(0.1, 0.5, 0.5, **PROMISED)
    assert "TPOT" in known_of(held, [[0]]).broken[0]


def test_a_promise_is_judged_at_the_asked_lengths_however_small_the_budget() -> None:
    held = result()
    held.trials = []
    held.tune = search(0.1)
    rules = Rules(budget_s=60.0)
    assert fitting.fit(held.tune, known_of(held, [[0]]), rules) is not None
    assert held.tune.lengths < (2048, 256)
    held.tune = search(0.1, **PROMISED)
    assert fitting.fit(held.tune, known_of(held, [[0]]), rules) is None
    assert held.tune.lengths == (2048, 256)
