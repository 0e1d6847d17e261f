"""The gate: exit codes, what is refused, and files that hostile names can't break."""

from __future__ import annotations

import datetime
import json
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import gate
from harness.comparing import values
from harness.comparing.rules import Rules, read
from harness.comparing.samples import Runs
from harness.errors import Exit
from harness.records.comparison import GateOutcome, GateRow
from harness.records.load import Arrivals, Capacity, Probe, ServingLoad, Slo
from harness.records.money import Price
from harness.records.run import Case, LoadPoint, Variant
from harness.reports import comparison as sheets
from harness.reports import gate_files
from tests.comparing.builders import case_values, one, result, run_values, side, trial

FAST = [10.0, 10.05, 9.95, 10.0]
NOISY = [8.0, 12.0, 9.0, 11.0]


@pytest.fixture
def rules() -> Rules:
    return read()


def times(factor: float, values: list[float] = FAST, metric: str = "decode_tok_per_s") -> Runs:
    return one("new", {metric: [factor * x for x in values]})


@pytest.mark.parametrize(
    ("new", "code"),
    [
        (times(1.0), Exit.FINE),
        (times(1.3), Exit.FINE),
        (times(0.8), Exit.REGRESSION),
        (times(0.8, NOISY), Exit.INCONCLUSIVE),
        (times(0.8, FAST[:1]), Exit.INCONCLUSIVE),
        (times(1.0, FAST, "prefill_tok_per_s"), Exit.INVALID),
        (times(1.0, FAST, "window_s"), Exit.INVALID),
        (one("new", {}), Exit.INVALID),
        (side("new", run_values()), Exit.INVALID),
        (one("new", {"decode_tok_per_s": FAST}, dtype="int8"), Exit.NOT_COMPARABLE),
    ],
)
def test_the_exit_code_says_what_came_out(new: Runs, code: Exit, rules: Rules) -> None:
    outcome = gate.gate(new, one("old", {"decode_tok_per_s": FAST}), rules)
    assert outcome.exit == code, outcome.summary
    assert outcome.summary


def test_failing_metrics_are_named(rules: Rules) -> None:
    outcome = gate.gate(times(0.8), one("old", {"decode_tok_per_s": FAST}), rules)
    assert outcome.failing == ["torch float32 single_stream: decode_tok_per_s"]
    assert "1 regressed" in outcome.summary


def test_an_unfinished_result_never_passes(rules: Rules) -> None:
    new = times(1.0)
    new.runs[0].finished = False
    assert gate.gate(new, one("old", {"decode_tok_per_s": FAST}), rules).exit == Exit.INVALID


def test_an_invalid_case_never_passes_whatever_its_figures(rules: Rules) -> None:
    for factor in (0.5, 1.0, 2.0):
        new = times(factor)
        new.runs[0].cases[0].valid = False
        new.runs[0].cases[0].faults = ["steal of 20 %"]
        outcome = gate.gate(new, one("old", {"decode_tok_per_s": FAST}), rules)
        assert outcome.exit == Exit.INVALID
        assert "steal" in outcome.rows[0].text


def test_a_case_that_vanished_never_passes(rules: Rules) -> None:
    columns = {"decode_tok_per_s": FAST}
    old = side("old", run_values(*(case_values(columns, batch=n) for n in ("1", "4"))))
    outcome = gate.gate(one("new", columns, batch="1"), old, rules)
    assert outcome.exit == Exit.INVALID
    back = gate.gate(old, one("new", columns, batch="1"), rules)
    assert back.exit == Exit.FINE  # a case more than the baseline had is no fault


def test_a_metric_that_vanished_never_passes(rules: Rules) -> None:
    both = {"decode_tok_per_s": FAST, "prefill_tok_per_s": FAST}
    less = {"decode_tok_per_s": FAST}
    outcome = gate.gate(one("new", less), one("old", both), rules)
    assert outcome.exit == Exit.INVALID
    assert "does not" in next(r.text for r in outcome.rows if r.state == "invalid")
    assert gate.gate(one("new", both), one("old", less), rules).exit == Exit.FINE


def test_what_both_sides_do_not_tell_is_named_and_does_not_count(rules: Rules) -> None:
    outcome = gate.gate(times(1.0), one("old", {"decode_tok_per_s": FAST}), rules)
    assert any("told by neither side: prefill_tok_per_s" in note for note in outcome.notes)


