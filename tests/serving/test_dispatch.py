"""One server, several engines: the least loaded gets a request, and a dead one is survived."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import store
from harness.machine.placement import Instance
from harness.records.load import ServerSeen
from harness.serving.options import Service
from harness.serving.outstanding import Outstanding, least
from tests.serving.conftest import CPUS, service_for, serving
from tests.serving.talk import Stream, ask, requests_at, stream, until
from tests.test_run import armbench, expected_exit

Opened = Callable[..., Stream]
COMPLETIONS = "/v1/completions"
needs_two = pytest.mark.skipif(len(CPUS) < 2, reason="needs two allowed CPUs")

# Decisions


class Model:
    """What several engines really have before them, request by request."""

    def __init__(self, count: int) -> None:
        self.engines = [Outstanding() for _ in range(count)]
        self.alive = [True] * count
        self.left: dict[int, tuple[int, list[int]]] = {}  # engine, tokens of prompt and output

    def truth(self, engine: int) -> int:
        return sum(sum(left) for owner, left in self.left.values() if owner == engine)


@given(st.integers(1, 4), st.data())
def test_sums_are_right_and_the_least_is_chosen_whatever_happens(
    count: int, data: st.DataObject
) -> None:
    model = Model(count)
    for request in range(data.draw(st.integers(1, 60))):
        totals = [e.total if ok else None for e, ok in zip(model.engines, model.alive, strict=True)]
        chosen = least(totals)
        if chosen is None:
            assert not any(model.alive)
            break
        known = [t for t in totals if t is not None]
        assert totals[chosen] == min(known)
        assert totals.index(min(known)) == chosen  # the first of equal ones
        prompt, output = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 50))
        model.engines[chosen].begin(request, prompt, output)
        model.left[request] = (chosen, [prompt, output])
        for step in data.draw(st.lists(st.integers(0, 2**16), max_size=6)):
            happens(model, step)
        if data.draw(st.integers(0, 30)) == 0:
            die(model, data.draw(st.integers(0, count - 1)))
        for number, engine in enumerate(model.engines):
            assert engine.total == model.truth(number) >= 0


def happens(model: Model, step: int) -> None:
    """Some request fills, gets a token, or ends, as an engine would have it."""
    if not model.left:
        return
    request = sorted(model.left)[step % len(model.left)]
    owner, left = model.left[request]
    engine = model.engines[owner]
    if step % 7 == 0:
        engine.end(request)
        del model.left[request]
    elif left[0] > 1:
        part = 1 + step % (left[0] - 1)
        engine.filled(request, part)
        left[0] -= part
    else:
        engine.filled(request, left[0])
        engine.produced(request)
        left[:] = [0, left[1] - 1]
        if left[1] == 0:
            engine.end(request)
            del model.left[request]


def die(model: Model, engine: int) -> None:
    model.alive[engine] = False
    for request in [r for r, (owner, _) in model.left.items() if owner == engine]:
        model.engines[engine].end(request)
        del model.left[request]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=100), st.integers(1, 5))
def test_no_engine_ever_has_more_than_one_request_beyond_another(
    sizes: list[int], count: int
) -> None:
    """So that none starves: the difference is at most the largest request."""
    engines = [Outstanding() for _ in range(count)]
    for request, size in enumerate(sizes):
        chosen = least([e.total for e in engines])
        assert chosen is not None
        engines[chosen].begin(request, size, 1)
        totals = [e.total for e in engines]
        assert max(totals) - min(totals) <= max(sizes) + 1


def test_of_engines_that_take_nothing_none_is_chosen() -> None:
    assert least([None, None]) is None
    assert least([None, 7, 3, 3]) == 2


# Real processes


def two(folder: Path, **more: Any) -> Service:
    service = service_for(folder, **more)
    service.instances = [Instance(cpus=[cpu]) for cpu in CPUS[:2]]
    return service


def seen(url: str) -> ServerSeen:
    return msgspec.json.decode(ask(url, "/armbench/log").body, type=ServerSeen)


@needs_two
def test_two_engines_work_at_the_same_time_and_share_the_requests(tiny: Path) -> None:
    with serving(two(tiny, slots=2, options={"step_s": 0.01})) as running:
        assert len({one.pid for one in running.ready.instances}) == 2
        ask(running.url, "/armbench/mark", {})
        body = {"prompt": [1, 2, 3], "max_tokens": 40, "ignore_eos": True}
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: stream(running.url, COMPLETIONS, body), range(4)))
        assert [len(events) for events in found] == [40] * 4
        log = seen(running.url)
        report = ask(running.url, "/armbench/report").json
        text = ask(running.url, "/metrics").body.decode()
    assert sorted(request.instance for request in log.requests) == [0, 0, 1, 1]
    steps = log.steps
    assert steps is not None
    spans = [
        [
            (s, e)
            for s, e, i in zip(steps.start_ns, steps.end_ns, steps.instance, strict=True)
            if i == n
        ]
        for n in range(2)
    ]
    overlap = sum(max(0, min(e, f) - max(s, t)) for s, e in spans[0] for t, f in spans[1])
    assert overlap > 0.5 * sum(e - s for s, e in spans[0])
    assert [r["runtime"]["compute"] for r in report["engines"]] == [1, 1]
    assert "armbench_slots 4.0" in text
    assert "armbench_generation_tokens_total 160.0" in text
    assert 'armbench_instance_outstanding_tokens{instance="1"} 0.0' in text


@needs_two
def test_when_one_engine_is_killed_its_requests_fail_and_the_other_goes_on(
    tiny: Path, opened: Opened
) -> None:
    with serving(two(tiny, slots=2, context=30_000)) as running:
        body = {"prompt": [1], "max_tokens": 2000, "ignore_eos": True}
        first, second = (opened(running.url, COMPLETIONS, body) for _ in range(2))
        one, other = first.events(), second.events()
        next(one), next(other)
        states = ask(running.url, "/health").json["instances"]
        assert [state["requests"] for state in states] == [1, 1]
        os.kill(states[0]["pid"], signal.SIGKILL)
        lasts = [list(events)[-1] for events in (one, other)]
        failed = [last for last in lasts if "error" in last]
        assert [last["error"]["code"] for last in failed] == ["engine_failed"]
        health = ask(running.url, "/health")
        assert (health.status, health.json["status"]) == (200, "degraded")
        assert health.json["reason"].startswith("instance 0: ")
        assert "SIGKILL" in health.json["instances"][0]["dead"]
        again = ask(running.url, COMPLETIONS, {"prompt": [1, 2], "max_tokens": 3})
        assert again.status == 200
        assert {r.instance for r in seen(running.url).requests[-1:]} == {1}
        assert ask(running.url, "/armbench/report").json["engines"][0] is None
        metrics = ask(running.url, "/metrics").body.decode()
        assert 'armbench_instance_up{instance="0"} 0.0' in metrics
        assert 'armbench_instance_up{instance="1"} 1.0' in metrics
        os.kill(states[1]["pid"], signal.SIGKILL)
        until(lambda: ask(running.url, "/health").json["status"] == "dead")
        answer = ask(running.url, COMPLETIONS, body)
        assert (answer.status, answer.json["error"]["code"]) == (503, "engine_dead")
        assert requests_at(running.url) == 0
        assert running.process.stop() == 1


@needs_two
def test_a_served_load_on_two_instances_proves_both(qwen3: Path, tmp_path: Path) -> None:
    done = armbench(
        *("run", "--model", str(qwen3), "--results", str(tmp_path), "--engine", "fake"),
        *("--threads", "1", "--instances", "2", "--load", "closed", "--concurrency", "4"),
        *("--duration", "1s", "--input-tokens", "8", "--output-tokens", "16", "--repeats", "1"),
        *("--option", "fake.step_s=0.01"),
    )
    result = store.load(store.find("latest", tmp_path))
    assert done.returncode == expected_exit(result), done.stderr
    (trial,) = result.trials
    assert [p.asked for p in trial.proofs if p] == [[cpu] for cpu in CPUS[:2]]
    assert trial.server is not None
    assert trial.server.steps is not None
    assert set(trial.server.steps.instance) == {0, 1}
    assert {r.instance for r in trial.server.requests} == {0, 1}
    assert "2×1T" in done.stdout
