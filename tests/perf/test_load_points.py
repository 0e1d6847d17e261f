"""Load points under pytest-benchmark, by armbench's own plugin; only timed where that is asked for.

python -m pytest tests/perf/test_load_points.py --benchmark-enable --benchmark-autosave
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.pytest_plugin import Timed
from tests.serving.conftest import Running, service_for, serving

Point = Callable[..., Timed]


@pytest.mark.engine
@pytest.mark.parametrize("batch", [1, 4])
def test_torch_decodes(batch: int, armbench_point: Point, qwen3: Path) -> None:
    timed = armbench_point(
        engine="torch", model=str(qwen3), threads=1, batch=batch, input_tokens=32, output_tokens=16
    )
    (trial,) = timed.result.trials
    assert {len(record.token_ns) for record in trial.records} == {16}
    assert len(trial.records) % batch == 0
    assert trial.placement is not None  # the child was watched as in any run


@pytest.fixture(scope="module")
def server(qwen3: Path) -> Iterator[Running]:
    """Our server with the fake engine: what is timed is the way to it and through it."""
    with serving(service_for(qwen3, slots=4)) as running:
        yield running


def test_our_server_answers(armbench_load: Point, server: Running) -> None:
    timed = armbench_load(
        server.url, concurrency=4, requests=16, input_tokens=16, output_tokens=8, rounds=3
    )
    assert {len(trial.records) for trial in timed.result.trials} == {16}
    assert all(record.error is None for t in timed.result.trials for record in t.records)