def test_another_machine_is_not_comparable_unless_allowed(rules: Rules) -> None:
    new = times(1.0)
    new.runs[0].facts = {"cpu.product": "EPYC"}
    old = one("old", {"decode_tok_per_s": FAST})
    outcome = gate.gate(new, old, rules)
    assert outcome.exit == Exit.NOT_COMPARABLE
    assert "cpu.product Graviton4 against EPYC" in outcome.summary
    assert "--allow cpu.product" in outcome.summary
    assert gate.gate(new, old, rules, allow=("cpu.product",)).exit == Exit.FINE
    new.runs[0].facts = {}  # what is not known is not held against it
    assert gate.gate(new, old, rules).exit == Exit.FINE


def test_a_regression_is_one_whatever_stays_open_beside_it(rules: Rules) -> None:
    old = one("old", {"decode_tok_per_s": FAST, "prefill_tok_per_s": NOISY})
    slow = {"decode_tok_per_s": [0.7 * x for x in FAST], "prefill_tok_per_s": NOISY}
    assert gate.gate(one("new", slow), old, rules).exit == Exit.REGRESSION


def test_shares_that_may_be_zero_are_gated_by_difference(rules: Rules) -> None:
    old = one("old", {"failed_share": [0.0, 0.0, 0.0]})
    assert gate.gate(one("new", {"failed_share": [0.0, 0.0, 0.0]}), old, rules).exit == Exit.FINE
    failing = one("new", {"failed_share": [0.04, 0.05, 0.06]})
    assert gate.gate(failing, old, rules).exit == Exit.REGRESSION


def test_many_gated_metrics_are_corrected_for_their_number(rules: Rules) -> None:
    """A change that stands by itself is not enough among thirteen."""
    near = {"decode_tok_per_s": [8.95, 8.75, 8.65, 8.85]}
    quiet = {"decode_tok_per_s": [10.2, 10.0, 9.8, 10.0]}
    rules.margin.separate = 0.1
    single = [case_values(quiet)], [case_values(near)]
    assert _gate(*single, rules).exit == Exit.REGRESSION
    steady = [case_values({"decode_tok_per_s": NOISY}, batch=str(n)) for n in range(2, 14)]
    many = [*single[0], *steady], [*single[1], *steady]
    assert _gate(*many, rules).exit == Exit.INCONCLUSIVE
    rules.correction = "none"
    assert _gate(*many, rules).exit == Exit.REGRESSION


def _gate(old: list[object], new: list[object], rules: Rules) -> GateOutcome:
    a, b = side("old", run_values(*old)), side("new", run_values(*new, file="b.json"))
    return gate.gate(b, a, rules)


HOSTILE = [
    "<script>alert(1)</script>",
    "a | b\n| c",
    "`</code>` @everyone #1 [x](javascript:alert(1))",
    "]]> <!-- & \" '",
    "\x00\x1b[31m\ud800\uffff",
    "![x](http://evil/?q=1)",
]


def outcome_of(name: str, text: str) -> GateOutcome:
    rows = [
        GateRow(case=name, metric=name, state="regressed", text=text),
        GateRow(case=name, metric=name, state="inconclusive", text=text),
        GateRow(case=name, metric=name, state="unchanged", text=text),
    ]
    return GateOutcome(exit=3, summary=text, rows=rows, failing=[name], notes=[text])


@given(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40)))
def test_junit_is_well_formed_whatever_the_names_are(name: str) -> None:
    body = gate_files.junit(outcome_of(name, name))
    suite = ET.fromstring(body.encode("utf-8", "surrogatepass"))[0]
    assert suite.attrib["tests"] == "3"
    assert [child.tag for child in suite[0]] == ["failure", "system-out"]
    assert len(suite.findall("testcase")) == 3


@given(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40)))
def test_markdown_keeps_every_foreign_text_inside_a_code_span(name: str) -> None:
    """Outside of code spans there is nothing but our own words and table rules."""
    lines = gate_files.gate_markdown(outcome_of(name, name)).splitlines()
    outside = [strip_code(line) for line in lines]
    assert all("<" not in text and "@" not in text and "](" not in text for text in outside)
    body = [line for line in lines if line.startswith("| ")]
    assert len({unescaped_pipes(line) for line in body}) == 1


