"""A run's ceilings: reused while they hold, measured shortly otherwise, and watched for drift."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import calibration, store
from harness.calibration import Calibrator
from harness.ceilings import Build, survey
from harness.errors import ArmbenchError
from harness.records.ceilings import SURVEY_SCHEMA, Calibration, Ceilings, Survey
from harness.records.machine import Machine
from harness.records.run import Result
from tests.test_bounds import ceilings, result
from tests.test_plan import server

NOW = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.UTC)
BUILD = Build(folder="/nowhere", key="kernels", machine="x", sources="s", compiler="cc")


def stored(folder: Path, machine: Machine, *, hours: float = 1, **changes: Any) -> Path:
    """A survey of CPUs 0-1 of so many hours ago, read at 40 GB/s."""
    changes = {"build": "kernels"} | changes
    one = msgspec.structs.replace(ceilings(40e9, 400e9), **changes)
    created = (NOW - datetime.timedelta(hours=hours)).isoformat()
    found = Survey(
        schema=SURVEY_SCHEMA,
        armbench="0",
        created=created,
        machine=machine,
        placement="compact",
        short=False,
        ceilings=[one],
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{1000 - hours:07.1f}.json"
    survey.save(found, path)
    return path


def fresh(folder: Path, machine: Machine) -> Ceilings | None:
    return survey.fresh(folder, machine, "0-1", NOW, build="kernels")


def test_a_survey_survives_the_way_to_disk_and_back(tmp_path: Path) -> None:
    path = stored(tmp_path, server(4))
    assert survey.load(path).ceilings[0].read_bytes_per_s == 40e9
    assert survey.is_survey(path)
    assert fresh(tmp_path, server(4)) is not None


@pytest.mark.parametrize(
    "changes",
    [{"hours": 25}, {"hours": -1}, {"build": "others"}, {"cpus": "0-3"}, {"ceilings": {}}],
    ids=["too old", "of the future", "other kernels", "other CPUs", "unknown"],
)
def test_only_a_fresh_survey_of_the_same_cpus_and_kernels_is_reused(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    stored(tmp_path, server(4), **changes)
    assert fresh(tmp_path, server(4)) is None


def test_a_survey_of_another_processor_is_not_reused(tmp_path: Path) -> None:
    machine = server(4)
    machine.cpu.product = "another"
    stored(tmp_path, machine)
    assert fresh(tmp_path, server(4)) is None


def test_a_damaged_file_of_ceilings_is_passed_over(tmp_path: Path) -> None:
    stored(tmp_path, server(4))
    (tmp_path / "9999.json").write_text('{"schema": 1, "ceil')
    (tmp_path / "9998.json").write_text('{"schema": 99}')
    assert fresh(tmp_path, server(4)) is not None
    for name, words in (("9999", "cut off"), ("9998", "schema 99")):
        with pytest.raises(ArmbenchError, match=words):
            survey.load(tmp_path / f"{name}.json")


def test_the_latest_result_is_never_a_file_of_ceilings(tmp_path: Path) -> None:
    stored(tmp_path / "machine" / store.CEILINGS, server(4))
    with pytest.raises(ArmbenchError, match="no result"):
        store.find("latest", tmp_path)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Measuring replaced: how fast reading is now, and what was done."""
    now: dict[str, Any] = {"read": 40e9, "short": 0, "again": []}

    def again(known: Ceilings, names: Any, when: Any, built: Build) -> Calibration:
        now["again"].append(when)
        values = {"read": now["read"]}
        return Calibration(
            when=when, at_ns=0, cpus=known.cpus, threads=known.threads, values=values
        )

    def short(machine: Machine, cpus: list[int], **_: Any) -> Ceilings:
        now["short"] += 1
        cpu_list = f"0-{len(cpus) - 1}" if len(cpus) > 1 else "0"
        found = ceilings(now["read"], 400e9)
        return msgspec.structs.replace(found, cpus=cpu_list, threads=len(cpus))

    monkeypatch.setattr(calibration, "again", again)
    monkeypatch.setattr(calibration, "measure_on", short)
    monkeypatch.setattr(calibration, "build_kernels", lambda: BUILD)
    monkeypatch.setattr(
        calibration,
        "fresh",
        lambda folder, machine, cpus, _, build: survey.fresh(
            folder, machine, cpus, NOW, build=build
        ),
    )
    return now


