"""The four verdicts, their margin, and the correction for many."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.comparing import margin, rules
from harness.comparing.contrast import Contrast
from harness.comparing.ratio import Side, contrast_of, ratio
from harness.comparing.verdict import Correction, adjust, decide
from harness.errors import ArmbenchError
from harness.records.comparison import AaEntry, Margin

LIMIT = Margin(value=0.03, source="test")
STEADY = [1.0, 1.001, 0.999, 1.0005]


def verdict(a: list[float], b: list[float], direction: str = "higher") -> tuple[str | None, str]:
    found = contrast_of(Side(values=a), Side(values=b), paired=False)
    shown = ratio(Side(values=a), Side(values=b))
    p = found.p_beyond(LIMIT.value) if found else None
    return decide(found, shown, LIMIT, direction, p)  # type: ignore[arg-type]


def test_beyond_the_margin_is_a_change_and_the_direction_gives_it_its_name() -> None:
    slower = [0.9 * x for x in STEADY]
    assert verdict(STEADY, slower)[0] == "regressed"
    assert verdict(slower, STEADY)[0] == "improved"
    assert verdict(STEADY, slower, "lower")[0] == "improved"
    assert verdict(STEADY, slower, "none")[0] is None


def test_inside_the_margin_is_unchanged_even_where_the_change_is_certain() -> None:
    assert verdict(STEADY, [0.985 * x for x in STEADY])[0] == "unchanged"


def test_across_the_margin_is_inconclusive_which_is_not_the_same_as_unchanged() -> None:
    noisy = [0.8, 1.0, 1.2, 1.1]
    word, why = verdict(noisy, [1.01 * x for x in noisy])
    assert word == "inconclusive"
    assert "reaches over" in why


@pytest.mark.parametrize("n", [0, 1, 2])
def test_there_is_no_verdict_below_three_repeats(n: int) -> None:
    word, why = verdict([1.0, 1.0001, 1.0][:n], [2.0, 2.0001, 2.0][:n])
    assert word == "inconclusive"
    assert why


def test_where_a_rank_test_could_speak_it_must_agree() -> None:
    found = Contrast(effect=0.5, se=0.01, df=6, n=(4, 4), scale="ratio", method="")
    shown = ratio(Side(values=[1.0, 1.1, 1.2, 1.3]), Side(values=[1.05, 1.15, 1.25, 1.35]))
    word, why = decide(found, shown, LIMIT, "higher", 0.0)
    assert word == "inconclusive"
    assert "exact test" in why


def test_where_there_is_a_bootstrap_interval_it_must_agree() -> None:
    found = Contrast(effect=0.5, se=0.01, df=40, n=(20, 20), scale="ratio", method="")
    shown = ratio(Side(values=[1.0] * 19 + [1.1]), Side(values=[1.0] * 19 + [1.2]))
    shown.rank_p = None
    assert shown.bootstrap is not None
    assert decide(found, shown, LIMIT, "higher", 0.0)[0] == "inconclusive"


def test_a_change_that_stands_only_by_itself_does_not_stand_among_many() -> None:
    found = Contrast(effect=0.2, se=0.06, df=6, n=(4, 4), scale="ratio", method="")
    shown = ratio(Side(values=[1.0, 1.1]), Side(values=[1.2, 1.4]))
    alone = found.p_beyond(LIMIT.value)
    assert alone is not None
    assert alone < 0.05
    assert decide(found, shown, LIMIT, "higher", alone)[0] == "improved"
    word, why = decide(found, shown, LIMIT, "higher", min(1.0, 8 * alone))
    assert word == "inconclusive"
    assert "not among so many" in why


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_between_no_correction_and_bonferroni(ps: list[float]) -> None:
    raised = adjust(ps, "holm")
    for p, q in zip(ps, raised, strict=True):
        assert q is not None
        assert p <= q <= min(1.0, p * len(ps)) + 1e-12
    order = sorted(range(len(ps)), key=ps.__getitem__)
    ranked = [raised[i] for i in order]
    assert ranked == sorted(ranked)  # type: ignore[type-var]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_benjamini_hochberg_is_scipys(ps: list[float]) -> None:
    from scipy.stats import false_discovery_control

    assert adjust(ps, "benjamini-hochberg") == pytest.approx(list(false_discovery_control(ps)))


@pytest.mark.parametrize("correction", ["holm", "benjamini-hochberg", "none"])
def test_what_has_no_p_counts_for_nothing(correction: Correction) -> None:
    assert adjust([None, 0.04, None], correction) == [None, pytest.approx(0.04), None]
    assert adjust([None], correction) == [None]


def entry(ratio: float, *, setting: str = "interleaved", question: str = "q") -> AaEntry:
    return AaEntry(
        at="2026-11-01T00:00:00+00:00",
        machine="m",
        question=question,
        setting=setting,  # type: ignore[arg-type]
        n=5,
        ratios={"decode_tok_per_s": math.log(ratio)},
    )


def test_without_enough_a_a_runs_the_margin_is_the_default_and_says_so() -> None:
    shipped = rules.read()
    found = margin.of_metric("decode_tok_per_s", shipped, "separate", [entry(1.01)] * 9)
    assert found.value == shipped.margin.separate
    assert "no A/A" in found.source
    few = margin.of_metric("decode_tok_per_s", shipped, "interleaved", [entry(1.01)] * 4)
    assert few.value == shipped.margin.interleaved
    assert "only 4" in few.source


def test_with_enough_a_a_runs_the_margin_bounds_the_next_one() -> None:
    from scipy.stats import t

    ratios = [1.01, 0.99, 1.02, 0.98, 1.0, 1.01]
    every = [entry(r) for r in ratios] + [entry(3.0, question="other")]
    found = margin.of_metric("decode_tok_per_s", rules.read(), "interleaved", every, "q")
    spread = math.sqrt(sum(math.log(r) ** 2 for r in ratios) / 6)
    assert found.value == pytest.approx(math.expm1(t.ppf(0.975, 6) * spread))
    assert found.n == 6
    elsewhere = margin.of_metric("decode_tok_per_s", rules.read(), "interleaved", every, "new")
    assert elsewhere.value > found.value
    assert "other questions" in elsewhere.source


@pytest.mark.parametrize("bound", [margin.from_ratios, margin.from_runs])
@pytest.mark.parametrize("pairs", [5, 6, 25])
def test_the_next_a_a_comparison_stays_within_the_margin_19_times_in_20(
    pairs: int, bound: Callable[[list[float]], float]
) -> None:
    rng, inside, tries = random.Random(2), 0, 4000
    for _ in range(tries):
        seen = [rng.gauss(0, 0.01) for _ in range(pairs)]
        inside += abs(rng.gauss(0, 0.01)) <= math.log1p(bound(seen))
    assert inside / tries == pytest.approx(0.95, abs=0.012)


def test_one_step_between_separate_runs_does_not_set_their_margin() -> None:
    quiet = [entry(r, setting="separate") for r in (1.01, 0.99, 1.008, 0.995, 1.004, 0.992, 1.01)]
    step = entry(1.25, setting="separate")
    found = [
        margin.of_metric("decode_tok_per_s", rules.read(), "separate", entries)
        for entries in (quiet, [*quiet[:-1], step])
    ]
    assert found[0].n == found[1].n == 7
    assert found[1].value < 1.3 * found[0].value < 0.05


def test_a_perfectly_quiet_machine_still_has_a_least_margin() -> None:
    found = margin.of_metric("decode_tok_per_s", rules.read(), "interleaved", [entry(1.0)] * 6)
    assert found.value == rules.read().margin.least


def test_tolerances_and_absolute_margins_come_from_the_rules() -> None:
    shipped = rules.read()
    assert margin.of_metric("peak_rss_bytes", shipped, "interleaved").value == 0.05
    assert margin.of_metric("slo_attainment", shipped, "interleaved").value == 0.01
    assert shipped.scale("slo_attainment") == "difference"
    assert shipped.scale("decode_tok_per_s") == "ratio"


def test_every_gated_metric_is_better_one_way() -> None:
    shipped = rules.read()
    assert shipped.gate
    assert all(shipped.direction(name) != "none" for name in shipped.gate)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("alpha = 2.0", "alpha is 2.0"),
        ('gate = ["tokens"]', "unknown metric 'tokens'"),
        ("[metrics.decode_tok_per_sec]\nmargin = 0.1", "unknown metric"),
        ("[margin]\nseparate = -0.1", "margin.separate is -0.1"),
        ("[metrics.mbu]\nmargin = inf", "mbu.margin is inf"),
        ("correction = 'sidak'", "correction"),
        ("nonsense = 1", "nonsense"),
        ('must_match = ["cpu.produkt"]', "unknown fact of must_match 'cpu.produkt'"),
        ("alpha =", "not valid TOML"),
    ],
)
def test_rules_that_no_gate_could_use_are_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    with pytest.raises(ArmbenchError, match=words.replace("(", r"\(")):
        rules.read(path)


def test_own_rules_go_on_top_of_the_shipped_ones(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text("[margin]\nseparate = 0.2\n[metrics.mbu]\nmargin = 0.5\n")
    found = rules.read(path)
    assert found.margin.separate == 0.2
    assert found.margin.interleaved == rules.read().margin.interleaved
    assert found.rule("mbu").margin == 0.5
    assert found.rule("peak_rss_bytes").margin == 0.05


def test_a_row_of_own_rules_keeps_what_it_does_not_name(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text('[metrics.failed_share]\ndirection = "lower"\n')
    found = rules.read(path)
    assert found.rule("failed_share").absolute == rules.read().rule("failed_share").absolute
    assert found.scale("failed_share") == "difference"