def strip_code(line: str) -> str:
    parts = line.split("`")
    assert len(parts) % 2 == 1, line  # every span is closed on its own line
    return "".join(parts[::2])


def unescaped_pipes(line: str) -> int:
    return line.replace("\\|", "").count("|")


def test_counts_of_junit_fit_its_cases(rules: Rules) -> None:
    old = one("old", {"decode_tok_per_s": FAST, "prefill_tok_per_s": NOISY})
    slow = {"decode_tok_per_s": [0.7 * x for x in FAST], "prefill_tok_per_s": NOISY}
    suite = ET.fromstring(gate_files.junit(gate.gate(one("new", slow), old, rules)).encode())[0]
    counts = {name: suite.attrib[name] for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "2", "failures": "1", "errors": "0", "skipped": "1"}


def test_an_outcome_without_rows_is_an_error_in_junit() -> None:
    suite = ET.fromstring(gate_files.junit(gate.refused("another machine", [])).encode())[0]
    assert (suite.attrib["tests"], suite.attrib["errors"]) == ("1", "1")


def test_markdown_fits_into_a_comment(rules: Rules) -> None:
    rows = [
        GateRow(case=f"case {n}", metric="x", state="unchanged", text="y" * 200)
        for n in range(2000)
    ]
    text = gate_files.gate_markdown(GateOutcome(exit=0, summary="passed", rows=rows))
    assert len(text) < 65_536
    assert "cut here" in text


def test_what_is_cut_is_folded_in_again_and_two_fit_into_a_comment(rules: Rules) -> None:
    columns = {"decode_tok_per_s": FAST}
    told = [{f"fact{n}": letter * 150 for n in range(200)} for letter in "ab"]
    old, new = (
        side(label, run_values(case_values(columns), file=label, facts=facts))
        for label, facts in zip(("old", "new"), told, strict=True)
    )
    text = gate_files.gate_markdown(gate.gate(new, old, rules))
    assert 25_000 < len(text) < 65_536 // 2
    assert text.index("<details>") < text.index("cut here") < text.index("</details>")
    assert text.count("<details>") == text.count("</details>") == 1
    rows = [GateRow(case=f"case {n}", metric="x", state="unchanged", text="y") for n in range(2000)]
    plain = gate_files.gate_markdown(GateOutcome(exit=0, summary="passed", rows=rows))
    assert "cut here" in plain
    assert "details>" not in plain


@pytest.mark.parametrize("currency", ["<img src=x> @you [x](https://x)", "x\n\n# y\n@you"])
def test_a_currency_is_no_markdown(currency: str, rules: Rules) -> None:
    columns = {"output_tok_per_s": FAST}
    old, new = (
        side(label, run_values(case_values(columns), file=label, price=price(amount, currency)))
        for label, amount in (("old", 1.0), ("new", 2.0))
    )
    lines = gate_files.gate_markdown(gate.gate(new, old, rules)).splitlines()
    assert any("you" in line for line in lines)
    outside = [strip_code(line) for line in lines if "details>" not in line]
    assert all(mark not in text for text in outside for mark in ("<", "@", "](", "# y"))


def price(amount: float, currency: str) -> Price:
    return Price(
        provider="x",
        sku="x",
        amount=amount,
        currency=currency,
        unit="instance-hour",
        source="s",
        as_of=datetime.date(2026, 1, 1),
    )


def test_the_sheet_puts_what_fails_first(rules: Rules) -> None:
    old = one("old", {"decode_tok_per_s": FAST, "prefill_tok_per_s": FAST})
    mixed = {"decode_tok_per_s": [0.7 * x for x in FAST], "prefill_tok_per_s": FAST}
    outcome = gate.gate(one("new", mixed), old, rules)
    sheet = sheets.gate_sheet(outcome)
    assert [line[0] for line in sheet.rows] == ["regressed", "unchanged"]
    assert all(len(line) == len(sheet.columns) for line in sheet.rows)
    assert outcome.comparison is not None
    for each in sheets.comparison_sheets(outcome.comparison):
        assert all(len(line) == len(each.columns) for line in each.rows)
    assert json.loads(gate_files.as_json(outcome))["exit"] == 3
    assert "ratio" in gate_files.comparison_markdown(outcome.comparison)


