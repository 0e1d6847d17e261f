"""compare, gate, power, import and export as a user calls them, on the committed result."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from harness import store
from harness.errors import Exit
from tests.test_run import armbench

(RESULT,) = Path(__file__).parents[1].glob("results/*/quick/*.json")


def test_a_result_passes_against_itself_and_fails_when_it_is_slower(tmp_path: Path) -> None:
    same = armbench("gate", str(RESULT), "--baseline", str(RESULT))
    assert same.returncode == Exit.FINE, same.stderr
    slow = store.load(RESULT)
    for trial in slow.trials:
        for record in trial.records:
            start = record.started_ns or record.sent_ns
            record.token_ns = [start + 3 * (t - start) for t in record.token_ns]
        if trial.window_ns is not None:
            trial.window_ns = (
                trial.window_ns[0],
                max(t for r in trial.records for t in r.token_ns),
            )
    store.save(slow, tmp_path / "slow.json")
    junit, page = tmp_path / "gate.xml", tmp_path / "gate.md"
    worse = armbench(
        *("gate", str(tmp_path / "slow.json"), "--baseline", str(RESULT)),
        *("--junit", str(junit), "--markdown", str(page)),
    )
    assert worse.returncode == Exit.REGRESSION, worse.stdout
    assert "<failure" in junit.read_text()
    assert "regressed" in page.read_text()


def test_an_empty_result_never_passes(tmp_path: Path) -> None:
    result = store.load(RESULT)
    result.trials = []
    result.summary = {}
    (tmp_path / "empty.json").write_bytes(msgspec.json.encode(result))
    done = armbench("gate", str(tmp_path / "empty.json"), "--baseline", str(RESULT))
    assert done.returncode == Exit.INVALID, done.stdout


def test_compare_needs_two_results_and_shows_ratios() -> None:
    assert armbench("compare", str(RESULT)).returncode == Exit.USER
    done = armbench("compare", str(RESULT), str(RESULT), "--json")
    assert done.returncode == Exit.FINE, done.stderr
    assert json.loads(done.stdout)["pairs"]


def test_power_says_what_the_repeats_would_show() -> None:
    done = armbench("power", str(RESULT), "--effect", "5%")
    assert done.returncode == Exit.FINE, done.stderr
    assert "decode_tok_per_s" in done.stdout
    assert armbench("power", str(RESULT), "--effect", "much").returncode == Exit.USER


def test_what_is_exported_for_llama_bench_is_imported_again(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    done = armbench("export", str(RESULT), "--format", "llama-bench-jsonl", "-o", str(file))
    assert done.returncode == Exit.FINE, done.stderr
    assert "left out" in done.stderr  # batched cases have no place there
    taken = armbench("import", str(file), "--results", str(tmp_path / "results"))
    assert taken.returncode == Exit.FINE, taken.stderr
    result = store.load(Path(taken.stdout.split()[0]))
    assert {case.variant.threads for case in result.plan.cases} == {2}
    assert result.tool is not None
