"""The quality guard on real weights: right quantisations pass, faulty ones do not."""

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
from tests.test_engines import CPUS, LLAMACPP, process_for, spec_for

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    ("engine", "dtype"),
    [
        *(
            (name, dtype)
            for name in ("torch", "onnxruntime")
            for dtype in ("float32", "int8", "int4")
        ),
        ("torch", "bfloat16"),
        pytest.param("llamacpp", "q4_0", marks=LLAMACPP.marks),
    ],
)
def test_an_engine_agrees_on_trained_weights_and_has_a_perplexity(
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
    assert 1 < found.perplexity < uniform / 4
    of_text = {part.name: part.perplexity or math.inf for part in found.parts}
    assert of_text["python"] < uniform / 20, "it was trained on Python"


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


RIGHT = {
    "int8": (quantising.int8, "int8"),
    "int4": (quantising.int4, "int4"),
    "int4 in groups of 128": (quantising.int4_in_groups_of_128, "int4"),
    "q4_0": (quantising.q4_0, "q4_0"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_quantisation_passes_well_inside_the_bounds(
    judged: Callable[..., tuple[Agreement, list[str]]], name: str
) -> None:
    quantise, dtype = RIGHT[name]
    found, missed = judged(quantise, dtype)
    assert missed == []
    wanted = agreement.bounds(dtype, "checkpoint")
    assert found.error is not None
    assert found.int4_error is not None
    assert found.stretch is not None
    assert wanted.stretch is not None
    assert found.error < (wanted.int4_times or 2) * found.int4_error * 0.7
    assert abs(found.stretch - 1) < wanted.stretch / 2


@pytest.mark.parametrize("fault", quantising.FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("name", ["int4", "q4_0"])
def test_a_faulty_4_bit_quantisation_is_caught(
    judged: Callable[..., tuple[Agreement, list[str]]], name: str, fault: quantising.Fault
) -> None:
    quantise, dtype = RIGHT[name]
    assert judged(quantise, dtype, fault)[1]


@pytest.mark.parametrize(
    "fault",
    [
        quantising.neighbours_rows_scales,
        quantising.all_larger,
        quantising.layer_larger,
        quantising.tensor_zero,
    ],
    ids=lambda fault: fault.__name__,
)
def test_a_faulty_8_bit_quantisation_is_caught(
    judged: Callable[..., tuple[Agreement, list[str]]], fault: quantising.Fault
) -> None:
    assert judged(quantising.int8, "int8", fault)[1]


def test_rounding_toward_zero_is_caught(
    judged: Callable[..., tuple[Agreement, list[str]]],
) -> None:
    assert judged(quantising.int4_toward_zero, "int4")[1]


def test_plain_rounding_is_what_the_reference_says_it_is(
    judged: Callable[..., tuple[Agreement, list[str]]],
) -> None:
    found, _ = judged(quantising.q4_0, "q4_0")
    assert found.error == pytest.approx(found.int4_error, rel=1e-3)