def blocks(label: str, columns: dict[str, list[float | None]]) -> Runs:
    """A side of interleaved blocks, two runs in each."""
    each = len(next(iter(columns.values())))
    runs = [
        run_values(
            case_values({name: [column[n]] for name, column in columns.items()}),
            file=f"{label}{n}.json",
            block=n // 2,
        )
        for n in range(each)
    ]
    return side(label, *runs)


def test_a_metric_that_the_head_tells_in_no_block_never_passes(rules: Rules) -> None:
    rate: list[float | None] = [10.0, 10.01, 9.99, 10.0] * 5
    base = blocks("base", {"decode_tok_per_s": rate, "ttft_p99_s": [1.0, 1.01] * 10})
    outcome = gate.gate(blocks("head", {"decode_tok_per_s": rate}), base, rules)
    assert outcome.exit == Exit.INVALID
    assert not any("told by neither side: ttft_p99_s" in note for note in outcome.notes)
    (lost,) = [row for row in outcome.rows if row.state == "invalid"]
    assert (lost.metric, lost.text) == (
        "ttft_p99_s",
        "the baseline tells it, the new side does not",
    )


def test_a_metric_that_one_case_of_a_run_lacks_is_told_of_the_other(rules: Rules) -> None:
    """Cases of one run are paired by their rounds, of which none may have both."""
    columns = {"decode_tok_per_s": FAST, "prefill_tok_per_s": FAST}
    cases = [case_values(columns, engine="torch"), case_values({}, engine="fake")]
    cases[1].values, cases[1].repeats = {"decode_tok_per_s": FAST}, list(range(4))  # type: ignore[dict-item]
    sides = [side(c.question["engine"], run_values(c, file="same.json")) for c in cases]
    outcome = gate.gate(sides[1], sides[0], rules, vary=("engine",))
    assert outcome.exit == Exit.INVALID
    assert "does not" in next(r.text for r in outcome.rows if r.state == "invalid")


def searched(label: str, *rates: float, loads: int = 0) -> Runs:
    """A side that searched for its capacity over `rates`, after so many loads that were asked."""
    points = [ServingLoad(concurrency=n + 1) for n in range(loads)]
    points += [ServingLoad(arrivals=Arrivals(process="constant", rate=rate)) for rate in rates]
    cases = [
        Case(
            id=number,
            variant=Variant(engine="endpoint", dtype=None, threads=None),
            load=LoadPoint(
                kind="open" if point.arrivals else "closed",
                batch=1,
                input_tokens=64,
                output_tokens=32,
                requests=8,
                serving=point,
            ),
        )
        for number, point in enumerate(points)
    ]
    probes = [
        Probe(case=n, rate=rate, sent=8, attained=8, low=0.7, high=1.0, verdict="holds")
        for n, rate in enumerate(rates, start=loads)
    ]
    slo = Slo(name="x", bounds=(), target=0.9)
    found = Capacity(slo=slo, rate=rates[-1], low=None, high=None, probes=probes)
    made = result(
        plan={"cases": cases, "repeats": 1},
        trials=[trial(case=case.id) for case in cases],
        capacities=[found],
    )
    return side(label, values.of_result(made, f"{label}.json"))


def test_rates_that_two_capacity_searches_tried_are_not_held_against_each_other(
    rules: Rules,
) -> None:
    new, old = searched("new", 2, 4, 6, loads=1), searched("old", 2, 4, 3, loads=1)
    outcome = gate.gate(new, old, rules)
    assert outcome.exit != Exit.INVALID
    assert {row.case for row in outcome.rows} == {new.runs[0].cases[0].label}
    assert "new: 3 rates that a capacity search tried are left out" in outcome.notes


def test_a_capacity_search_alone_is_not_comparable(rules: Rules) -> None:
    new, old = (searched(name, 2, 4) for name in ("new", "old"))
    outcome = gate.gate(new, old, rules)
    assert outcome.exit == Exit.NOT_COMPARABLE
    assert "nothing but 2 rates that a capacity search tried" in outcome.summary
    assert gate.gate(times(1.0), old, rules).exit == Exit.NOT_COMPARABLE
