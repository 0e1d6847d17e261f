"""Written formats are what their own tools read; a hostile text takes no effect in any."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness import interchange, store
from harness.cli import main
from harness.errors import ArmbenchError
from harness.interchange import timings

from . import made


def test_pytest_benchmark_reads_and_compares_our_file(tmp_path: Path) -> None:
    storage = tmp_path / ".benchmarks" / "Linux-CPython-3.11-64bit"
    storage.mkdir(parents=True)
    for number, ours in enumerate((made.batched(), made.batched(repeats=4)), 1):
        text = interchange.write(ours, "pytest-benchmark").text
        (storage / f"000{number}_armbench.json").write_text(text)
    told = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare", "--columns=mean,rounds", "000*"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert "Qwen2.5-0.5B/torch-float32-2T/single-stream-100+5[ttft_p50_s]" in told.stdout
    assert "prefill_s_per_token" in told.stdout


def test_our_statistics_are_those_of_pytest_benchmark() -> None:
    stats = pytest.importorskip("pytest_benchmark.stats")
    for values in ([3.0], [1.0, 2.0], [5.0, 1.0, 9.0], [4.0, 8.0, 15.0, 16.0], [1.0] * 4 + [50.0]):
        theirs = stats.Stats()
        for value in values:
            theirs.update(value)
        ours = timings._statistics(values)
        for name, value in theirs.as_dict().items():
            assert ours[name] == (value if name == "outliers" else pytest.approx(value)), name


def test_a_rate_becomes_the_time_of_one_unit() -> None:
    document = json.loads(interchange.write(made.batched(), "pytest-benchmark").text)
    by_name = {entry["name"].rpartition("[")[2]: entry for entry in document["benchmarks"]}
    assert by_name["prefill_s_per_token]"]["stats"]["data"] == pytest.approx([0.001] * 3)
    assert by_name["tpot_p50_s]"]["stats"]["data"] == pytest.approx([0.010, 0.011, 0.012])
    assert by_name["decode_s_per_token]"]["extra_info"]["metric"] == "decode_tok_per_s"
    assert document["machine_info"]["node"] == ""


def test_google_benchmark_has_repetitions_and_their_aggregates() -> None:
    document = json.loads(interchange.write(made.batched(), "google-benchmark").text)
    assert document["context"]["json_schema_version"] == 1
    name = "Qwen2.5-0.5B/torch-float32-2T/single-stream-100+5[tpot_p50_s]"
    runs = [e for e in document["benchmarks"] if e["run_name"] == name]
    assert [e["real_time"] for e in runs[:3]] == pytest.approx([1e7, 1.1e7, 1.2e7])
    assert [e["aggregate_name"] for e in runs[3:]] == ["mean", "median", "stddev", "cv"]
    assert {e["time_unit"] for e in runs} == {"ns"}
    rates = [e for e in document["benchmarks"] if "items_per_second" in e]
    assert rates[0]["items_per_second"] == pytest.approx(1000)
    needed = {"name", "run_type", "iterations", "real_time", "cpu_time", "time_unit", "threads"}
    assert all(needed <= entry.keys() for entry in document["benchmarks"])


def test_github_action_gets_each_metric_in_the_file_of_its_direction() -> None:
    smaller, bigger = (
        json.loads(interchange.write(made.batched(), f"github-action-{which}").text)
        for which in ("smaller", "bigger")
    )
    assert any("TTFT p50" in entry["name"] for entry in smaller)
    assert any("prefill" in entry["name"] for entry in bigger)
    assert not {e["name"] for e in smaller} & {e["name"] for e in bigger}
    for entry in smaller + bigger:
        assert isinstance(entry["value"], float)
        assert entry["unit"]
        assert "range" not in entry or float(entry["range"].removeprefix("± ")) >= 0


def test_csv_is_long_and_a_formula_in_it_stays_a_text() -> None:
    ours = made.batched()
    ours.model.name = '=HYPERLINK("http://x")'
    rows = list(csv.DictReader(io.StringIO(interchange.write(ours, "csv").text)))
    assert {row["model"] for row in rows} == {'\'=HYPERLINK("http://x")'}
    (prefill,) = (row for row in rows if row["metric"] == "prefill_tok_per_s")
    assert float(prefill["value"]) == pytest.approx(1000)
    assert (prefill["better"], prefill["basis"], prefill["n"]) == ("higher", "measured here", "3")


def test_markdown_shows_hostile_text_and_interprets_none() -> None:
    ours = made.batched()
    ours.model.name = "<script>alert(1)</script> | [x](javascript:1) `y`\n# big"
    text = interchange.write(ours, "markdown").text
    assert "<script" not in text
    assert "\n# big" not in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "\\[x\\]" in text


def test_every_format_takes_a_result_with_nothing_in_it() -> None:
    for form in interchange.WRITABLE:
        assert interchange.write(made.result([], [], 1), form).text is not None


def test_an_unknown_format_is_named_with_the_known_ones() -> None:
    with pytest.raises(ArmbenchError, match="markdwn") as caught:
        interchange.write(made.batched(), "markdwn")
    assert "did you mean 'markdown'" in str(caught.value.hint)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "r.json"
    store.save(made.batched(), path)
    return path


def exported(stored: Path, to: Path, form: str = "csv") -> int:
    return main(["export", str(stored), "--format", form, "-o", str(to)])


def test_an_export_is_written_into_a_pipe_which_stays_one(tmp_path: Path, stored: Path) -> None:
    pipe, came = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: came.append(pipe.read_text()), daemon=True)
    reader.start()
    assert exported(stored, pipe) == 0
    reader.join(10)
    assert came[0].startswith("file,created")
    assert pipe.is_fifo()


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_an_export_follows_a_link_and_leaves_it(tmp_path: Path, stored: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("duckdb")
    link, real = tmp_path / "link", tmp_path / "real"
    real.write_text("")
    link.symlink_to("real")
    assert exported(stored, link, form) == 0
    assert link.is_symlink()
    assert real.stat().st_size > 100


def test_an_export_that_fails_does_not_speak_of_results(
    tmp_path: Path, stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for to in (tmp_path, tmp_path / "none" / "x.csv"):
        assert exported(stored, to) == 2
        told = capsys.readouterr().err
        assert f"{to} cannot be written" in " ".join(told.split())
        assert "--res" not in told


def test_two_columns_of_one_name_are_both_in_the_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("duckdb")
    query = "SELECT 1 AS a, 2 AS a, 3 AS a_2, 4 AS b"
    assert main(["sql", query, "--results", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"a": 1, "a_3": 2, "a_2": 3, "b": 4}]
