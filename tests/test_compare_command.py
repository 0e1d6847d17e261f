"""compare, gate, power, import and export as a user calls them, on the committed result."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from harness import store
from harness.errors import Exit
from tests.comparing.builders import machine
from tests.comparing.builders import result as made
from tests.inside import armbench

(RESULT,) = Path(__file__).parents[1].glob("results/*/quick/*.json")


def test_a_result_passes_against_its_like_and_fails_when_it_is_slower(tmp_path: Path) -> None:
    for name, step_ms in (("old", 10.0), ("like", 10.01), ("slow", 30.0)):
        store.save(made([step_ms, step_ms * 1.01, step_ms * 0.99]), tmp_path / f"{name}.json")
    words = ("--baseline", str(tmp_path / "old.json"))
    same = armbench("gate", str(tmp_path / "like.json"), *words)
    assert same.returncode == Exit.FINE, same.stdout
    junit, page = tmp_path / "gate.xml", tmp_path / "gate.md"
    worse = armbench(
        *("gate", str(tmp_path / "slow.json"), *words),
        *("--junit", str(junit), "--markdown", str(page)),
    )
    assert worse.returncode == Exit.REGRESSION, worse.stdout
    assert "<failure" in junit.read_text()
    assert "regressed" in page.read_text()


def test_a_result_is_never_its_own_baseline(tmp_path: Path) -> None:
    copy = tmp_path / "copy.json"
    copy.write_bytes(RESULT.read_bytes())
    for baseline in (RESULT, RESULT.parent, copy):
        done = armbench("gate", str(RESULT), "--baseline", str(baseline), "--where", "engine=torch")
        assert done.returncode == Exit.NOT_COMPARABLE, done.stdout
        assert "has no run but the new one" in done.stderr


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


def test_a_table_has_the_cases_and_the_metrics_that_are_asked_for() -> None:
    words = ("compare", str(RESULT), str(RESULT))
    done = armbench(*words, "--where", "engine=torch,load=offline", "--metrics", "ttft_p50_s,mbu")
    assert done.returncode == Exit.FINE, done.stderr
    table = done.stdout.partition("baseline: ")[0]
    assert "offline" in table
    assert "TTFT" in table
    assert "single_stream" not in table
    assert "onnxruntime" not in table
    assert "decode" not in table
    assert "RSS" in armbench(*words, "--metrics", "all").stdout
    for flag, value in (("--where", "torch"), ("--where", "engin=torch"), ("--metrics", "speed")):
        assert armbench(*words, flag, value).returncode == Exit.USER


def test_different_questions_are_refused_by_name_unless_only_says_what_makes_sense(
    tmp_path: Path,
) -> None:
    short, long = tmp_path / "short.json", tmp_path / "long.json"
    store.save(made(), short)
    store.save(made(load={"input_tokens": 128}), long)
    refused = armbench("compare", str(short), str(long))
    assert refused.returncode == Exit.NOT_COMPARABLE
    assert "input_tokens 64 against 128" in refused.stderr
    for words in (("--only", "decode_tok_per_s"), ("--vary", "input_tokens")):
        done = armbench("compare", str(short), str(long), *words)
        assert done.returncode == Exit.FINE, done.stderr
    assert "different questions, as --only allows: input_tokens" in armbench(
        "compare", str(short), str(long), "--only", "decode_tok_per_s"
    ).stdout.replace("\n", " ")


def test_machines_are_compared_over_all_that_both_ran_for_what_they_took(tmp_path: Path) -> None:
    for name, product, step in (("x86", "AMD EPYC Turin", 10.0), ("arm", "Graviton4", 8.0)):
        for plan, tokens in (("a", 64), ("b", 128)):
            on = machine(2 if name == "x86" else 4, product=product)
            one = made([step] * 3, on=on, load={"input_tokens": tokens}, plan={"name": plan})
            (tmp_path / name / plan).mkdir(parents=True)
            store.save(one, tmp_path / name / plan / "1.json")
    done = armbench("compare", str(tmp_path / "x86"), str(tmp_path / "arm"), "--json")
    assert done.returncode == Exit.FINE, done.stderr
    (pair,) = json.loads(done.stdout)["pairs"]
    assert len(pair["cases"]) == 2
    means = {m["basis"]: m for m in pair["geometric_means"] if m["metric"] == "decode_tok_per_s"}
    assert means["whole"]["n"] == 2
    assert abs(means["whole"]["ratio"] - 1.25) < 1e-6
    assert abs(means["physical core"]["ratio"] - 0.625) < 1e-6
    table = armbench("compare", str(tmp_path / "x86"), str(tmp_path / "arm")).stdout
    assert "per vCPU" in table
    assert "physical core: 2 against 4" in table
    assert "cpu.product" in table


def test_each_side_is_held_against_its_own_ceilings() -> None:
    done = armbench("compare", str(RESULT), str(RESULT))
    assert "against each side's own ceilings" in done.stdout
    assert "MBU, baseline" in done.stdout
