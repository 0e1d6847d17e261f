"""Ceilings: chosen by feature, built once, honest where something is missing."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from harness.ceilings import (
    Build,
    again,
    build_kernels,
    cache_curve,
    driver,
    measure,
    scaling,
    survey,
)
from harness.ceilings.build import (
    NoCompiler,
    find_compiler,
    install_command,
    read_source,
    sources_for,
)
from harness.ceilings.driver import DriverFailed, Kernel, Repetition
from harness.ceilings.measuring import cache_sizes, candidates, doubling, thread_bytes
from harness.errors import ArmbenchError, Exit
from harness.places import kernel_dir
from harness.records.ceilings import CacheCurve, Ceiling, Ceilings, Scaling
from harness.records.machine import Cache, Machine
from harness.reports.ceilings import documented_text
from tests.test_plan import server
from tests.test_run import armbench


@pytest.fixture(scope="session")
def built(own_kernels: Build) -> Build:
    return own_kernels


@pytest.fixture
def cpu() -> int:
    return min(os.sched_getaffinity(0))


def kernel(name: str, features: str = "", **changes: object) -> Kernel:
    isa, _, rest = name.partition("/")
    operation, _, kind = rest.partition("_")
    made = {
        "name": name,
        "isa": isa,
        "operation": operation,
        "type": kind,
        "features": features,
        "unit": "ops/s",
        "arrays": 0,
        "tunable": 0,
        "scalable": 0,
        "loop_bytes": 0,
        "loop_ops": 1,
        "loop": "",
    }
    return msgspec.convert(made | changes, Kernel)


KERNELS = [
    kernel("portable/fma_f32"),
    kernel("neon/fma_f32", "asimd"),
    kernel("sve/fma_f32", "sve"),
    kernel("svei8mm/mmla_i8", "sve svei8mm"),
]


def names(found: list[Kernel]) -> list[str]:
    return [k.name for k in found]


def test_only_kernels_whose_every_feature_is_there_may_run() -> None:
    assert names(candidates(KERNELS, frozenset({"asimd"}), "f32")) == ["neon/fma_f32"]
    assert names(candidates(KERNELS, frozenset({"sve"}), "i8")) == []
    both = candidates(KERNELS, frozenset({"sve", "svei8mm"}), "i8")
    assert names(both) == ["svei8mm/mmla_i8"]


def test_plain_c_runs_only_where_nothing_better_may() -> None:
    assert names(candidates(KERNELS, frozenset(), "fma_f32")) == ["portable/fma_f32"]


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(ArmbenchError, match="unknown ceiling 'raed'") as error:
        candidates(KERNELS, frozenset(), "raed")
    assert "'read'" in str(error.value.hint)


def test_a_short_measurement_knows_rate_kernel_and_clock(built: Build, cpu: int) -> None:
    found = measure([cpu], features=[], which=["read", "f32"], short=True, built=built)
    read = found.ceilings["read"]
    assert read.kernel == "portable/read_u64"
    assert read.unit == "bytes/s"
    assert read.value == found.read_bytes_per_s == max(read.repeats)
    assert read.spread is not None
    assert 0 <= read.spread < 1
    assert read.bytes is not None
    assert read.bytes >= 256 << 20
    assert found.ops_per_s("f32") == found.value("f32")
    assert found.ops_per_s("bf16") is None
    assert len(found.clock_hz) >= 2
    cycle = found.ops_per_cycle("f32")
    assert cycle is not None
    assert 0.1 < cycle < 64
    assert found.unknown == {}
    assert msgspec.json.decode(msgspec.json.encode(found), type=Ceilings) == found


def test_a_real_machine_is_measured_with_the_best_it_has(
    built: Build, cpu: int, this_machine: Machine
) -> None:
    features = this_machine.cpu.features
    found = measure([cpu], features=features, which=["i8"], short=True, built=built)
    best = found.ceilings["i8"]
    assert best.kernel in names(candidates(driver.kernels(built), frozenset(features), "i8"))


def test_without_a_compiler_ceilings_are_unknown_with_the_command_to_install_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ARMBENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    found = measure([0], features=[], short=True)
    assert found.read_bytes_per_s is None
    assert "no C compiler" in found.unknown["read"]
    assert "install" in found.unknown["read"]
    curve = cache_curve([0], features=[])
    assert not curve.points
    assert "no C compiler" in curve.unknown["points"]


def test_a_kind_this_cpu_cannot_run_is_unknown_and_the_rest_goes_on(
    built: Build, cpu: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features that /proc/cpuinfo lacks are refused by the driver, whatever was claimed."""
    claimed = ["amx_tile", "amx_int8", "amx_bf16", "sve", "svebf16", "svei8mm", "sve2"]
    text = Path("/proc/cpuinfo").read_text()
    if any(f in text for f in ("amx_int8", "svei8mm")):
        pytest.skip("this CPU has them")
    found = measure([cpu], features=claimed, which=["mmla_i8"], short=True, built=built)
    assert "this CPU lacks" in found.unknown["mmla_i8"]


