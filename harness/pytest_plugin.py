"""pytest fixtures that time a load point with pytest-benchmark.

    def test_decode(armbench_point):
        armbench_point(engine="torch", model="qwen2.5-0.5b", input_tokens=64, output_tokens=32)

    def test_server(armbench_load):
        armbench_load("http://127.0.0.1:8000", concurrency=4, requests=64)

`armbench_point` runs an engine in its pinned child, a round being one batch; `armbench_load` offers
load to a server, a round being one offering with its lead and drain. Rounds go through
`benchmark.pedantic`; our metrics stand in `extra_info`. With `--benchmark-disable` there is one
round, without pytest-benchmark the rounds run untimed. Nothing is imported before a test asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.records.run import Result
    from harness.timed_run import Rounds

ROUNDS = 5


class Timed:
    """What a load point gave: `result` as armbench stores it, `figures` by metric."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self.figures: dict[str, float] = {
            name: estimate.value for name, estimate in result.summary.get("0", {}).items()
        }


@pytest.fixture
def armbench_point(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Timed]:
    """Times a batch in the pinned child: `armbench_point(rounds=5, **plan_keys)`.

    The keys are those of a plan: engine, model, dtype, threads, batch, input_tokens, output_tokens,
    options; a `batch` above one means load="offline". `results` keeps the result in that folder.
    """

    def point(*, rounds: int = ROUNDS, results: Path | str = tmp_path, **keys: Any) -> Timed:
        from harness import timed_run

        if keys.get("batch", 1) != 1:
            keys.setdefault("load", "offline")
        calls = _rounds(request)
        return _timed(request, lambda: timed_run.time_engine(keys, calls, rounds, Path(results)))

    return point


@pytest.fixture
def armbench_load(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Timed]:
    """Times an offering to a server: `armbench_load(url, rounds=5, **flags)`.

    The flags are those of `armbench load`: concurrency or rate, requests or duration, endpoint,
    input_tokens, output_tokens, slo. `results` keeps the result in that folder.
    """

    def load(
        target: str, *, rounds: int = ROUNDS, results: Path | str = tmp_path, **flags: Any
    ) -> Timed:
        from harness import timed_run

        listed = {
            key: [value] if key in _LISTED and not isinstance(value, list) else value
            for key, value in flags.items()
        }
        calls = _rounds(request)
        return _timed(
            request,
            lambda: timed_run.time_endpoint(target, listed, calls, rounds, Path(results)),
        )

    return load


_LISTED = ("concurrency", "rate", "input_tokens", "output_tokens")


def _benchmark(request: pytest.FixtureRequest) -> Any:
    """The fixture of pytest-benchmark, or of another that does as it; None where there is none."""
    try:
        found = request.getfixturevalue("benchmark")
    except pytest.FixtureLookupError:
        return None
    return found if hasattr(found, "pedantic") else None


def _rounds(request: pytest.FixtureRequest) -> Rounds:
    """Calls a function for each round, through pytest-benchmark where it is there."""
    benchmark = _benchmark(request)

    def plain(target: Callable[[int], None], count: int) -> None:
        for number in range(count):
            target(number)

    def timed(target: Callable[[int], None], count: int) -> None:
        numbers = iter(range(count))
        benchmark.pedantic(target, setup=lambda: ((next(numbers),), {}), rounds=count)

    return plain if benchmark is None else timed


def _timed(request: pytest.FixtureRequest, work: Callable[[], Result]) -> Timed:
    """The result, told to pytest-benchmark too; the test fails where armbench refuses."""
    from harness.errors import ArmbenchError

    try:
        timed = Timed(work())
    except ArmbenchError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        pytest.fail(f"{error.message}{hint}", pytrace=False)
    benchmark = _benchmark(request)
    if benchmark is not None:
        benchmark.extra_info.update(_extra(timed))
    return timed


def _extra(timed: Timed) -> Mapping[str, Any]:
    """Our metrics, what was run, and why it should not be believed where that is so."""
    result = timed.result
    case = result.plan.cases[0]
    return {
        **timed.figures,
        "armbench": {
            "version": result.armbench,
            "case": case.variant.label,
            "load": case.load.kind,
            "batch": case.load.batch,
            "input_tokens": case.load.input_tokens,
            "output_tokens": case.load.output_tokens,
            "model": result.model.name,
            "weights": result.model.weights,
            "cpu": result.machine.cpu.product,
            "invalid": sorted({why for trial in result.trials for why in trial.invalid}),
        },
    }
