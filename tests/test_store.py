"""A result file is whole at every instant, and whatever is wrong with one is said."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import store
from harness.errors import ArmbenchError
from harness.records.run import SCHEMA, ModelIdentity, Plan, Result
from tests.test_plan import case, server


def result() -> Result:
    return Result(
        schema=SCHEMA,
        armbench="0",
        created="2026-01-01T00:00:00+00:00",
        plan=Plan(
            name="p",
            model="m",
            cases=[case(0)],
            repeats=1,
            seed=1,
            cpus=[0],
            driver_cpus=[1],
            time_budget_s=None,
            trial_timeout_s=None,
            order=[(0, 0)],
        ),
        model=ModelIdentity(
            name="m",
            weights="synthetic",
            family="qwen2",
            parameters=1,
            config_sha256="0",
            files={},
        ),
        machine=server(2),
        software={},
    )


def test_a_result_survives_writing_and_reading(tmp_path: Path) -> None:
    store.save(result(), tmp_path / "r.json")
    assert store.load(tmp_path / "r.json") == result()


def test_a_newer_schema_is_refused_in_other_words_than_an_older_one(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    for number, words in ((SCHEMA + 1, "upgrade armbench"), (0, "too old")):
        file.write_text(json.dumps({"schema": number}))
        with pytest.raises(ArmbenchError) as caught:
            store.load(file)
        assert words in f"{caught.value.message} {caught.value.hint}"


def test_an_old_file_climbs_one_step_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SCHEMA", 3)
    monkeypatch.setattr(
        store, "UPGRADES", {1: lambda r: {**r, "a": 1}, 2: lambda r: {**r, "b": r["a"] + 1}}
    )
    climbed = store.upgraded({"schema": 1}, Path("x"))
    assert climbed == {"schema": 3, "a": 1, "b": 2}


@pytest.mark.parametrize("body", [b"", b"  \n", b"[]", b"{}", b"\xff\xfe", b'{"schema": "1"}'])
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "r.json").write_bytes(body)
    with pytest.raises(ArmbenchError, match=r"r\.json"):
        store.load(tmp_path / "r.json")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.floats(0, 0.999))
def test_a_result_cut_off_anywhere_is_refused(tmp_path: Path, share: float) -> None:
    body = msgspec.json.encode(result())
    (tmp_path / "r.json").write_bytes(body[: int(share * len(body))])
    with pytest.raises(ArmbenchError, match=r"r\.json"):
        store.load(tmp_path / "r.json")


@pytest.mark.parametrize("cut", [None, 1, 40])
def test_a_large_file_is_mapped_and_read_like_a_small_one(
    tmp_path: Path, cut: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "r.json"
    body = msgspec.json.encode(result())
    file.write_bytes(body if cut is None else body[:-cut])
    monkeypatch.setattr(store, "_LARGE_BYTES", 1)
    if cut is None:
        assert store.load(file) == result()
        return
    with pytest.raises(ArmbenchError, match="cut off or not JSON"):
        store.load(file)


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(ArmbenchError, match="cannot be read"):
        store.load(tmp_path / "none.json")
    with pytest.raises(ArmbenchError, match="no result"):
        store.find("latest", tmp_path)


def test_latest_is_the_newest_below_the_folder(tmp_path: Path) -> None:
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    first = store.new_path(tmp_path, "Machine One", "plan", now)
    store.save(result(), first)
    second = store.new_path(tmp_path, "Machine One", "plan", now)
    store.save(result(), second)
    os.utime(first, ns=(1, 1))
    assert first != second
    assert store.find("latest", tmp_path) == second


def test_an_unwritable_folder_is_said_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArmbenchError, match="cannot be written"):
        store.new_path(tmp_path / "file", "m", "p", datetime.datetime.now(datetime.UTC))


def test_a_full_disk_leaves_the_old_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "r.json"
    store.save(result(), file)
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArmbenchError, match="No space left"):
        store.save(result(), file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    store.save(result(), file)
    code = (
        "import sys; from pathlib import Path; from harness import store\n"
        "p = Path(sys.argv[1]); r = store.load(p)\n"
        "print('go', flush=True)\n"
        "while True: r.warnings.append('x' * 1000); store.save(r, p)\n"
    )
    for delay in (0.01, 0.03, 0.05, 0.08):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(delay)
            writer.send_signal(signal.SIGKILL)
        assert store.load(file).plan == result().plan
