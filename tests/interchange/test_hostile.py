"""Whatever a file holds, it becomes results or one clear error; nothing is read without bound."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import interchange, store
from harness.errors import ArmbenchError
from harness.interchange import Told, foreign, llama_bench

from . import made

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["NaN", "inf", "1e400", "-1", "0", "\x1b[2J", "=1+1", "../../etc/passwd"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DOCUMENTS: dict[str, Any] = {
    "llama": made.llama_row(),
    "vllm": made.vllm_run(requests=3),
    "vllm summary": made.vllm_run(requests=3, detailed=False),
    "guidellm": made.guidellm_report(requests=3),
    "guidellm summary": made.guidellm_report(requests=3, keep=0),
    "aiperf": made.aiperf_summary(),
    "aiperf record": made.aiperf_record(1),
}


def places_in(value: Any, path: tuple = ()) -> list[tuple]:
    """Where something could be replaced."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places_in(inner, (*path, key))
    elif isinstance(value, list):
        for key, inner in enumerate(value[:2]):
            found += places_in(inner, (*path, key))
    return found


def replaced(value: Any, path: tuple, by: Any) -> Any:
    changed = copy.deepcopy(value)
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = by
    return changed


def read_or_refuse(path: Path, tmp_path: Path, **more: Any) -> None:
    """Results that can be stored and written in every format, or an ArmbenchError."""
    try:
        found = interchange.read([path], told=Told(model="m"), **more)
    except ArmbenchError as error:
        assert error.message
        return
    for result in found:
        store.save(result, tmp_path / "r.json")
        assert store.load(tmp_path / "r.json").plan == result.plan
        for form in interchange.WRITABLE:
            interchange.write(result, form)


@SETTINGS
@given(data=st.data(), name=st.sampled_from(sorted(DOCUMENTS)))
def test_a_changed_value_anywhere_is_read_or_refused(
    tmp_path: Path, data: st.DataObject, name: str
) -> None:
    document = DOCUMENTS[name]
    where = data.draw(st.sampled_from(places_in(document)))
    changed = replaced(document, where, data.draw(JSON))
    path = tmp_path / "f.json"
    path.write_text(json.dumps(changed))
    read_or_refuse(path, tmp_path)


@SETTINGS
@given(body=st.binary(max_size=300) | JSON.map(lambda v: json.dumps(v).encode()))
def test_any_file_is_read_or_refused(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "f").write_bytes(body)
    read_or_refuse(tmp_path / "f", tmp_path)


@SETTINGS
@given(data=st.data(), form=st.sampled_from(["ampere", "llama-bench-csv", "llama-bench-sql"]))
def test_a_changed_text_is_read_or_refused(tmp_path: Path, data: st.DataObject, form: str) -> None:
    ours = interchange.read([made.put(tmp_path, "b.jsonl", made.lines([made.llama_row()]))])[0]
    texts = {
        "ampere": made.AMPERE,
        "llama-bench-sql": interchange.write(ours, "llama-bench-sql").text,
        "llama-bench-csv": "n_prompt,n_gen,model_filename,avg_ns\n512,0,m.gguf,100\n",
    }
    text = texts[form]
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    path = tmp_path / "f"
    path.write_text(text[:start] + data.draw(st.text(max_size=20)) + text[end:])
    read_or_refuse(path, tmp_path, form=form)