def test_a_cpu_that_does_not_exist_is_a_reason_not_a_crash(built: Build) -> None:
    found = measure([100_000], features=[], which=["f32"], short=True, built=built)
    assert found.unknown["f32"] == "cannot run on its CPU"


def test_a_driver_that_dies_is_a_reason(built: Build, tmp_path: Path) -> None:
    folder = tmp_path / "dying"
    folder.mkdir()
    (folder / "driver").write_text("#!/bin/sh\nkill -ILL $$\n")
    (folder / "driver").chmod(0o755)
    dying = msgspec.structs.replace(built, folder=str(folder))
    with pytest.raises(DriverFailed, match="signal 4"):
        driver.kernels(dying)
    assert "signal 4" in measure([0], features=[], short=True, built=dying).unknown["read"]


def test_scaling_finds_the_least_threads_that_reach_nearly_the_best(
    built: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {1: 20e9, 2: 38e9, 4: 39.5e9, 6: 38e9}

    def fake(cpus: list[int], **_: object) -> Ceilings:
        one = Ceiling(name="read", unit="bytes/s", value=rates[len(cpus)], threads=len(cpus))
        text = f"0-{len(cpus) - 1}"
        return Ceilings(
            cpus=text, threads=len(cpus), short=True, at_ns=0, took_s=0, ceilings={"read": one}
        )

    monkeypatch.setattr("harness.ceilings.measuring.measure", fake)
    (curve,) = scaling(range(6), features=[], which=["read"], built=built)
    assert curve.threads == [1, 2, 4, 6]
    assert curve.knee == 2
    assert msgspec.json.decode(msgspec.json.encode(curve), type=Scaling) == curve


def test_scaling_beyond_the_cpus_is_refused() -> None:
    with pytest.raises(ArmbenchError, match="does not fit 2 CPUs"):
        scaling([0, 1], features=[], threads=[1, 4])


@pytest.mark.parametrize(
    ("most", "counts"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (96, [1, 2, 4, 8, 16, 32, 64, 96])]
)
def test_thread_counts_double_and_end_at_all(most: int, counts: list[int]) -> None:
    assert doubling(most) == counts


def test_a_cache_curve_falls_with_the_working_set(built: Build, cpu: int) -> None:
    curve = cache_curve([cpu], features=[], sizes=[16384, 128 << 20], seconds=0.02, built=built)
    small, large = curve.points
    assert small.latency_s is not None
    assert large.latency_s is not None
    assert small.latency_s < large.latency_s / 3
    assert msgspec.json.decode(msgspec.json.encode(curve), type=CacheCurve) == curve


def test_memory_that_a_container_may_not_bind_lies_where_it_is_touched(
    built: Build, cpu: int
) -> None:
    found = measure([cpu], features=[], which=["read"], short=True, node=7, built=built)
    assert found.read_bytes_per_s
    assert found.node is None
    assert "memory lies where each thread touched it first" in found.notes[0]


def test_working_sets_stay_within_the_memory_there_is(built: Build, cpu: int) -> None:
    found = measure(
        [cpu], features=[], which=["read"], short=True, most_bytes=16 << 20, built=built
    )
    assert found.ceilings["read"].bytes <= 16 << 20
    assert any("working sets are 16 MiB a thread" in note for note in found.notes)
    curve = cache_curve([cpu], features=[], seconds=0.001, most_bytes=1 << 20, built=built)
    assert max(point.bytes for point in curve.points) <= 1 << 20


def test_a_working_set_is_several_times_what_caches_hold_together_and_alone() -> None:
    mib = 1 << 20
    assert thread_bytes(96, 36 * mib, 2 * mib, 256 * mib) == 16 * mib
    assert thread_bytes(2, 32 * mib, mib, 256 * mib) == 128 * mib
    assert thread_bytes(64, None, None, 256 * mib) == 32 * mib


def test_the_private_cache_is_the_largest_of_a_core(this_machine: Machine) -> None:
    def cache(level: int, kib: int, shared_by: int) -> Cache:
        return Cache(
            level=level, type="unified", size_bytes=kib << 10, instances=1, shared_by=shared_by
        )

    caches = [cache(1, 64, 1), cache(2, 2048, 1), cache(3, 36864, 96)]
    machine = replace(this_machine, caches=caches)
    machine.topology = replace(machine.topology, threads_per_core=1)
    assert survey.private_cache_bytes(machine) == 2 << 20
    assert survey.private_cache_bytes(replace(machine, caches=[])) is None


def test_sizes_of_a_curve_rise_by_halves() -> None:
    assert cache_sizes(20000) == [4096, 6144, 8192, 12288, 16384]


def test_a_disturbed_ceiling_says_so(built: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(*_: object, **__: object) -> list[Repetition]:
        return [
            Repetition(kernel="portable/fma_f32", unit="ops/s", value=1e9, threads=1, cpu_share=0.5)
        ]

    monkeypatch.setattr("harness.ceilings.driver.run", fake)
    found = measure([0], features=[], which=["f32"], short=True, built=built)
    assert any("other work took 50% of a CPU" in note for note in found.notes)


def test_a_product_faster_than_reading_has_reading_measured_again(
    built: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = iter([40e9, 60e9, 62e9])
    monkeypatch.setattr("harness.ceilings.measuring._clock", lambda *_: [])

    def fake(_: object, name: str, __: object) -> Ceiling:
        return Ceiling(name=name, unit="bytes/s", value=next(rates))

    monkeypatch.setattr("harness.ceilings.measuring._ceiling", fake)
    found = measure([0], features=[], which=["read", "gemv_i4"], built=built)
    assert found.read_bytes_per_s == 62e9
    assert "40.0 GB/s, then 62.0 GB/s" in found.notes[0]


# ---- building ----


def few(folder: Path) -> Path:
    """The driver with two kernels: enough to build, and quickly."""
    for path in [*kernel_dir().glob("*.[ch]"), kernel_dir() / "portable/clock_u64.c"]:
        to = folder / path.relative_to(kernel_dir())
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(path.read_bytes())
    return folder


def test_a_second_build_compiles_nothing(
    built: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = few(tmp_path / "kernels")
    first = build_kernels(folder=sources, cache=tmp_path)
    monkeypatch.setattr("harness.ceilings.build._compile", None)  # would raise
    assert build_kernels(folder=sources, cache=tmp_path) == first


def test_a_changed_source_or_flag_is_built_anew(built: Build, tmp_path: Path) -> None:
    sources = few(tmp_path / "kernels")
    first = build_kernels(folder=sources, cache=tmp_path)
    (sources / "memory.h").write_text((sources / "memory.h").read_text() + "\n")
    second = build_kernels(folder=sources, cache=tmp_path)
    third = build_kernels(folder=sources, cache=tmp_path, flags=["-g"])
    assert len({first.key, second.key, third.key}) == 3


def test_builders_at_one_time_leave_one_whole_build(built: Build, tmp_path: Path) -> None:
    sources, made = few(tmp_path / "kernels"), []

    def one() -> None:
        made.append(build_kernels(folder=sources, cache=tmp_path / "cache"))

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 3
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [made[0].key]


def test_a_kernel_the_compiler_does_not_know_is_left_out_with_its_words(
    built: Build, tmp_path: Path
) -> None:
    sources = few(tmp_path / "kernels")
    strange = sources / "strange" / "fma_f32.c"
    strange.parent.mkdir()
    strange.write_text("// flags: -mno-such-isa\nint unused;\n")
    made = build_kernels(folder=sources, cache=tmp_path)
    assert list(made.skipped) == ["strange/fma_f32"]
    assert "no-such-isa" in made.skipped["strange/fma_f32"]
    assert driver.kernels(made)


def test_a_driver_that_cannot_be_built_names_what_to_install(built: Build, tmp_path: Path) -> None:
    sources = few(tmp_path / "kernels")
    (sources / "driver.c").write_text("#include <no_such_header.h>\n")
    with pytest.raises(ArmbenchError, match="no_such_header") as error:
        build_kernels(folder=sources, cache=tmp_path)
    assert "install" in str(error.value.hint)


def test_an_asked_for_compiler_that_is_missing_is_named() -> None:
    with pytest.raises(NoCompiler, match="no-such-cc"):
        find_compiler({"CC": "no-such-cc", "PATH": "/usr/bin"})


@pytest.mark.parametrize(
    ("release", "command"),
    [
        ("ID=ubuntu\nID_LIKE=debian\n", "sudo apt-get install gcc libc6-dev"),
        ('ID="alinux"\nID_LIKE="rhel fedora centos anolis"\n', "sudo dnf install gcc"),
        ("ID=alpine\n", "sudo apk add gcc musl-dev"),
    ],
)
def test_the_install_command_is_the_systems_own(release: str, command: str, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(release)
    assert install_command(tmp_path) == command


def test_a_source_states_its_machine_and_flags() -> None:
    found = read_source(kernel_dir() / "svebf16" / "mmla_bf16.c")
    assert found.arch == "aarch64"
    assert found.flags == ("-march=armv8.2-a+sve+bf16",)
    assert not [s for s in sources_for("x86_64") if s.arch == "aarch64"]


# ---- the command ----


def test_the_command_measures_stores_and_draws(built: Build, tmp_path: Path, cpu: int) -> None:
    """The kernels are in the session's cache only if a test put them there: a build may happen."""
    arguments = ("ceilings", "--cpus", str(cpu), "--short", "--results", str(tmp_path))
    done = armbench(*arguments)
    assert done.returncode == Exit.FINE, done.stderr
    assert "GB/s" in done.stdout
    assert "read, f32" in done.stderr
    assert "read, f32" not in done.stdout
    (path,) = tmp_path.glob("*/ceilings/*.json")
    stored = survey.load(path)
    assert stored.ceilings[-1].cpus == str(cpu)
    assert stored.ceilings[-1].read_bytes_per_s
    drawn = armbench("roofline", str(path))
    assert drawn.returncode == Exit.FINE, drawn.stderr
    assert "float32 1T" in drawn.stdout


def test_the_command_without_a_compiler_says_so_and_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu: int
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ARMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    done = armbench("ceilings", "--cpus", str(cpu), "--results", str(tmp_path / "results"))
    assert done.returncode == Exit.FINE, done.stderr
    assert "unknown, because no C compiler" in done.stdout


def test_what_is_measured_again_is_what_was_measured(built: Build, cpu: int) -> None:
    known = measure([cpu], features=[], which=["read", "f32"], short=True, built=built)
    seen = again(known, ["read", "f32", "bf16"], "after", built)
    assert set(seen.values) == {"read", "f32"}
    assert seen.unknown == {"bf16": "it was not measured before"}
    assert 0.3 < seen.values["f32"] / (known.value("f32") or 0) < 3


def test_unverified_figures_say_so_wherever_they_are_shown() -> None:
    machine = server(2)
    machine.cpu.id = "turin"
    assert documented_text(machine, "f32") == "64 (unverified)"
    machine.cpu.id = "graviton2"
    assert documented_text(machine, "f32") == "16"
    machine.cpu.id = None
    assert documented_text(machine, "f32") == "–"
