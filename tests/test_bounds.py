"""A result held against its ceilings: bounds, MBU, MFU, and the word for what holds it back."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from harness import binding, bounds, metrics, prices, validity
from harness.bounds import Bounds
from harness.errors import ArmbenchError
from harness.model.checkpoint import builtin_config
from harness.model.footprint import Footprint, ModelShape, Quantisation
from harness.records.ceilings import Calibration, Ceiling, Ceilings
from harness.records.machine import Finding
from harness.records.run import (
    SCHEMA,
    Case,
    Check,
    Estimate,
    KernelPath,
    KernelSeen,
    ModelIdentity,
    Plan,
    Result,
    Stored,
    Trial,
)
from harness.reports import roofline
from harness.reports.sheet import run_sheet
from harness.reports.terminal import table
from tests.test_metrics import record, trial
from tests.test_plan import case, server

SHAPE = ModelShape.from_config(builtin_config("qwen2.5-0.5b"))
WEIGHTS = 4 * 494_032_768
KV = 2 * 24 * 2 * 64 * 4  # bytes of one token
FLOAT32 = Footprint(shape=SHAPE, weights=Quantisation.of("float32"), kv_element_bytes=4)


def limits(read: float | None = 40e9, ops: float | None = 400e9) -> Bounds:
    return Bounds(footprint=FLOAT32, read_bytes_per_s=read, ops_per_s=ops)


def value(name: str, of: Trial, known: Bounds | None) -> float | None:
    subject = metrics.Subject(trial=of, case=case(0), bounds=known)
    return metrics.metric(name).value(subject)


# 100 input tokens in 500 ms, then four decode steps of 100 ms
ONE = trial(record(0, 0, 0, 0, [500, 600, 700, 800, 900]))


def test_mbu_counts_weights_and_the_cache_at_the_mean_context_of_the_decode() -> None:
    """Steps attend to 101, 102, 103 and 104 keys: 102.5 in the mean."""
    step = WEIGHTS + 102.5 * KV
    assert value("mbu", ONE, limits()) == pytest.approx(step / 0.1 / 40e9)
    assert value("decode_bound_tok_per_s", ONE, limits()) == pytest.approx(40e9 / step)


def test_a_batch_reads_its_weights_once_and_its_caches_each() -> None:
    rows = [record(i, 0, 0, 0, [500, 600, 700], slot=i) for i in range(4)]
    step = WEIGHTS + 4 * 101.5 * KV
    assert value("mbu", trial(*rows), limits()) == pytest.approx(step / 0.1 / 40e9)
    bound = value("decode_bound_tok_per_s", trial(*rows), limits())
    assert bound == pytest.approx(4 * 40e9 / step)


def test_mfu_is_the_prefills_operations_over_its_time() -> None:
    flops = SHAPE.prefill_flops(100)
    assert value("mfu", ONE, limits()) == pytest.approx(flops / 0.5 / 400e9)
    assert value("prefill_bound_tok_per_s", ONE, limits()) == pytest.approx(100 * 400e9 / flops)


def test_a_bound_is_that_of_the_slower_ceiling() -> None:
    """One token of prefill reads all weights; decode on a core that hardly computes computes."""
    short = trial(
        msgspec.structs.replace(record(0, 0, 0, 0, [500, 600]), input_tokens=1),
    )
    prefill = value("prefill_bound_tok_per_s", short, limits(ops=1e15))
    assert prefill == pytest.approx(40e9 / WEIGHTS)
    slow = value("decode_bound_tok_per_s", ONE, limits(ops=1e9))
    assert slow == pytest.approx(1e9 / SHAPE.decode_flops(102.5))


def test_without_a_ceiling_there_is_no_bound_but_an_intensity() -> None:
    unknown = limits(read=None, ops=None)
    for name in ("mbu", "mfu", "decode_bound_tok_per_s", "prefill_bound_tok_per_s"):
        assert value(name, ONE, unknown) is None
        assert value(name, ONE, None) is None
    intensity = value("arithmetic_intensity", ONE, unknown)
    assert intensity == pytest.approx(SHAPE.decode_flops(102.5) / (WEIGHTS + 102.5 * KV))
    assert value("arithmetic_intensity", ONE, None) is None


def subject(known: Bounds, of: Trial = ONE) -> list[metrics.Subject]:
    return [metrics.Subject(trial=of, case=case(0), bounds=known)]


def test_near_its_ceiling_the_word_is_the_ceilings_whatever_the_placement() -> None:
    long_decode = trial(record(0, 0, 0, 0, [50, 150, 250]))
    near = binding.bind(subject(limits(read=25e9), long_decode), ["threads share a core"])
    assert near is not None
    assert near.word == "bandwidth"


def test_the_longer_phase_decides() -> None:
    long_decode = trial(record(0, 0, 0, 0, [50, 150, 250, 350, 450]))
    found = binding.bind(subject(limits(read=25e9), long_decode), [])
    assert found is not None
    assert (found.word, found.phase) == ("bandwidth", "decode")
    long_prefill = trial(record(0, 0, 0, 0, [2000, 2001, 2002]))
    flops = SHAPE.prefill_flops(100)
    found = binding.bind(subject(limits(ops=flops / 2 / 0.7), long_prefill), [])
    assert found is not None
    assert (found.word, found.phase) == ("compute", "prefill")
    assert found.share == pytest.approx(0.7)


def test_far_from_its_ceiling_it_is_placement_where_that_is_seen_to_cost_else_software() -> None:
    far = limits(read=200e9, ops=4e12)
    assert binding.bind(subject(far), []).word == "software"  # type: ignore[union-attr]
    found = binding.bind(subject(far), ["threads span memory nodes"])
    assert found is not None
    assert found.word == "placement"
    assert "memory nodes" in found.reason


@pytest.mark.parametrize(("share", "word"), [(0.599, "software"), (0.601, "bandwidth")])
def test_the_threshold_is_the_one_that_is_documented(share: float, word: str) -> None:
    decode = trial(record(0, 0, 0, 0, [50, 150, 250]))
    step = WEIGHTS + 101.5 * KV
    found = binding.bind(subject(limits(read=step / 0.1 / share, ops=1e15), decode), [])
    assert found is not None
    assert found.word == word


def test_no_ceiling_no_word() -> None:
    assert binding.bind(subject(limits(read=None)), []) is None
    assert binding.bind([], []) is None


# ---- whole results ----


def ceilings(read: float | None, f32: float | None, **more: float) -> Ceilings:
    values = {"read": read, "f32": f32, **more}
    return Ceilings(
        cpus="0-1",
        threads=2,
        short=True,
        at_ns=0,
        took_s=1.0,
        ceilings={
            n: Ceiling(name=n, value=v, unit="bytes/s" if n == "read" else "ops/s", threads=2)
            for n, v in values.items()
        },
    )


def calibration(when: str, read: float, cpus: str = "0-1") -> Calibration:
    made = {"when": when, "at_ns": 0, "cpus": cpus, "threads": 2, "values": {"read": read}}
    return msgspec.convert(made, Calibration)


def result(*found: Ceilings, dtype: str = "float32", of: Trial = ONE) -> Result:
    one = case(0)
    one = msgspec.structs.replace(
        one, variant=msgspec.structs.replace(one.variant, dtype=dtype, engine="torch", threads=2)
    )
    compute = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    stored = Stored(body=dtype, compute=compute, kv_element_bytes=4)
    return Result(
        schema=SCHEMA,
        armbench="0",
        created="2026-01-01T00:00:00+00:00",
        plan=Plan(
            name="test",
            model="qwen2.5-0.5b",
            cases=[one],
            repeats=1,
            seed=1,
            cpus=[0, 1],
            driver_cpus=[2],
            time_budget_s=None,
            trial_timeout_s=None,
        ),
        model=ModelIdentity(
            name="qwen2.5-0.5b",
            weights="synthetic",
            family="qwen2",
            parameters=494_032_768,
            config_sha256="",
            files={},
            sizes=SHAPE.sizes,
        ),
        machine=server(4),
        software={},
        finished=True,
        checks=[Check(variant=one.variant, ok=True, stored=stored)],
        trials=[of],
        ceilings=list(found),
    )


def only(of: Result) -> Case:
    return of.plan.cases[0]


def test_the_ceilings_are_those_of_the_cases_own_cpus() -> None:
    other = msgspec.structs.replace(ceilings(99e9, 99e12), cpus="0-3", threads=4)
    found = bounds.of_case(one := result(other, ceilings(40e9, 400e9)), only(one))
    assert found is not None
    assert (found.read_bytes_per_s, found.ops_per_s) == (40e9, 400e9)


def test_a_faster_calibration_raises_the_ceiling() -> None:
    one = result(ceilings(40e9, 400e9))
    one.calibrations = [calibration("before", 44e9), calibration("after", 90e9, cpus="0-3")]
    found = bounds.of_case(one, only(one))
    assert found is not None
    assert found.read_bytes_per_s == 44e9


def test_bfloat16_is_held_against_the_best_that_its_products_may_be_carried_out_in() -> None:
    for rates, best in (({"bf16": 900e9}, 900e9), ({}, 400e9)):
        one = result(ceilings(40e9, 400e9, **rates), dtype="bfloat16")
        found = bounds.of_case(one, only(one))
        assert found is not None
        assert found.ops_per_s == best


def test_an_old_result_without_sizes_or_formats_has_no_bounds_and_still_shows() -> None:
    one = result(ceilings(40e9, 400e9))
    one.model.sizes = None
    assert bounds.of_case(one, only(one)) is None
    binding.derive(one)
    assert one.binding == {}
    assert "mbu" not in one.summary["0"]
    one = result(ceilings(40e9, 400e9))
    one.checks = []
    assert bounds.of_case(one, only(one)) is None


def test_the_table_is_at_most_130_columns_wide() -> None:
    one = result(ceilings(25e9, 400e9), dtype="bfloat16")
    case_ = only(one)
    case_.variant.engine, case_.variant.threads = "onnxruntime", 2
    one.checks[0].variant = case_.variant
    one.trials = [msgspec.structs.replace(ONE, repeat=i) for i in range(3)]
    one.plan.repeats = 3
    one.price = prices.parse_price("0.638 USD/h")
    binding.derive(one)
    figures = one.summary["0"]
    for name in ("ttft_p95_s", "tpot_p95_s", "ttft_p50_s", "tpot_p50_s"):
        figures[name] = Estimate(value=1.234, low=1, high=2, n=3, unit="s", method="")
    for name in ("prefill_tok_per_s", "output_tok_per_s"):
        figures[name] = Estimate(value=1234, low=1200, high=1268, n=3, unit="tok/s", method="")
    figures["peak_rss_bytes"] = Estimate(
        value=2.85 * 2**30, low=1, high=2, n=3, unit="B", method=""
    )
    out = Console(width=200, no_color=True, file=io.StringIO())
    out.print(table(run_sheet(one), plain=True))
    lines = out.file.getvalue().splitlines()[1:]  # type: ignore[attr-defined]
    assert "bfloat16" in "".join(lines)
    assert max(len(line.rstrip()) for line in lines) <= 130


def test_the_table_shows_both_shares_and_the_word() -> None:
    one = result(ceilings(25e9, 400e9))
    binding.derive(one)
    sheet = run_sheet(one)
    at = [c.label for c in sheet.columns].index("% of bound")
    prefill, decode = (
        one.summary["0"][f"{p}_tok_per_s"].value / one.summary["0"][f"{p}_bound_tok_per_s"].value
        for p in ("prefill", "decode")
    )
    word = one.binding["0"].word
    assert sheet.rows[0][at] == f"{100 * prefill:.0f}/{100 * decode:.0f} {word}"
    assert any("ceilings measured here: 2T read 25 GB/s" in note for note in sheet.notes)


def figure(value: float, low: float | None) -> Estimate:
    return Estimate(value=value, low=low, high=None, n=3, unit="ratio", method="")


@pytest.mark.parametrize(
    ("value", "low", "told"), [(1.1, 1.02, True), (1.1, 0.98, False), (1.1, None, True)]
)
def test_a_figure_beyond_its_ceiling_is_a_fault_of_the_ceiling(
    value: float, low: float | None, told: bool
) -> None:
    one = result(ceilings(40e9, 400e9))
    one.summary = {"0": {"mbu": figure(value, low)}}
    said = [w for w in validity.warnings(one) if "above its ceiling" in w]
    assert bool(said) == told


def test_drift_beyond_the_stated_bound_is_a_warning_with_both_rates() -> None:
    one = result(ceilings(40e9, 400e9))
    one.calibrations = [calibration("before", 40e9), calibration("after", 37e9)]
    assert validity.drifts(one) == []
    one.calibrations[1] = calibration("after", 30e9)
    (said,) = validity.drifts(one)
    assert "drifted by 25%" in said
    assert "40 → 30 GB/s" in said


def test_a_reference_kernel_in_place_of_a_fast_one_is_flagged() -> None:
    one = result()
    slow = KernelSeen(name="matmul ref:any", calls=9, seconds=3.0, reference=True)
    fast = KernelSeen(name="matmul brg_matmul:sve_256", calls=9, seconds=1.0)
    one.paths = [KernelPath(variant=only(one).variant, kernels=[slow, fast])]
    said = [w for w in validity.warnings(one) if "reference kernel" in w]
    assert len(said) == 1
    assert said[0].startswith("torch float32 2T: a reference kernel stood in for a fast one")
    assert "matmul ref:any took 75% of the traced time" in said[0]


def test_strain_on_a_placement_is_seen_in_topology_and_findings() -> None:
    one = result()
    assert binding.strains(one, only(one)) == []
    one.machine.topology.cores = [[0, 1], [2, 3]]
    seen = msgspec.structs.replace(
        ONE, findings=[Finding(name="placement pages", severity="warning", message="far pages")]
    )
    one.trials = [seen]
    assert binding.strains(one, only(one)) == ["threads share a core", "far pages"]
    one.machine = server(4, nodes=4)
    assert "threads span memory nodes" in binding.strains(one, only(one))


# ---- roofline ----


def test_a_roofline_has_a_point_for_each_phase_under_its_roof() -> None:
    one = result(ceilings(25e9, 400e9))
    binding.derive(one)
    drawn = roofline.of_result(one)
    (roof,) = drawn.roofs
    assert roof.ridge == pytest.approx(16)
    assert [p.label.split()[-1] for p in drawn.points] == ["prefill", "decode"]
    decode = drawn.points[1]
    assert decode.ops_per_s == pytest.approx(SHAPE.decode_flops(102.5) / 0.1)
    assert decode.ops_per_s < roof.at(decode.intensity)
    text = roofline.lines(drawn)
    assert any(line.startswith("a: torch") for line in text)
    assert max(map(len, text)) <= 100


def test_a_result_without_ceilings_says_why_there_is_no_roofline() -> None:
    one = result()
    binding.derive(one)
    with pytest.raises(ArmbenchError, match="the run took none"):
        roofline.of_result(one)
    bare = ceilings(None, None)
    bare.unknown = {"read": "no C compiler"}
    one = result(bare)
    with pytest.raises(ArmbenchError, match="no C compiler"):
        roofline.of_result(one)


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_picture_is_written(suffix: str, tmp_path: object) -> None:
    pytest.importorskip("matplotlib")
    one = result(ceilings(25e9, 400e9))
    binding.derive(one)
    path = tmp_path / f"r.{suffix}"  # type: ignore[operator]
    roofline.draw(roofline.of_result(one), path)
    head = path.read_bytes()[:200]
    assert head.startswith(b"\x89PNG") if suffix == "png" else b"<?xml" in head