@SETTINGS
@given(data=st.data())
def test_any_machine_beside_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    row = made.put(tmp_path, "b.jsonl", made.lines([made.llama_row()]))
    names = ("CPU(s)", "Thread(s) per core", "Socket(s)", "Model name", "L2 cache", "Flags")
    more = ("NUMA node0 CPU(s)", "NUMA node1 CPU(s)", "Architecture", "CPU max MHz", "Stepping")
    words = st.sampled_from(
        ["8", "2", "0", "aarch64", "0-3", "0-3,4", "9" * 20, "1 MiB (0 instances)"]
    )
    told = {n: data.draw(words | st.text(max_size=12)) for n in (*names, *more)}
    lscpu = {"lscpu": [{"field": f"{k}:", "data": v} for k, v in told.items()]}
    dmi = [
        {
            "type": data.draw(st.integers(0, 17)),
            "props": data.draw(st.dictionaries(st.text(max_size=9), JSON, max_size=3)),
        }
    ]
    beside = [made.put(tmp_path, "l.json", lscpu), made.put(tmp_path, "d.json", dmi)]
    try:
        interchange.read([row], beside_paths=beside)
    except ArmbenchError as error:
        assert error.message


def test_a_deep_file_is_refused(tmp_path: Path) -> None:
    path = made.put(tmp_path, "f", "[" * 100_000 + "]" * 100_000)
    with pytest.raises(ArmbenchError, match="nested too deeply"):
        interchange.read([path])


def test_a_large_file_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "MAX_BYTES", 1 << 20)
    path = made.put(tmp_path, "f", "[" + " " * (1 << 20) + "]")
    with pytest.raises(ArmbenchError, match="larger than 1 MiB"):
        interchange.read([path])


def test_a_link_a_folder_and_a_pipe_are_no_files(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none"):
        with pytest.raises(ArmbenchError, match="not a file"):
            interchange.read([path])


def test_an_extra_is_kept_within_bounds() -> None:
    deep: Any = "x"
    for _ in range(50):
        deep = {"k": deep}
    kept = foreign.kept({"deep": deep, "long": "x" * 10_000, "many": list(range(10_000))})
    assert len(json.dumps(kept)) < 20_000
    secrets = {"api_key": "a", "X-Api-Key": "a", "authorization": "a", "hf_token": "a"}
    assert foreign.kept({"c": secrets, "time_to_first_token": 1}) == {
        "c": {},
        "time_to_first_token": 1,
    }
    assert foreign.kept(["Bearer abc", "sk-abcdefghijk", "https://10.0.0.1/x", "plain"]) == [
        *[None] * 3,
        "plain",
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"schema": 1, "armbench": "0", "plan": {}}, "armbench already"),
        ({"machine_info": {}, "commit_info": {}, "benchmarks": []}, "written but not read"),
        ({"context": {}, "benchmarks": []}, "written but not read"),
        ({"a": 1}, "no format that is read"),
        ([], "no format that is read"),
    ],
)
def test_a_file_of_no_known_tool_is_named(tmp_path: Path, value: Any, said: str) -> None:
    with pytest.raises(ArmbenchError, match=said):
        interchange.read([made.put(tmp_path, "f.json", value)])


def test_files_of_two_tools_are_not_mixed(tmp_path: Path) -> None:
    paths = [
        made.put(tmp_path, "a.json", made.vllm_run()),
        made.put(tmp_path, "b.json", made.aiperf_summary()),
    ]
    with pytest.raises(ArmbenchError, match="different tools"):
        interchange.read(paths)
    with pytest.raises(ArmbenchError, match="unknown format"):
        interchange.read(paths, form="vlm")
    with pytest.raises(ArmbenchError, match="no file"):
        interchange.read([])


def test_importing_the_same_file_again_replaces_its_result(tmp_path: Path) -> None:
    path = made.put(tmp_path, "b.jsonl", made.lines([made.llama_row()]))
    first = interchange.save(interchange.read([path]), tmp_path / "results")
    again = interchange.save(interchange.read([path]), tmp_path / "results")
    assert first == again
    other = made.put(tmp_path, "c.jsonl", made.lines([made.llama_row(samples_ns=[10**8])]))
    assert interchange.save(interchange.read([other]), tmp_path / "results") != first


