"""Runs over time: steps are found, noise is not, and the index only grows."""

from __future__ import annotations

import math
import random
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import baseline, changepoint, gate, history, steps, store
from harness.comparing import margin, rules, samples, values
from harness.comparing.samples import Runs
from harness.errors import ArmbenchError, Exit, NotComparable
from harness.history import History
from harness.records.comparison import AaEntry, Margin, RunValues, Step
from harness.records.run import Result
from harness.reports.history import history_sheet
from harness.reports.reading import Reading
from tests.comparing.builders import case_values, result, run_values

MARGIN = Margin(value=0.05, source="test")


def noise(n: int, seed: int, level: float = 100.0, spread: float = 0.01) -> list[float]:
    rng = random.Random(seed)
    return [level * math.exp(rng.gauss(0, spread)) for _ in range(n)]


def test_a_step_is_found_where_it_is() -> None:
    levels = [*noise(20, 1), *noise(15, 2, level=90.0)]
    found = changepoint.changes(levels)
    assert [c.at for c in found] == [20]
    assert found[0].p <= 0.01


def test_two_steps_are_found_and_an_outlier_is_none() -> None:
    levels = [*noise(15, 1), *noise(15, 2, level=80.0), *noise(15, 3, level=95.0)]
    levels[5], levels[22] = 10.0, 500.0
    assert [c.at for c in changepoint.changes(levels)] == [15, 30]


def test_noise_alone_has_a_step_at_most_once_in_50() -> None:
    tries = 500
    wrong = sum(bool(changepoint.changes(noise(25, 7 * n + 1), seed=n)) for n in range(tries))
    assert wrong / tries <= 0.02


