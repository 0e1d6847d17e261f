"""SQL over results: right rows, kept up to date, and a query reaches nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import places, prices, store
from harness.errors import ArmbenchError, Exit
from harness.interchange import database, index, long_table
from harness.records.run import Result
from tests.inside import armbench

from . import made

pytest.importorskip("duckdb")
RATES = "SELECT file, value FROM results WHERE metric = 'prefill_tok_per_s' ORDER BY file"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARMBENCH_CACHE", str(tmp_path / "cache"))


def put(root: Path, name: str, result: Result) -> Path:
    path = root / "machine" / "plan" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    store.save(result, path)
    return path


def test_a_row_for_each_metric_with_price_and_machine(tmp_path: Path) -> None:
    ours = made.batched()
    ours.price = prices.parse_price("3.6 USD/h")
    put(tmp_path / "r", "a.json", ours)
    answer = database.sql(
        "SELECT metric, value, n, basis, tool, vcpus, currency FROM results "
        "WHERE metric IN ('prefill_tok_per_s', 'cost_input_tokens') ORDER BY metric",
        tmp_path / "r",
    )
    assert answer.columns[:2] == ["metric", "value"]
    assert answer.rows == [
        ("cost_input_tokens", pytest.approx(1.0), 3, "measured here", "armbench", 4, "USD"),
        ("prefill_tok_per_s", pytest.approx(1000), 3, "measured here", "armbench", 4, "USD"),
    ]


def test_the_answer_follows_the_files(tmp_path: Path) -> None:
    root = tmp_path / "r"
    first = put(root, "a.json", made.batched())
    put(root, "b.json", made.batched())
    assert len(database.sql(RATES, root).rows) == 2
    changed = made.batched()
    changed.summary["0"]["prefill_tok_per_s"].value = 5.0
    put(root, "b.json", changed)
    put(root, "c.json", made.batched())
    first.unlink()
    assert [(f.rpartition("/")[2], round(v)) for f, v in database.sql(RATES, root).rows] == [
        ("b.json", 5),
        ("c.json", 1000),
    ]


def test_a_file_is_read_again_only_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "r"
    put(root, "a.json", made.batched())
    database.sql(RATES, root)
    asked: list[list[str]] = []
    before = index.read
    monkeypatch.setattr(
        index, "read", lambda r, names: asked.append(list(names)) or before(r, names)
    )
    database.sql(RATES, root)
    assert asked == []
    put(root, "b.json", made.batched())
    database.sql(RATES, root)
    assert asked == [["machine/plan/b.json"]]


def test_a_folder_that_was_empty_once_is_read_when_it_fills(tmp_path: Path) -> None:
    root = tmp_path / "r"
    root.mkdir()
    assert database.sql(RATES, root).rows == []
    only = put(root, "a.json", made.batched())
    assert len(database.sql(RATES, root).rows) == 1
    only.unlink()
    assert database.sql(RATES, root).rows == []
    put(root, "b.json", made.batched())
    assert len(database.sql(RATES, root).rows) == 1


def test_a_broken_index_is_made_anew(tmp_path: Path) -> None:
    root = tmp_path / "r"
    put(root, "a.json", made.batched())
    database.sql(RATES, root)
    index.path_of(root).write_bytes(b"no database")
    assert len(database.sql(RATES, root).rows) == 1


def test_a_file_that_is_no_result_is_named_not_fatal(tmp_path: Path) -> None:
    root = tmp_path / "r"
    put(root, "a.json", made.batched())
    whole = (root / "machine" / "plan" / "a.json").read_bytes()
    for name, body in (
        ("b.json", b"{}"),
        ("c.json", b"nonsense"),
        ("d.json", b'{"schema": 99}'),
        ("e.json", whole.replace(b'"name":"', b'"name":"\xff', 1)),
    ):
        (root / "machine" / "plan" / name).write_bytes(body)
    answer = database.sql(RATES, root)
    assert len(answer.rows) == 1
    assert [text.partition(":")[0][-6:] for text in answer.skipped] == [
        "b.json",
        "c.json",
        "d.json",
        "e.json",
    ]


def test_a_count_above_32_bits_is_a_row_like_any_other(tmp_path: Path) -> None:
    large = made.batched()
    large.plan.cases[0].variant.threads = 1 << 32
    put(tmp_path / "r", "a.json", large)
    put(tmp_path / "r", "b.json", made.batched())
    answer = database.sql("SELECT DISTINCT threads FROM results ORDER BY 1", tmp_path / "r")
    assert (answer.rows, answer.skipped) == ([(2,), (1 << 32,)], [])


def test_a_file_that_no_table_holds_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    endless = made.batched()
    endless.plan.cases[0].variant.threads = 123456789
    path = put(tmp_path / "r", "a.json", endless)
    path.write_text(path.read_text().replace("123456789", "9" * 30))
    put(tmp_path / "r", "b.json", made.batched())
    answer = database.sql(RATES, tmp_path / "r")
    assert [file for file, _ in answer.rows] == ["machine/plan/b.json"]
    assert [text.partition(":")[0] for text in answer.skipped] == ["machine/plan/a.json"]
    endless.plan.cases[0].variant.threads = 10**30
    with pytest.raises(ArmbenchError, match=r"no table can be made of a\.json"):
        database.parquet([("a.json", endless)], tmp_path / "t.parquet")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM '{file}'",
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM read_blob('{file}')",
        "SELECT * FROM read_json('{file}')",
        "SELECT * FROM sniff_csv('{file}')",
        "SELECT * FROM glob('/*')",
        "COPY results TO '{file}.csv'",
        "ATTACH '{file}'",
        "EXPORT DATABASE '{file}.d'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '8GB'",
        "CALL pragma_version()",
        "CREATE TABLE x AS SELECT 1",
        "DELETE FROM files",
        "WITH x AS (DELETE FROM files RETURNING *) SELECT * FROM x",
        "SELECT 1; SELECT 2",
        "SELECT * FROM secret_of_python",
        "SELECT getenv('HOME')",
        "",
        "SELEKT",
    ],
)
def test_a_query_reads_the_results_and_nothing_else(tmp_path: Path, query: str) -> None:
    secret_of_python = {"a": [1]}
    assert secret_of_python
    root = tmp_path / "r"
    put(root, "a.json", made.batched())
    file = tmp_path / "file.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(ArmbenchError):
        database.sql(query.format(file=file), root)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "file.csv", "r"]
    assert len(database.sql(RATES, root).rows) == 1


def test_an_endless_query_is_stopped(tmp_path: Path) -> None:
    put(tmp_path / "r", "a.json", made.batched())
    endless = (
        "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range * b.range % 7 = 3"
    )
    with pytest.raises(ArmbenchError, match=r"longer than 0\.2 s"):
        database.sql(endless, tmp_path / "r", seconds=0.2)


def test_a_greedy_query_is_refused_its_memory(tmp_path: Path) -> None:
    put(tmp_path / "r", "a.json", made.batched())
    with pytest.raises(ArmbenchError, match=r"(?i)memory"):
        database.sql("SELECT list(range) FROM range(100000000)", tmp_path / "r")


def test_parquet_is_the_long_table(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    ours = made.batched()
    path = tmp_path / "t.parquet"
    count = database.parquet([("a.json", ours)], path)
    with duckdb.connect() as connection:
        told = connection.execute(f"SELECT * FROM read_parquet('{path}')")
        names = [c[0] for c in told.description]
        rows = told.fetchall()
    assert set(names) == set(long_table.NAMES)
    assert len(rows) == count == len(list(long_table.rows(long_table.head(ours), "a.json")))
    put(tmp_path / "r", "a.json", ours)
    assert database.parquet_of_folder(tmp_path / "r", tmp_path / "f.parquet") == count


def test_a_folder_is_exported_whole_as_parquet_and_as_nothing_else(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path / "r", f"{name}.json", made.batched())
    file = tmp_path / "all.parquet"
    done = armbench("export", str(tmp_path / "r"), "--format", "parquet", "-o", str(file))
    assert done.returncode == Exit.FINE, done.stderr
    count = len(list(long_table.rows(long_table.head(made.batched()), "a.json")))
    assert f"{2 * count} rows" in done.stderr
    refused = armbench("export", str(tmp_path / "r"), "--format", "csv")
    assert refused.returncode == Exit.USER
    assert "--format parquet takes all of it" in refused.stderr


def test_an_unwritable_place_is_a_user_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArmbenchError, match="cannot be written"):
        database.parquet([("a", made.batched())], tmp_path / "none" / "t.parquet")
    with pytest.raises(ArmbenchError, match="does not exist"):
        database.sql("SELECT 1", tmp_path / "none")
    put(tmp_path / "r", "a.json", made.batched())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ARMBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(ArmbenchError, match="cannot be written"):
        database.sql("SELECT 1", tmp_path / "r")


def test_readers_see_a_whole_index_while_another_is_written(tmp_path: Path) -> None:
    root = tmp_path / "r"
    put(root, "a.json", made.batched())
    path = index.refresh(root)
    old = path.stat().st_ino
    with index.duckdb().connect(str(path), read_only=True) as reader:
        put(root, "b.json", made.batched())
        index.refresh(root)
        assert reader.execute("SELECT count(*) FROM files").fetchall() == [(1,)]
    assert path.stat().st_ino != old
    assert [p.name for p in (places.cache_dir() / "tables").iterdir()] == [path.name]