def planned() -> Result:
    one = result()
    one.plan.ceilings = True
    return one


def test_what_was_measured_before_an_interruption_is_held_against_the_machine_afterwards(
    measured: dict[str, Any], tmp_path: Path
) -> None:
    one = planned()
    Calibrator(one, tmp_path, lambda _: None).before()
    Calibrator(one, tmp_path, lambda _: None).after()
    assert [c.when for c in one.calibrations] == ["before", "after"]


def test_a_run_reuses_a_survey_that_still_holds(measured: dict[str, Any], tmp_path: Path) -> None:
    stored(tmp_path, server(4))
    one = planned()
    run = Calibrator(one, tmp_path, lambda _: None)
    run.before()
    run.after()
    assert measured["short"] == 0
    assert [c.when for c in one.calibrations] == ["before", "after"]
    assert one.ceilings[0].read_bytes_per_s == 40e9


def test_a_survey_that_no_longer_holds_is_measured_anew(
    measured: dict[str, Any], tmp_path: Path
) -> None:
    stored(tmp_path, server(4))
    measured["read"] = 30e9
    one = planned()
    Calibrator(one, tmp_path, lambda _: None).before()
    assert measured["short"] == 1
    assert one.ceilings[0].read_bytes_per_s == 30e9


def test_each_distinct_number_of_threads_has_its_own_ceilings(
    measured: dict[str, Any], tmp_path: Path
) -> None:
    one = planned()
    again = msgspec.json.decode(
        msgspec.json.encode(one.plan.cases[0]), type=type(one.plan.cases[0])
    )
    again.variant.threads, again.id = 1, 1
    one.plan.cases += [again, msgspec.structs.replace(again, id=2)]
    Calibrator(one, tmp_path, lambda _: None).before()
    assert [(c.threads, c.cpus) for c in one.ceilings] == [(1, "0"), (2, "0-1")]


def test_a_resumed_run_keeps_its_ceilings_and_calibrates_again(
    measured: dict[str, Any], tmp_path: Path
) -> None:
    one = planned()
    for _ in range(2):
        Calibrator(one, tmp_path, lambda _: None).before()
    assert measured["short"] == 1
    assert len(one.calibrations) == 2


def test_a_plan_without_ceilings_measures_nothing(measured: dict[str, Any], tmp_path: Path) -> None:
    one = result()
    run = Calibrator(one, tmp_path, lambda _: None)
    run.before()
    run.after()
    assert (measured["short"], one.ceilings, one.calibrations) == (0, [], [])


def test_without_a_compiler_a_run_goes_on_and_its_ceilings_say_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ARMBENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    one = planned()
    run = Calibrator(one, tmp_path, lambda _: None)
    run.before()
    run.after()
    assert "no C compiler" in one.ceilings[0].unknown["read"]
    assert one.calibrations == []
    assert json.loads(msgspec.json.encode(one))["ceilings"]


@pytest.mark.parametrize(
    ("text", "counts"), [("1,2,4,max", [1, 2, 4, 6]), ("max", [6]), ("8,1", [1]), ("2,2", [2])]
)
def test_thread_counts_are_those_that_fit(text: str, counts: list[int]) -> None:
    assert survey.parse_counts(text, 6) == counts


@pytest.mark.parametrize("text", ["", "0", "-1", "1;2", "8", "¹"])
def test_senseless_thread_counts_are_refused(text: str) -> None:
    with pytest.raises(ArmbenchError, match="--threads"):
        survey.parse_counts(text, 6)