@pytest.mark.parametrize("n", range(10))
def test_below_ten_values_nothing_is_claimed(n: int) -> None:
    levels = [1.0] * (n // 2) + [2.0] * (n - n // 2)
    assert changepoint.changes(levels) == []


@given(st.lists(st.floats(1, 100), min_size=0, max_size=30), st.floats(0.1, 10))
def test_steps_do_not_depend_on_the_unit(levels: list[float], factor: float) -> None:
    scaled = [x * factor for x in levels]
    if len(set(scaled)) == len(set(levels)):
        assert changepoint.changes(scaled) == changepoint.changes(levels)


def test_a_constant_series_has_no_step() -> None:
    assert changepoint.changes([3.0] * 50) == []


def test_a_step_within_the_margin_is_unchanged() -> None:
    levels = [*noise(20, 1, spread=0.001), *noise(20, 2, level=98.0, spread=0.001)]
    at = [str(i) for i in range(40)]
    assert [s.verdict for s in steps.steps(levels, at, "higher", MARGIN, "ratio")] == ["unchanged"]
    levels = [*noise(20, 1), *noise(20, 2, level=80.0)]
    for direction, word in (("higher", "regressed"), ("lower", "improved"), ("none", None)):
        step = steps.steps(levels, at, direction, MARGIN, "ratio")[0]  # type: ignore[arg-type]
        assert (step.index, step.at, step.verdict) == (20, "20", word)
        assert step.ratio == pytest.approx(0.8, abs=0.02)


def stepped(*levels: float) -> list[Step]:
    every = [x for n, level in enumerate(levels) for x in noise(15, n, level, spread=0.001)]
    return steps.steps(every, [str(i) for i in range(len(every))], "higher", MARGIN, "ratio")


@pytest.mark.parametrize(
    ("levels", "word"),
    [
        ((100,), None),
        ((100, 70, 69), "regressed"),  # the last step alone is within the margin
        ((100, 97, 94, 91), "regressed"),
        ((100, 70, 101), "unchanged"),
        ((100, 130, 105), "regressed"),  # an improvement is what is held from then on
        ((100, 98), "unchanged"),
    ],
)
def test_the_newest_level_is_held_against_the_last_improvement_or_the_first_level(
    levels: tuple[float, ...], word: str | None
) -> None:
    found = stepped(*levels)
    assert len(found) == len(levels) - 1
    assert steps.newest(found, "higher", MARGIN, "ratio") == word


def test_a_step_of_a_metric_with_an_absolute_margin_is_a_difference(tmp_path: Path) -> None:
    """From no failure to one in 2000 is infinitely more, and nothing."""
    levels = [*[0.0] * 12, *[0.0005] * 12, *[0.05] * 12]
    shares = [case_values({"failed_share": [level]}) for level in levels]
    every = [
        run_values(case, file=str(n), created=f"2026-10-01T00:00:{n:02}+00:00")
        for n, case in enumerate(shares)
    ]
    shipped = rules.read()

    def allowed(metric: str, key: str) -> Margin:
        return margin.of_metric(metric, shipped, "separate", [], key)

    (found,) = indexed(tmp_path, every).series(["failed_share"], shipped, allowed)
    assert [(s.index, s.verdict) for s in found.steps] == [(12, "unchanged"), (24, "regressed")]
    assert found.newest == "regressed"
    assert "newest level is worse" in history_sheet([found]).notes[-1]


def run_at(day: int, level: float, **more: object) -> RunValues:
    case = case_values({"decode_tok_per_s": [level, level * 1.001]})
    created = f"2026-10-{day:02}T00:00:00+00:00"
    return run_values(case, file=f"{day}.json", created=created, **more)


def indexed(where: Path, every: list[RunValues]) -> History:
    """A history of these runs."""
    where.mkdir(parents=True, exist_ok=True)
    parts = [history.split(run) for run in every]
    heads = {head.key: head for head, _ in parts}.values()
    for name, lines in ((history.HEADS, heads), (history.RUNS, [line for _, line in parts])):
        (where / name).write_bytes(b"".join(msgspec.json.encode(x) + b"\n" for x in lines))
    return History(where)


def test_a_history_shows_each_metric_over_time_with_its_steps(tmp_path: Path) -> None:
    levels = [*noise(12, 1), *noise(12, 2, level=70.0)]
    every = [run_at(day + 1, level) for day, level in enumerate(levels)]
    kept = indexed(tmp_path, every)
    assert len(kept.heads) == 1
    found = kept.series(["decode_tok_per_s"], rules.read(), lambda m, k: MARGIN)
    assert len(found) == 1
    assert [s.verdict for s in found[0].steps] == ["regressed"]
    assert found[0].steps[0].at == "2026-10-13T00:00:00+00:00"
    assert found[0].unit == "tok/s"
    short = indexed(tmp_path / "short", every[:5])
    told = short.series(["decode_tok_per_s"], rules.read(), lambda m, k: MARGIN)
    assert "5 runs" in str(told[0].note)
    for sheet in (history_sheet(found), history_sheet(told)):
        assert all(len(line) == len(sheet.columns) for line in sheet.rows)
    with pytest.raises(ArmbenchError, match="unknown metric"):
        kept.series(["speed"], rules.read(), lambda m, k: MARGIN)


def test_invalid_cases_are_no_part_of_a_history(tmp_path: Path) -> None:
    bad = run_at(1, 100.0)
    bad.cases[0].valid = False
    assert indexed(tmp_path, [bad]).by_question() == {}


def aa_of(where: Path, every: list[RunValues], **more: str) -> list[AaEntry]:
    return indexed(where, every).aa(["decode_tok_per_s", "mbu"], rules.read(), **more)  # type: ignore[arg-type]


def test_neighbouring_runs_of_the_same_commit_are_a_a_comparisons(tmp_path: Path) -> None:
    every = [run_at(day, 100.0 + day, commit="c0ffee") for day in range(1, 8)]
    every[6].commit = "decaf"
    found = aa_of(tmp_path, every)
    assert len(found) == 3  # six alike make three pairs; the seventh is another commit
    assert {e.setting for e in found} == {"separate"}
    assert found[0].ratios == {"decode_tok_per_s": pytest.approx(math.log(102 / 101))}


def test_runs_of_unknown_or_several_commits_are_no_a_a_comparisons(tmp_path: Path) -> None:
    every = [run_at(day, 100.0) for day in range(1, 5)]
    assert aa_of(tmp_path, every) == []
    history.note(tmp_path, "main", ["1.json", "2.json", "3.json", "4.json"])
    for file in ("1.json", "2.json", "3.json", "4.json"):
        history.note(tmp_path, "main", [file], commit="c0ffee")  # it had its label already
    assert len(History(tmp_path).aa(["decode_tok_per_s"], rules.read())) == 2
    history.note(tmp_path, "other", ["4.json"], commit="decaf")
    assert len(History(tmp_path).aa(["decode_tok_per_s"], rules.read())) == 1


@pytest.mark.parametrize(
    "name", ["memory.total", "software.torch", "target.server", "engine.compute_threads"]
)
def test_runs_in_another_environment_are_no_a_a_comparison(name: str, tmp_path: Path) -> None:
    every = [run_at(day, 100.0, commit="c0ffee") for day in (1, 2)]
    assert len(aa_of(tmp_path / "same", every)) == 1
    of = every[1].cases[0] if name.startswith("engine.") else every[1]
    of.facts = {**of.facts, name: "other"}
    assert aa_of(tmp_path / "other", every) == []


def test_what_is_judged_and_what_came_later_have_no_part_in_its_margin(tmp_path: Path) -> None:
    every = [run_at(day, 100.0, commit="c0ffee") for day in range(1, 9)]
    assert len(aa_of(tmp_path, every)) == 4
    assert len(aa_of(tmp_path, every, before=every[5].created)) == 2  # days 1 to 5


def test_margins_narrow_as_a_history_grows(tmp_path: Path) -> None:
    every = [run_at(day, level, commit="c0ffee") for day, level in enumerate(noise(24, 4), start=1)]
    entries = aa_of(tmp_path, every)
    shipped, key = rules.read(), entries[0].question
    found = margin.of_metric("decode_tok_per_s", shipped, "separate", entries, key)
    assert found.n == 12
    assert 0.01 < found.value < shipped.margin.separate


def keep(results: Path, made: Result, name: str, plan: str = "quick") -> Path:
    folder = results / "aws-c8g.large" / plan
    folder.mkdir(parents=True, exist_ok=True)
    store.save(made, folder / f"{name}.json")
    return folder / f"{name}.json"


def kept_in(results: Path) -> History:
    return History(history.folder(results, "aws-c8g.large"))


def test_the_index_takes_each_finished_result_once(tmp_path: Path) -> None:
    keep(tmp_path, result(), "1")
    keep(tmp_path, result(finished=False), "2")
    keep(tmp_path, result(), "3").write_text("{ cut off")
    keep(tmp_path, result(), "4", plan="ceilings")
    assert history.index(tmp_path, "aws-c8g.large", ref="main", commit="c0ffee") == 1
    assert history.index(tmp_path, "aws-c8g.large") == 0
    keep(tmp_path, result(), "2")  # it was finished meanwhile
    assert history.index(tmp_path, "aws-c8g.large") == 1
    lines = kept_in(tmp_path).lines
    assert [(x.file, x.ref) for x in lines] == [("quick/1.json", "main"), ("quick/2.json", None)]


def test_a_line_that_was_cut_off_is_passed_over_and_spoils_no_other(tmp_path: Path) -> None:
    keep(tmp_path, result(), "1")
    history.index(tmp_path, "aws-c8g.large")
    with (kept_in(tmp_path).where / history.RUNS).open("ab") as file:
        file.write(b'{"file": "half')
    assert len(kept_in(tmp_path).lines) == 1
    keep(tmp_path, result(), "2")
    assert history.index(tmp_path, "aws-c8g.large") == 1
    assert len(kept_in(tmp_path).lines) == 2
    assert History(tmp_path / "nowhere").lines == []


def test_a_run_of_the_index_is_the_result_with_one_value_for_each_metric(tmp_path: Path) -> None:
    path = keep(tmp_path, result(), "1")
    history.index(tmp_path, "aws-c8g.large", ref="main")
    kept = kept_in(tmp_path)
    run, whole = kept.run(kept.lines[0]), values.of_result(store.load(path), "quick/1.json")
    assert (run.facts, run.created, run.plan) == (whole.facts, whole.created, whole.plan)
    assert run.cases[0].question == whole.cases[0].question
    rate = run.cases[0].values["decode_tok_per_s"]
    assert rate == [
        pytest.approx(statistics.geometric_mean(whole.cases[0].values["decode_tok_per_s"]))
    ]


def new_side(steps_ms: Sequence[float] = (10.0, 10.1, 9.9)) -> Runs:
    made = result(steps_ms, created="2026-11-02T00:00:00+00:00")
    return Runs(label="new", runs=[values.of_result(made, "new.json")])


def test_a_baseline_is_a_file_a_folder_a_label_or_a_branch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, shipped = tmp_path / "results", rules.read()
    path = keep(results, result(), "1")
    new = new_side()
    assert baseline.find(str(path), new, results, shipped).runs[0].file == str(path)
    assert len(baseline.find(str(path.parent), new, results, shipped).runs) == 1
    history.index(results, "aws-c8g.large", ref="nightly")
    found = baseline.find("nightly", new, results, shipped)
    assert (found.label, len(found.runs[0].cases[0].repeats)) == ("nightly (history)", 3)

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    git("config", "user.email", "a@b.c")
    git("config", "user.name", "x")
    git("add", "results/aws-c8g.large/quick")
    git("commit", "-qm", "baseline")
    monkeypatch.chdir(tmp_path / "results")
    found = baseline.find("main", new, results, shipped)
    assert found.runs[0].file == "main:results/aws-c8g.large/quick/1.json"
    assert found.runs[0].cases[0].values
    with pytest.raises(ArmbenchError, match="no baseline 'other'"):
        baseline.find("other", new, results, shipped)
    with pytest.raises(ArmbenchError, match="no baseline '--output=x'"):
        baseline.find("--output=x", new, results, shipped)


def test_a_folder_of_many_results_is_read_from_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        path = keep(tmp_path, result([10.0 + number / 50] * 3), str(number))
    keep(tmp_path, result(), "7", plan="other")
    plain = baseline.side(path.parent)
    monkeypatch.setattr(baseline, "INDEXED_FROM", 5)
    monkeypatch.setattr(baseline, "MOST_INDEXED", 4)
    found = baseline.side(path.parent, where={"engine": "torch"})
    assert len(plain.runs) == 6
    assert len(found.runs) == 4
    assert found.label.endswith("newest 4 of 6")
    assert [r.file for r in found.runs] == [f"quick/{n}.json" for n in (2, 3, 4, 5)]
    seen: list[Path] = []
    baseline.side(path.parent, reader=lambda p: seen.append(p) or store.load(p))  # type: ignore[func-returns-value]
    assert len(seen) == 1  # only to see whose folder it is
    elsewhere = tmp_path / "mine" / "quick"
    elsewhere.parent.mkdir()
    path.parent.rename(elsewhere)
    assert len(baseline.side(elsewhere).runs) == 6
    assert not (tmp_path / "mine" / "history").exists()


def test_what_was_indexed_before_an_interrupt_stays(tmp_path: Path) -> None:
    for number in range(3):
        keep(tmp_path, result(), str(number))
    seen: list[Path] = []

    def interrupted(path: Path) -> Result:
        seen.append(path)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return store.load(path)

    with pytest.raises(KeyboardInterrupt):
        history.index(tmp_path, "aws-c8g.large", reader=interrupted)
    assert history.index(tmp_path, "aws-c8g.large") == 1


def test_reading_speaks_up_where_it_takes_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, now = keep(tmp_path, result(), "1"), [0.0]
    with Reading(clock=lambda: now[0]) as reader:
        for now[0] in (1.0, 1.9, 3.0, 4.0, 12.0, 13.5):
            assert reader(path).finished
    assert capsys.readouterr().err.splitlines() == [
        "reading results: 3 so far",
        "reading results: 6 so far",
    ]


def test_many_runs_of_a_label_are_one_baseline_of_runs(tmp_path: Path) -> None:
    for number in range(6):
        keep(tmp_path, result([10.0 + number / 50] * 3), str(number))
    history.index(tmp_path, "aws-c8g.large", ref="main")
    shipped = rules.read()
    shipped.gate = ["decode_tok_per_s"]
    slow = new_side([13.0, 13.1, 12.9])
    old = baseline.find("main", slow, tmp_path, shipped)
    assert len(old.runs) == 6
    outcome = gate.gate(slow, old, shipped)
    assert outcome.exit == Exit.REGRESSION
    assert outcome.rows[0].row is not None
    assert outcome.rows[0].row.ratio.n == (6, 1)
    assert gate.gate(new_side(), old, shipped).exit == Exit.FINE


def test_the_new_run_is_no_part_of_its_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by label, nor in a folder, nor as a copy, nor committed on a branch."""
    results, shipped = tmp_path / "results", rules.read()
    old = result(created="2026-10-31T00:00:00+00:00")
    files = [keep(results, old, "20261031T000000Z"), keep(results, result(), "20261101T000000Z")]
    history.index(results, "aws-c8g.large", ref="nightly")
    repository = ["git", "-C", str(tmp_path), "-c", "user.email=a@b.c", "-c", "user.name=x"]
    for words in (["init", "-qb", "main"], ["add", "results"], ["commit", "-qm", "baseline"]):
        subprocess.run([*repository, *words], check=True, capture_output=True)
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "copy.json"
    copy.write_bytes(files[1].read_bytes())
    for new in (samples.load(files[1]), samples.load(copy)):
        for name in (str(files[0].parent), "nightly", "main"):
            found = baseline.find(name, new, results, shipped)
            assert [run.created for run in found.runs] == [old.created], name
    both = samples.load(files[0].parent)
    for name in (str(files[1]), "nightly", "main"):
        with pytest.raises(NotComparable, match="no run but the new one"):
            baseline.find(name, both, results, shipped)


@pytest.mark.parametrize("runs", [2, 3, 4])
def test_few_runs_of_a_label_still_lead_to_a_verdict(runs: int, tmp_path: Path) -> None:
    for number in range(runs):
        made = result([10.0, 10.1, 9.9], created=f"2026-10-0{number + 1}T00:00:00+00:00")
        keep(tmp_path, made, str(number))
    history.index(tmp_path, "aws-c8g.large", ref="main")
    shipped, slow = rules.read(), new_side([13.0, 13.1, 12.9])
    shipped.gate = ["decode_tok_per_s"]
    for name in ("main", str(tmp_path / "aws-c8g.large" / "quick")):
        old = baseline.find(name, slow, tmp_path, shipped)
        outcome = gate.gate(slow, old, shipped)
        assert outcome.exit == Exit.REGRESSION
        assert outcome.rows[0].row is not None
        assert outcome.rows[0].row.ratio.n == (3, 3)
        assert any("the newest of these" in note for note in outcome.notes)
    for path in tmp_path.glob("*/quick/*.json"):
        path.unlink()
    outcome = gate.gate(slow, baseline.find("main", slow, tmp_path, shipped), shipped)
    assert outcome.exit == Exit.INCONCLUSIVE
    assert f"note {5 - runs} more" in outcome.rows[0].text


def test_a_history_of_another_state_of_the_machine_is_no_baseline(tmp_path: Path) -> None:
    keep(tmp_path, result(), "1")
    history.index(tmp_path, "aws-c8g.large", ref="main")
    new = new_side()
    assert len(baseline.of_history("main", new, tmp_path, rules.read()).runs) == 1
    new.runs[0].facts["conditions.governor"] = "powersave"
    assert len(baseline.of_history("main", new, tmp_path, rules.read()).runs) == 1
    new.runs[0].facts["memory.total"] = "1 TiB"
    assert baseline.of_history("main", new, tmp_path, rules.read()).runs == []
