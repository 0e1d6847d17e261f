"""llama-bench: four formats say the same, rates are by definition, and what we write reads back."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import statistics
from pathlib import Path

import pytest
from msgspec import structs

from harness import interchange, store
from harness.errors import ArmbenchError
from harness.interchange import Told, llama_rows
from harness.records.run import Result

from . import made


def imported(tmp_path: Path, *rows: dict, name: str = "b.jsonl") -> list[Result]:
    return interchange.read([made.put(tmp_path, name, made.lines(list(rows)))])


def as_llama_bench(rows: list[dict], form: str) -> str:
    """`rows` as llama-bench prints them in that format."""
    if form == "json":
        return json.dumps(rows, indent=2)
    if form == "jsonl":
        return made.lines(rows)
    names = [n for n in rows[0] if not n.startswith("samples")]

    def text(value: object) -> str:
        return str(int(value)) if isinstance(value, bool) else str(value)

    if form == "csv":
        file = io.StringIO()
        file.write(",".join(names) + "\n")
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerows([[text(row[n]) for n in names] for row in rows])
        return file.getvalue()
    kinds = ",\n".join(f"  {n} TEXT" for n in names)
    head = f"CREATE TABLE IF NOT EXISTS llama_bench (\n{kinds}\n);\n\n"
    inserts = [
        f"INSERT INTO llama_bench ({', '.join(names)}) "
        f"VALUES ({', '.join(repr(text(row[n])) for n in names)});\n"
        for row in rows
    ]
    return head + "".join(inserts)


def test_prefill_is_all_tokens_over_all_time_not_the_mean_of_rates(tmp_path: Path) -> None:
    (found,) = imported(tmp_path, made.llama_row())
    figure = found.summary["0"]["prefill_tok_per_s"]
    assert figure.value == pytest.approx(3 * 512 / 0.33)
    rates = [512 / 0.1, 512 / 0.11, 512 / 0.12]
    assert figure.value < statistics.fmean(rates)
    assert found.trials[0].samples["prefill_tok_per_s"] == pytest.approx(rates)
    assert found.trials[0].extra["avg_ts"] == pytest.approx(statistics.fmean(rates))


def test_samples_of_one_process_are_no_repeats(tmp_path: Path) -> None:
    (found,) = imported(tmp_path, made.llama_row())
    figure = found.summary["0"]["prefill_tok_per_s"]
    assert (figure.n, figure.low, figure.high) == (1, None, None)
    assert len(found.trials) == found.plan.repeats == 1


def test_the_same_test_in_two_files_is_two_repeats(tmp_path: Path) -> None:
    paths = [
        made.put(tmp_path, f"{n}.jsonl", made.lines([made.llama_row(samples_ns=[10**8 + n])]))
        for n in range(2)
    ]
    (found,) = interchange.read(paths)
    assert [(t.case, t.repeat) for t in found.trials] == [(0, 0), (0, 1)]
    assert found.summary["0"]["prefill_tok_per_s"].n == found.plan.repeats == 2


def test_decode_is_tg_and_an_output_rate_only_from_an_empty_context(tmp_path: Path) -> None:
    empty = made.llama_row(n_prompt=0, n_gen=128, samples_ns=[2 * made.S])
    deep = made.llama_row(n_prompt=0, n_gen=128, n_depth=512, samples_ns=[4 * made.S])
    (found,) = imported(tmp_path, empty, deep)
    first, second = found.summary["0"], found.summary["1"]
    assert first["decode_tok_per_s"].value == first["output_tok_per_s"].value == 64
    assert second["decode_tok_per_s"].value == 32
    assert "output_tok_per_s" not in second
    assert found.plan.cases[1].variant.options["n_depth"] == 512


def test_a_prompt_and_generation_test_has_its_prefill_inside_the_window(tmp_path: Path) -> None:
    (found,) = imported(tmp_path, made.llama_row(n_gen=128, samples_ns=[2 * made.S]))
    figures = {name: f.value for name, f in found.summary["0"].items()}
    assert figures == {
        "output_tok_per_s": 64,
        "input_tok_per_s": 256,
        "total_tok_per_s": 320,
        "latency_p50_s": 2,
    }


@pytest.mark.parametrize("form", ["json", "sql", "csv"])
def test_every_format_of_llama_bench_says_the_same(tmp_path: Path, form: str) -> None:
    rows = [made.llama_row(), made.llama_row(n_prompt=0, n_gen=64)]
    (one,) = imported(tmp_path, *rows)
    (other,) = interchange.read([made.put(tmp_path, f"b.{form}", as_llama_bench(rows, form))])
    assert other.origin is not None
    assert other.origin.format == f"llama-bench-{form}"
    assert other.plan.cases[0].variant == one.plan.cases[0].variant
    for case in ("0", "1"):
        for name, figure in one.summary[case].items():
            assert other.summary[case][name].value == pytest.approx(figure.value, rel=1e-6)


def test_models_become_results_of_their_own(tmp_path: Path) -> None:
    found = imported(tmp_path, made.llama_row(), made.llama_row(model_filename="b/other.gguf"))
    assert [r.model.name for r in found] == ["qwen2.5-0.5b-q4_0", "other"]


def test_a_model_path_is_not_stored(tmp_path: Path) -> None:
    (found,) = imported(tmp_path, made.llama_row())
    store.save(found, tmp_path / "r.json")
    assert "someone" not in (tmp_path / "r.json").read_text()


def test_what_is_not_told_is_none(tmp_path: Path) -> None:
    (found,) = imported(tmp_path, made.llama_row(model_type="", n_threads=0))
    assert found.model.family is None
    assert found.model.weights is None
    assert found.plan.seed is None
    assert (found.plan.cases[0].variant.dtype, found.plan.cases[0].variant.threads) == (None, None)
    assert "topology.cpus" in found.machine.unknown
    assert found.price is None


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("qwen2 0.5B Q4_K - Medium", "q4_k_m"),
        ("qwen2 1B Q8_0", "q8_0"),
        ("llama 8B all F32", "float32"),
        ("qwen3 4B BF16", "bfloat16"),
        ("gemma 2B F16", "float16"),
        ("llama 7B IQ2_XXS - 2.0625 bpw", "iq2_xxs"),
        ("llama ?B", None),
    ],
)
def test_a_quantisation_is_named_as_here(text: str, dtype: str | None) -> None:
    assert llama_rows.dtype_of(text) == dtype


@pytest.mark.parametrize("form", ["json", "jsonl", "sql"])
def test_what_was_read_is_written_as_it_was(tmp_path: Path, form: str) -> None:
    rows = [
        made.llama_row(),
        made.llama_row(n_prompt=0, n_gen=64, n_depth=32),
        made.llama_row(n_gen=16),
    ]
    (found,) = imported(tmp_path, *rows)
    text = interchange.write(found, f"llama-bench-{form}").text
    (again,) = interchange.read([made.put(tmp_path, "again", text)])
    assert again.plan.cases == found.plan.cases
    assert again.model == found.model
    for a, b in zip(again.trials, found.trials, strict=True):
        rates = {k: v for k, v in b.figures.items() if k in a.figures}
        assert a.figures == pytest.approx(rates, rel=1e-6)
        assert form == "sql" or a.figures.keys() == b.figures.keys()
    if form != "sql":
        written = json.loads(text) if form == "json" else list(map(json.loads, text.splitlines()))
        for before, after in zip(rows, written, strict=True):
            for name in before.keys() - {"model_filename", "stddev_ns", "stddev_ts"}:
                assert after[name] == pytest.approx(before[name]), name


def test_sql_is_read_by_sqlite(tmp_path: Path) -> None:
    (found,) = imported(tmp_path, made.llama_row(cpu_info="Someone's CPU"))
    with sqlite3.connect(":memory:") as database:
        database.executescript(interchange.write(found, "llama-bench-sql").text)
        rows = database.execute("SELECT n_prompt, cpu_info, avg_ts FROM llama_bench").fetchall()
    assert rows[0][:2] == (512, "Someone's CPU")


def test_a_result_of_ours_becomes_a_prefill_and_a_decode_row() -> None:
    export = interchange.write(made.batched(repeats=3, output=5), "llama-bench-json")
    prefill, decode = json.loads(export.text)
    assert (prefill["n_prompt"], prefill["n_gen"]) == (100, 0)
    assert prefill["samples_ns"] == [100 * made.MS] * 3
    assert (decode["n_prompt"], decode["n_gen"], decode["n_depth"]) == (0, 4, 100)
    assert decode["samples_ns"] == [40 * made.MS, 44 * made.MS, 48 * made.MS]
    assert any("latencies" in text for text in export.left_out)


def test_our_rows_read_back_with_the_same_rates(tmp_path: Path) -> None:
    ours = made.batched()
    text = interchange.write(ours, "llama-bench-jsonl").text
    (again,) = interchange.read([made.put(tmp_path, "b.jsonl", text)])
    told = {name for figures in again.summary.values() for name in figures}
    assert told == {"prefill_tok_per_s", "decode_tok_per_s"}
    prefill = again.summary["0"]["prefill_tok_per_s"].value
    assert prefill == pytest.approx(ours.summary["0"]["prefill_tok_per_s"].value)


def test_a_batch_has_no_row_and_that_is_said() -> None:
    ours = made.served()
    export = interchange.write(ours, "llama-bench-json")
    assert json.loads(export.text) == []
    assert any("one sequence" in text for text in export.left_out)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_prompt": 0, "n_gen": 0}, "no token"),
        ({"n_prompt": -1}, "n_prompt"),
        ({"samples_ns": [0]}, "samples_ns"),
        ({"samples_ns": [], "avg_ns": 0}, "no time"),
        ({"n_threads": "many"}, "n_threads"),
        ({"test_time": "yesterday"}, "test_time"),
    ],
)
def test_a_row_that_can_not_be_is_refused_by_name(tmp_path: Path, change: dict, said: str) -> None:
    row = made.llama_row() | change
    with pytest.raises(ArmbenchError, match=said) as caught:
        interchange.read([made.put(tmp_path, "b.jsonl", made.lines([row]))])
    assert "b.jsonl row 1" in caught.value.message


def test_sql_with_a_missing_value_is_refused(tmp_path: Path) -> None:
    text = as_llama_bench([made.llama_row()], "sql").replace("'f16', ", "", 1)
    with pytest.raises(ArmbenchError, match="no INSERT"):
        interchange.read([made.put(tmp_path, "b.sql", text)])


def test_published_figures_are_marked_with_their_source(tmp_path: Path) -> None:
    path = made.put(tmp_path, "b.jsonl", made.lines([made.llama_row()]))
    (found,) = interchange.read([path], told=Told(published="https://example.org/data"))
    assert (found.basis, found.tool) == ("published", "llama-bench 6000 (abc1234)")
    assert any("https://example.org/data" in note for note in found.warnings)


def test_builds_and_cpus_are_results_of_their_own_not_repeats(tmp_path: Path) -> None:
    rows = [
        made.llama_row(),
        made.llama_row(build_number=6001, build_commit="def5678"),
        made.llama_row(cpu_info="Neoverse-V1"),
        made.llama_row(),
    ]
    found = imported(tmp_path, *rows)
    assert [(r.origin.version, r.machine.cpu.model_name) for r in found if r.origin] == [
        ("6000 (abc1234)", "Neoverse-V2"),
        ("6001 (def5678)", "Neoverse-V2"),
        ("6000 (abc1234)", "Neoverse-V1"),
    ]
    assert [r.plan.repeats for r in found] == [2, 1, 1]
    assert found[1].software == {"llama.cpp": "6001 (def5678)"}
    (row,) = json.loads(interchange.write(found[1], "llama-bench-json").text)
    assert (row["build_number"], row["build_commit"]) == (6001, "def5678")
    paths = interchange.save(found, tmp_path / "results")
    assert len(set(paths)) == 3
    assert interchange.save(imported(tmp_path, *rows), tmp_path / "results") == paths


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("6000 (abc1234)", ("abc1234", 6000)),
        ("6000", ("6000", 6000)),
        ("abc1234", ("abc1234", None)),
        ("6000 (abc1234), 6001 (def5678)", ("6000 (abc1234), 6001 (def5678)", None)),
    ],
)
def test_a_build_is_written_as_it_was_told_or_whole(
    tmp_path: Path, version: str, told: tuple[str, int | None]
) -> None:
    (found,) = imported(tmp_path, made.llama_row())
    assert found.origin is not None
    found.origin = structs.replace(found.origin, version=version)
    (row,) = json.loads(interchange.write(found, "llama-bench-json").text)
    assert (row["build_commit"], row.get("build_number")) == told


def test_no_column_of_llama_bench_is_taken_for_a_secret(tmp_path: Path) -> None:
    plain, hostless = (made.llama_row(no_host=n, hostname="box-7") for n in (False, True))
    (found,) = imported(tmp_path, plain, hostless)
    assert [c.variant.options["no_host"] for c in found.plan.cases] == [False, True]
    assert "hostname" not in found.plan.cases[0].variant.options | found.trials[0].extra


def test_a_name_that_is_no_option_stays_beside_and_out_of_sql(tmp_path: Path) -> None:
    shell = "a TEXT);\n.shell touch pwned\n--"
    extra = {shell: "1", "my-note": "kept", "order": "first", "list": [1]}
    (found,) = imported(tmp_path, made.llama_row() | extra)
    options, beside = found.plan.cases[0].variant.options, found.trials[0].extra
    assert options["order"] == "first"
    assert {shell, "my-note", "list"}.isdisjoint(options)
    assert (beside["my-note"], beside["list"]) == ("kept", [1])
    options[shell] = "1"  # as a result of an older version has it
    text = interchange.write(found, "llama-bench-sql").text
    assert ".shell" not in text
    with sqlite3.connect(":memory:") as database:
        database.executescript(text)
        assert database.execute('SELECT "order" FROM llama_bench').fetchall() == [("first",)]
    (again,) = interchange.read([made.put(tmp_path, "again.sql", text)])
    assert again.plan.cases[0].variant.options["order"] == "first"