def test_two_results_of_one_import_never_share_a_file(tmp_path: Path) -> None:
    for names in (("Q4.gguf", "q4.gguf"), ("m" * 90 + "a.gguf", "m" * 90 + "b.gguf")):
        rows = [made.llama_row(model_filename=name) for name in names]
        path = made.put(tmp_path, "b.jsonl", made.lines(rows))
        paths = interchange.save(interchange.read([path]), tmp_path / "results")
        assert len(set(paths)) == 2
        stored = [store.load(p).model.name for p in paths]
        assert stored == [name.removesuffix(".gguf") for name in names]
        assert interchange.save(interchange.read([path]), tmp_path / "results") == paths


def test_files_of_one_name_in_two_folders_are_both_told(tmp_path: Path) -> None:
    paths = []
    for number, folder in enumerate(("a", "b"), 1):
        (tmp_path / folder).mkdir()
        row = made.llama_row(samples_ns=[number * 10**8])
        paths.append(made.put(tmp_path / folder, "b.jsonl", made.lines([row])))
    (found,) = interchange.read(paths)
    assert found.origin is not None
    assert list(found.origin.files) == ["b.jsonl", "b.jsonl (2)"]
    assert len(set(found.origin.files.values())) == 2


@pytest.mark.parametrize("start", [b"-" * 60 + b"\nx", b"-- " * 60 + b"\n{}", b"--\n" * 60 + b"x"])
def test_a_comment_is_read_in_time_that_grows_with_its_length(start: bytes) -> None:
    began = time.monotonic()
    assert not llama_bench.is_sql(start)
    assert time.monotonic() - began < 1
    assert llama_bench.is_sql(b"-- one\n\n  -- two\nCREATE TABLE IF NOT EXISTS llama_bench (")


LATE = "0001-01-01T00:00:00+14:00"
LONG = made.vllm_run(requests=1, output_lens=[1001], itls=[[1e7] * 1000])
FAR = made.aiperf_record(0)
FAR["metrics"]["inter_chunk_latency"]["value"] = [9e9] * 1000


@pytest.mark.parametrize(
    ("body", "form", "said"),
    [
        (json.dumps(made.llama_row(test_time=LATE)), None, "no UTC"),
        (json.dumps(made.llama_row() | {"cpu_info": "\ud800"}), None, "half a character"),
        (json.dumps(made.vllm_run() | {"label": "\udfff"}), None, "half a character"),
        (json.dumps(LONG), None, "itls"),
        (json.dumps(made.vllm_run(duration=1e300)), None, "duration"),
        (json.dumps(FAR), None, "between its chunks"),
        (json.dumps(made.llama_row() | {"samples_ns": [], "avg_ns": 1e-300}), None, "no machine"),
        (json.dumps(made.llama_row() | {"samples_ns": [], "avg_ns": 1e-200}), None, "no machine"),
        (json.dumps(made.vllm_run(detailed=False, duration=1e-320)), None, "no machine"),
        ("\ufeff ", "aiperf", "nothing in it"),
        ("\ufeff ", "vllm", "nothing in it"),
    ],
)
def test_a_file_that_says_what_can_not_be_is_one_clear_error(
    tmp_path: Path, body: str, form: str | None, said: str
) -> None:
    path = made.put(tmp_path, "f", body)
    with pytest.raises(ArmbenchError, match=said):
        interchange.read([path], form=form, told=Told(model="m"))


@pytest.mark.parametrize("size", [".", "1.", "1.5.2 MiB", f"1 KiB ({'9' * 5000} instances)"])
def test_a_cache_of_no_size_is_not_told(tmp_path: Path, size: str) -> None:
    told = {"CPU(s)": "4", "L1d cache": "32 KiB", "L2 cache": size}
    lscpu = {"lscpu": [{"field": f"{k}:", "data": v} for k, v in told.items()]}
    row = made.put(tmp_path, "b.jsonl", made.lines([made.llama_row()]))
    (found,) = interchange.read([row], beside_paths=[made.put(tmp_path, "l.json", lscpu)])
    assert {cache.level for cache in found.machine.caches} == {1}
