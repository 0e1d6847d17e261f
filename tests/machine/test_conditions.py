"""What spoilt a trial is found and named; what did not is left alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness.errors import Exit
from harness.machine.check import check, exit_code, findings
from harness.machine.conditions import read_conditions
from harness.machine.detect import detect
from harness.machine.judge import judge
from harness.records.machine import Conditions, Finding, Machine, Reading

from . import trees

SECONDS, CPUS = 10.0, 8
QUIET = {
    "machine_busy_s": 100.0,
    "cpu_steal_s": 5.0,
    "cgroup_throttled": 3,
    "cgroup_throttled_s": 0.5,
    "thermal_throttled": 7,
    "pswpin": 10,
    "pswpout": 10,
    "pgmajfault": 100,
    "psi_memory_s": 1.0,
    "frequency_mhz": 3000.0,
}


def state(**changes: float | str | None) -> Conditions:
    values = {**QUIET, **changes}
    return Conditions(at_ns=0, readings={n: Reading(value=v) for n, v in values.items()})


def judged(own_cpu_s: float = 0.0, **changes: float) -> dict[str, str]:
    """Names and severities of what is found when counters have grown by `changes`."""
    after = state(**{n: QUIET[n] + by for n, by in changes.items()})
    found = judge(state(), after, own_cpu_s=own_cpu_s, seconds=SECONDS, cpus=CPUS)
    assert all(f.message and f.hint for f in found)
    return {f.name: f.severity for f in found}


def test_a_quiet_interval_has_no_findings() -> None:
    assert judged() == {}
    assert judged(own_cpu_s=79.0, machine_busy_s=79.5, pgmajfault=20) == {}


def test_time_stolen_from_the_engines_cpus_is_a_share_of_theirs() -> None:
    after = state(cpu_steal_s=5.0 + 0.5)
    of_two = judge(state(), after, own_cpu_s=None, seconds=SECONDS, cpus=64, watched=2)
    assert [(f.name, f.severity) for f in of_two] == [("steal", "invalid")]
    of_all = judge(state(), after, own_cpu_s=None, seconds=SECONDS, cpus=64)
    assert of_all == []


@pytest.mark.parametrize(
    ("changes", "name", "severity"),
    [
        ({"cpu_steal_s": 0.2}, "steal", "warning"),
        ({"cpu_steal_s": 1.0}, "steal", "invalid"),
        ({"machine_busy_s": 2.5}, "foreign_cpu", "warning"),
        ({"machine_busy_s": 9.0}, "foreign_cpu", "invalid"),
        ({"cgroup_throttled": 2}, "cgroup_throttling", "warning"),
        ({"cgroup_throttled": 2, "cgroup_throttled_s": 0.3}, "cgroup_throttling", "invalid"),
        ({"thermal_throttled": 1}, "thermal_throttling", "invalid"),
        ({"pswpin": 4}, "swap", "warning"),
        ({"pswpout": 400}, "swap", "invalid"),
        ({"psi_memory_s": 0.2}, "memory_pressure", "warning"),
        ({"psi_memory_s": 2.0}, "memory_pressure", "invalid"),
        ({"pgmajfault": 1000}, "major_faults", "warning"),
        ({"frequency_mhz": -300.0}, "frequency_drift", "warning"),
    ],
)
def test_each_disturbance_is_named_with_its_weight(
    changes: dict[str, float], name: str, severity: str
) -> None:
    assert judged(**changes) == {name: severity}


def test_the_engines_own_work_is_not_foreign() -> None:
    assert judged(own_cpu_s=70.0, machine_busy_s=70.0) == {}
    assert judged(own_cpu_s=0.0, machine_busy_s=70.0) == {"foreign_cpu": "invalid"}


def test_missing_readings_and_counters_that_were_reset_judge_nothing() -> None:
    empty = Conditions(at_ns=0)
    assert judge(empty, state(), own_cpu_s=0, seconds=1, cpus=1) == []
    assert judge(state(), empty, own_cpu_s=0, seconds=1, cpus=1) == []
    reset = state(machine_busy_s=0.0, cpu_steal_s=0.0, pswpin=0, frequency_mhz=None)
    assert judge(state(), reset, own_cpu_s=0, seconds=1, cpus=1) == []
    assert judge(state(), state(), own_cpu_s=0, seconds=0, cpus=1) == []


def test_what_makes_a_run_invalid_comes_first() -> None:
    after = state(pgmajfault=9999, pswpin=9999, cpu_steal_s=6.0)
    found = judge(state(), after, own_cpu_s=0, seconds=SECONDS, cpus=CPUS)
    severities = [f.severity for f in found]
    assert severities == sorted(severities)  # "invalid" before "warning"


def test_every_reading_has_a_source_or_a_reason() -> None:
    readings = read_conditions().readings
    for name, reading in readings.items():
        assert (reading.value is None) == (reading.source is None), name
        assert (reading.value is None) == (reading.reason is not None), name
    assert {*QUIET, "load_1m", "governor", "boost", "thp", "numa_balancing"} <= set(readings)
    assert {"temperature_c", "energy_j", "thp_bytes", "pgfault"} <= set(readings)


def test_reading_the_state_is_cheap() -> None:
    read_conditions()
    times = []
    for _ in range(5):
        start = time.process_time()
        read_conditions()
        times.append(time.process_time() - start)
    assert min(times) < 0.010


def test_cpu_time_of_some_cpus_is_theirs_alone(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    rows = "cpu  400 0 0 0 0 0 0 40 0 0\ncpu0 100 0 0 0 0 0 0 10 0 0\ncpu1 300 0 0 0 0 0 0 30 0 0\n"
    (tmp_path / "proc/stat").write_text(rows)
    readings = read_conditions(tmp_path, cpus=[1]).readings
    assert (readings["cpu_busy_s"].value, readings["cpu_steal_s"].value) == (3.0, 0.3)
    assert readings["machine_busy_s"].value == 4.0


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_energy_says_where_it_is_from_or_why_there_is_none(tmp_path: Path) -> None:
    energy = read_conditions(tmp_path).readings["energy_j"]
    assert energy.value is None
    assert "RAPL" in (energy.reason or "")
    put(tmp_path, "sys/class/hwmon/hwmon0/name", "scmi_sensors\n")
    put(tmp_path, "sys/class/hwmon/hwmon0/energy1_input", "5000000\n")
    energy = read_conditions(tmp_path).readings["energy_j"]
    assert (energy.value, "scmi_sensors" in (energy.source or "")) == (5.0, True)
    put(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj", "7000000\n")
    assert read_conditions(tmp_path).readings["energy_j"].value == 7.0


@pytest.fixture
def server(tmp_path: Path) -> tuple[Machine, Path]:
    root = trees.write_tree(tmp_path, trees.load("graviton5-64cpu-2node"))
    return detect(root), root


def named(found: list[Finding]) -> list[str]:
    return [f.name for f in found]


def test_a_quiet_server_is_fit_to_be_measured(server: tuple[Machine, Path]) -> None:
    machine, root = server
    assert check(machine, root) == []
    assert exit_code([]) is Exit.FINE


def test_settings_that_disturb_are_listed_worst_first(server: tuple[Machine, Path]) -> None:
    machine, root = server
    machine.limits.cpu_quota = 4.0
    put(root, "proc/loadavg", "40.0 1.0 1.0 1/1 1\n")
    put(root, "proc/sys/kernel/numa_balancing", "1\n")
    put(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "schedutil\n")
    put(root, "sys/devices/system/cpu/cpufreq/boost", "1\n")
    found = check(machine, root)
    assert named(found) == ["quota_part", "load", "governor", "boost", "numa_balancing"]
    assert all(f.hint for f in found)
    assert exit_code(found) is Exit.FINE


def test_what_happens_while_watching_makes_the_exit_code(server: tuple[Machine, Path]) -> None:
    machine, _ = server
    busy = state(machine_busy_s=QUIET["machine_busy_s"] + 32.0)
    found = findings(machine, state(), busy, seconds=1.0)
    assert named(found) == ["foreign_cpu"]
    assert exit_code(found) is Exit.INVALID


def test_mixed_cores_and_missing_huge_pages_are_told(tmp_path: Path) -> None:
    root = trees.write_tree(tmp_path, trees.load("big-little-8cpu"))
    put(root, "sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n")
    assert named(check(detect(root), root)) == ["mixed_cores", "thp"]
