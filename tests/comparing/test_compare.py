"""Sides beside one another: from stored results to rows, shares, outputs and differences."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest

from harness import store
from harness.comparing import environment, fair, outputs, question, samples, values
from harness.comparing.compare import chosen, compare
from harness.comparing.rows import Wish
from harness.comparing.rules import read
from harness.errors import ArmbenchError
from harness.prices import parse_price
from harness.records.comparison import MetricRow, Pair
from harness.records.load import Target
from harness.records.machine import Conditions, Reading
from harness.records.run import Agreement, Check, Result, Variant
from harness.reports.gate_files import as_json
from tests.comparing.builders import (
    case_values,
    group,
    machine,
    one,
    result,
    run_values,
    side,
    trial,
)

SLOW = [11.5, 11.6, 11.4, 11.5]
FAST = [10.0, 10.1, 9.9, 10.0]


def saved(path: Path, *results: Result) -> Path:
    """A file, or with several results a folder of them."""
    if len(results) == 1:
        store.save(results[0], path)
        return path
    path.mkdir()
    for number, each in enumerate(results):
        store.save(each, path / f"{number}.json")
    return path


def pair(*sides: samples.Runs, **wish: object) -> Pair:
    return compare(sides, Wish(rules=read(), **wish)).pairs[0]  # type: ignore[arg-type]


def row(found: Pair, metric: str, case: int = 0) -> MetricRow:
    return next(r for r in found.cases[case].metrics if r.metric == metric)


def test_a_slower_result_regresses_in_rate_and_in_time(tmp_path: Path) -> None:
    a = samples.load(saved(tmp_path / "a.json", result(FAST)))
    b = samples.load(saved(tmp_path / "b.json", result(SLOW)))
    found = pair(a, b)
    for metric in ("decode_tok_per_s", "tpot_p50_s"):
        one_row = row(found, metric)
        assert one_row.verdict == "regressed", metric
    back = pair(b, a)
    assert row(back, "decode_tok_per_s").verdict == "improved"
    there = row(found, "decode_tok_per_s").ratio.value
    again = row(back, "decode_tok_per_s").ratio.value
    assert there == pytest.approx(1 / again)


def test_sides_of_different_times_have_the_wider_margin_and_a_note() -> None:
    a, b = (one(n, {"decode_tok_per_s": FAST}) for n in ("a", "b"))
    found = pair(a, b)
    assert found.setting == "separate"
    assert row(found, "decode_tok_per_s").margin.value == 0.1
    assert any("different times" in note for note in found.notes)


def test_cases_of_one_run_are_paired_by_round_and_have_the_narrow_margin() -> None:
    run = run_values(
        case_values({"decode_tok_per_s": FAST}, engine="torch"),
        case_values({"decode_tok_per_s": [2 * x for x in FAST]}, engine="onnxruntime"),
    )
    both = [samples.narrowed(side("x", deepcopy(run)), {"engine": e}) for e in ENGINES]
    found = pair(*both, vary=("engine",))
    one_row = row(found, "decode_tok_per_s")
    assert found.setting == "interleaved"
    assert one_row.ratio.design == "paired"
    assert one_row.ratio.value == pytest.approx(2.0)
    assert one_row.ratio.high - one_row.ratio.low < 1e-9


ENGINES = ("torch", "onnxruntime")


def test_a_repeat_that_one_side_lacks_is_left_out_of_both() -> None:
    first = case_values({"decode_tok_per_s": [1.0, 2.0, 3.0]}, engine="torch")
    second = case_values({"decode_tok_per_s": [20.0, 30.0]}, engine="onnxruntime")
    second.repeats = [1, 2]
    runs = [run_values(c) for c in (first, second)]
    a, b = (samples.Group(case=r.cases[0], members=[(r, r.cases[0])]) for r in runs)
    left, right, paired = samples.units(a, b, "decode_tok_per_s", "ratio")
    assert (left.values, right.values, paired) == ([2.0, 3.0], [20.0, 30.0], True)


def test_of_several_runs_each_counts_once() -> None:
    runs = [
        run_values(case_values({"decode_tok_per_s": [x, x * 1.001]}), file=f"{x}.json")
        for x in (10.0, 11.0, 12.0)
    ]
    a = side("a", *runs)
    left, right, paired = samples.units(group(a), group(a), "decode_tok_per_s", "ratio")
    assert (left.n, right.n, paired) == (3, 3, False)
    assert left.values[0] == pytest.approx(10.0 * 1.001**0.5)


def test_a_shorter_run_does_not_borrow_the_spread_of_longer_ones() -> None:
    many = side(
        "a", *(run_values(case_values({"mbu": [x] * 3}), file=f"{x}") for x in (5, 6, 7, 8, 9))
    )
    alike = row(pair(many, one("b", {"mbu": [70.0] * 3})), "mbu")
    assert alike.verdict == "improved"
    assert alike.ratio.n == (5, 1)
    shorter = row(pair(many, one("b", {"mbu": [70.0]})), "mbu")
    assert shorter.verdict == "inconclusive"


def test_three_repeats_are_told_what_they_can_not_tell() -> None:
    a, b = (one(n, {"decode_tok_per_s": [1.0, 1.01, 0.99]}) for n in ("a", "b"))
    assert any("below 4 a side" in note for note in pair(a, b).notes)


def test_a_single_repeat_never_has_a_verdict() -> None:
    a, b = one("a", {"decode_tok_per_s": [1.0]}), one("b", {"decode_tok_per_s": [9.0]})
    found = row(pair(a, b), "decode_tok_per_s")
    assert found.verdict == "inconclusive"
    assert found.ratio.value == pytest.approx(9.0)


def test_an_invalid_case_is_shown_and_never_judged() -> None:
    a, b = one("a", {"decode_tok_per_s": FAST}), one("b", {"decode_tok_per_s": SLOW})
    bad = b.runs[0].cases[0]
    bad.valid, bad.faults = False, ["steal"]
    found = pair(a, b).cases[0]
    assert found.faults == ["new: steal"]
    assert {r.verdict for r in found.metrics} == {"inconclusive"}


def test_metrics_that_are_neither_good_nor_bad_have_no_verdict() -> None:
    a, b = one("a", {"window_s": FAST}), one("b", {"window_s": SLOW})
    assert row(pair(a, b), "window_s").verdict is None


def test_the_geometric_mean_is_over_the_cases_and_says_how_many() -> None:
    cases = [
        [
            case_values({"decode_tok_per_s": [f * x for x in FAST]}, batch=str(n))
            for n, f in enumerate(fs)
        ]
        for fs in ((1.0, 1.0, 1.0), (2.0, 1.0, 0.5))
    ]
    found = pair(side("a", run_values(*cases[0])), side("b", run_values(*cases[1], file="b.json")))
    mean = found.geometric_means[0]
    assert (mean.metric, mean.n) == ("decode_tok_per_s", 3)
    assert mean.ratio == pytest.approx(1.0)
    assert mean.low is not None
    assert mean.high is not None
    assert mean.low < 1 < mean.high
    single = row(found, "decode_tok_per_s").ratio
    assert mean.high / mean.low < single.high / single.low


def test_a_larger_instance_is_held_against_what_it_took() -> None:
    small = one("a", {"decode_tok_per_s": FAST}, threads="2")
    large = one("b", {"decode_tok_per_s": [3 * x for x in FAST]}, threads="8")
    run = large.runs[0]
    run.machine, run.vcpus, run.physical_cores = "x86", 16, 8
    small.runs[0].price = parse_price("0.1 USD/h")
    run.price = parse_price("0.2 USD/h")
    shares = {s.basis: s for s in pair(small, large).cases[0].shares}
    assert shares["instance"].ratio == pytest.approx(3.0)
    assert shares["thread"].ratio == pytest.approx(3 / 4)
    assert shares["vCPU"].ratio == pytest.approx(3 / 8)
    assert shares["physical core"].ratio == pytest.approx(3 / 4)
    assert shares["price"].ratio == pytest.approx(3 / 2)
    assert shares["price"].unit == "tok/s per USD/h"
    assert shares["power"].ratio is None
    assert "energy" in str(shares["power"].reason)


def test_hidden_siblings_leave_the_physical_cores_unknown() -> None:
    a, b = one("a", {"decode_tok_per_s": FAST}), one("b", {"decode_tok_per_s": FAST})
    b.runs[0].machine, b.runs[0].cores_reason = "x86", "the hypervisor may hide siblings"
    shares = {s.basis: s for s in pair(a, b).cases[0].shares}
    assert shares["physical core"].ratio is None
    assert "hide" in str(shares["physical core"].reason)
    assert "is not known" in fair.matched(group(a), group(b))


def test_prices_of_two_currencies_are_converted_or_left_out() -> None:
    a, b = one("a", {"decode_tok_per_s": FAST}), one("b", {"decode_tok_per_s": FAST})
    b.runs[0].machine = "other"
    a.runs[0].price, b.runs[0].price = parse_price("1 USD/h"), parse_price("1 KRW/h")
    share = next(s for s in pair(a, b).cases[0].shares if s.basis == "price")
    assert share.a == pytest.approx(10.0, rel=0.01)
    assert (share.b is None) == (share.reason is not None)


def test_thread_budgets_are_said_to_match_or_not() -> None:
    a, b = one("a", {"decode_tok_per_s": FAST}), one("b", {"decode_tok_per_s": FAST}, threads="16")
    assert "the same thread budget" in fair.matched(group(a), group(a))
    b.runs[0].machine, b.runs[0].physical_cores = "x86", 16
    assert fair.matched(group(a), group(b)).startswith(
        "matched thread budgets, 1 per physical core"
    )
    b.runs[0].physical_cores = 8
    assert "do not match" in fair.matched(group(a), group(b))


def test_power_is_read_from_an_energy_counter_where_there_is_one() -> None:
    assert values.mean_watts(trial(joules=(100.0, 150.0))) == pytest.approx(50.0)
    assert values.mean_watts(trial(joules=(150.0, 100.0))) is None  # it wrapped around
    assert values.mean_watts(trial()) is None
    counted = [trial(repeat=i, joules=(0.0, 40.0)) for i in range(3)]
    found = values.of_result(result(trials=counted), "a.json")
    assert found.cases[0].values[values.POWER] == pytest.approx([40.0] * 3)


def test_every_fact_that_a_result_can_tell_may_be_asked_to_match(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environment, "_told", dict)
    target = Target(url="http://x", endpoint="completions", model="m")
    made = result(target=target)
    ready = Reading(value=2400.0, source="")
    made.trials[0].before = Conditions(
        at_ns=0,
        readings=dict.fromkeys((*environment._SETTINGS, "frequency_mhz"), ready),
    )
    told = environment.facts(made)
    packages = {f"software.{name}" for name in made.software}
    assert told.keys() - packages == set(environment.NAMES)
    assert all(environment.known(name) for name in told)


def test_the_environments_are_told_apart_by_name() -> None:
    a = result(on=machine(2))
    b = result(on=machine(4, threads_per_core=2, product="EPYC"), software={"torch": "2.14.0"})
    b.machine.cpu.features = ["asimddp", "avx2"]
    b.plan.prompt_set_sha256 = "ef" * 32
    names = {d.name: d for d in environment.differences(environment.facts(a), environment.facts(b))}
    assert names["cpu.product"].a == "Graviton4"
    assert names["topology.vcpu"].b == "hardware thread"
    assert names["topology.physical_cores"].kind == "hardware"
    assert names["software.torch"].kind == "software"
    assert (names["cpu.features"].a, names["cpu.features"].b) == ("i8mm", "avx2")
    assert names["plan.prompt_set"].kind == "plan"
    assert "kernel" not in names
    assert environment.differences(environment.facts(a), environment.facts(a)) == []


def test_settings_that_changed_during_a_run_show_both_values() -> None:
    made = result()
    for each, governor in zip(
        made.trials, ("performance", "powersave", "performance"), strict=True
    ):
        each.before = Conditions(
            at_ns=0,
            readings={
                "governor": Reading(value=governor),
                "frequency_mhz": Reading(value=2596.1),
                "boost": Reading(reason="no such file"),
            },
        )
    facts = environment.facts(made)
    assert facts["conditions.governor"] == "performance, powersave"
    assert facts["conditions.clock"] == "2.6 GHz"
    assert "conditions.boost" not in facts


def test_greedy_outputs_are_counted_by_their_digests() -> None:
    a = result()
    b = result(trials=[trial(repeat=i, digest="d" if i else "e") for i in range(3)])
    found = outputs.outputs(a, a.plan.cases[0], b, b.plan.cases[0])
    assert (found.compared, found.same, found.reason) == (3, 2, None)
    assert found.low is not None
    assert found.low < 2 / 3


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"plan": {"seed": 2}}, "seed 1 against 2"),
        ({"model": {"files": {"m": "2" * 64}}}, "files are not the same"),
        ({"model": {"config_sha256": "d" * 64}}, "weights are not the same"),
        ({"load": {"requests": 2}}, "prompts or the lengths"),
        ({"engine": "fake"}, "fake engine"),
    ],
)
def test_outputs_of_different_work_are_not_compared(more: dict[str, object], words: str) -> None:
    a, b = result(), result(**more)  # type: ignore[arg-type]
    found = outputs.outputs(a, a.plan.cases[0], b, b.plan.cases[0])
    assert found.compared == 0
    assert words in str(found.reason)


def test_the_distance_of_logits_is_bounded_by_both_distances_to_the_reference() -> None:
    def checked(delta: float) -> Result:
        agreement = Agreement(
            reference="transformers",
            positions=24,
            top1=1.0,
            kl_mean=1e-9,
            kl_max=1e-8,
            delta_mean=delta,
            delta_max=delta * 5,
            spread=1.0,
        )
        variant = Variant(engine="torch", dtype="float32", threads=2)
        return result(checks=[Check(variant=variant, ok=True, agreement=agreement)])

    a, b = checked(0.01), checked(0.02)
    found = outputs.outputs(a, a.plan.cases[0], b, b.plan.cases[0])
    assert found.delta_most == pytest.approx(0.03)
    assert found.top1 == (1.0, 1.0)


def test_a_folder_of_repeats_is_one_side(tmp_path: Path) -> None:
    folder = saved(tmp_path / "folder", *(result(FAST) for _ in range(3)))
    (folder / ".draft.json").write_text("half")
    found = samples.load(folder)
    assert len(found.runs) == 3
    assert len(found.groups()) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArmbenchError, match="no result in"):
        samples.load(tmp_path / "empty")


def test_where_keeps_the_cases_that_fit_and_refuses_none(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.json", result())
    assert samples.load(path, where={"engine": "Torch"}).label.endswith("(engine Torch)")
    with pytest.raises(ArmbenchError, match="no case with engine=vllm"):
        samples.load(path, where={"engine": "vllm"})
    with pytest.raises(ArmbenchError, match="unknown part"):
        samples.load(path, where={"motor": "x"})


def test_the_whole_comparison_is_json(tmp_path: Path) -> None:
    a, b = one("a", {"decode_tok_per_s": FAST}), one("b", {"decode_tok_per_s": SLOW})
    found = compare([a, b, one("c", {"decode_tok_per_s": FAST})], Wish(rules=read()))
    printed = json.loads(as_json(found))
    assert len(printed["pairs"]) == 2
    assert len(chosen(found, ["decode_tok_per_s"])) == 2
    assert question.key(a.runs[0].cases[0].question)
