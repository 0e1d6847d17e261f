"""The quality guard on weights that mean something: right quantisations pass, faulty ones do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import agreement, wire
from harness.engines._torch_decoder import TorchEngine
from harness.model.checkpoint import open_folder
from harness.records.run import Agreement
from tests.quality import quantising
from tests.quality.conftest import SMALL
from tests.test_engines import CPUS, process_for, spec_for

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    ("engine", "dtype"),
    [("torch", "float32"), ("torch", "bfloat16"), ("onnxruntime", "float32")],
)
def test_an_engine_of_plain_weights_agrees_and_has_a_perplexity(
    small_reference: Path, engine: str, dtype: str
) -> None:
    spec = spec_for(SMALL, engine, dtype, {}, CPUS[:1])
    with process_for(spec) as process:
        process.ask(wire.Load(spec), wire.Loaded, 120)
        found = process.ask(wire.Compare(str(small_reference)), wire.Compared, 120).agreement
    assert agreement.shortfalls(found, agreement.bounds(dtype, "checkpoint")) == []
    assert found.perplexity_reason is None
    assert found.perplexity is not None
    assert found.reference_perplexity is not None
    uniform = open_folder(SMALL).dimensions.vocabulary
    assert 1 < found.perplexity < uniform / 8
    of_text = {part.name: part.perplexity or math.inf for part in found.parts}
    assert of_text["python"] < uniform / 40, "it was trained on Python"


@pytest.fixture
def judged(
    small_reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Agreement, list[str]]]:
    """(figures, shortfalls) of the small model quantised so, computed in float32."""
    # A process may set it once, before its only engine; here one engine follows another.
    monkeypatch.setattr("torch.set_num_interop_threads", lambda _: None)

    def judge(
        quantise: quantising.Quantise, dtype: str, fault: quantising.Fault | None = None
    ) -> tuple[Agreement, list[str]]:
        folder = quantising.checkpoint(SMALL, tmp_path / "quantised", quantise, fault)
        engine: Any = TorchEngine(spec_for(folder, "torch", "float32", {}, CPUS[:1]))
        found = agreement.compare(engine, small_reference)
        return found, agreement.shortfalls(found, agreement.bounds(dtype, "checkpoint"))

    return judge
