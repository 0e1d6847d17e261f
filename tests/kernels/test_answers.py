"""Every kernel of this machine gives the portable answer, and the check would notice if not."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from harness.ceilings.build import Build, build_kernels, read_source, sources_for
from harness.places import kernel_dir

from .conftest import SANITIZERS, lines, portable_copy, spoil


def test_every_kernel_that_may_run_here_is_right(native: Build) -> None:
    answers = lines(native.driver, "check")
    assert len(answers) > 20
    wrong = [a for a in answers if not a["ok"] and "this CPU lacks" not in a["reason"]]
    assert not wrong


def test_a_kernel_whose_feature_is_missing_is_never_called(native: Build) -> None:
    """Or this very process would have died of an illegal instruction."""
    names = [k["name"] for k in lines(native.driver, "list") if k["features"]]
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    have = set(found[1].split()) if found else set()
    needs = {k["name"]: set(k["features"].split()) for k in lines(native.driver, "list")}
    lacking = [n for n in names if needs[n] - have]
    for name in lacking:
        (line,) = lines(native.driver, "run", "--kernels", name, "--cpus", "0")
        assert line["error"].startswith("this CPU lacks")
    said = {a["kernel"]: a["ok"] for a in lines(native.driver, "check")}
    assert said == {name: not (needs[name] - have) for name in said}


NO_LEAKS = {"ASAN_OPTIONS": "detect_leaks=0"}  # what leaks is the driver, as it ends
# In each family one line of code made wrong: what a real mistake would look like.
MISTAKES = {
    "memory_read.h": ("result ^= ab_read_end(", "result |= ab_read_end("),
    "memory_copy.h": ("memcpy(w->b + done, w->a + done, w->bytes - done)", "(void)done"),
    "memory_write.h": ("ab_write_end(w->a + done, w->bytes - done)", "(void)done"),
    "memory_triad.h": ("ab_triad_end(w->a + done", "if (0) ab_triad_end(w->a + done"),
    "register.h": ("SUMS(TURN)\n", "SUMS(TURN) SUMS(TURN)\n"),
    "gemm_rows.h": ("b += 2 * VEC_BYTES", "b += VEC_BYTES"),
    "portable/gemv_i4.c": ("(nibbles[i] >> 4) - 8", "(nibbles[i] >> 4) - 7"),
    "portable/latency_u64.c": ("% (i - 1)", "% i"),
    "portable/clock_u64.c": ("step = 3", "step = 2"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_check_notices_a_mistake_in(name: str, compiler: str, tmp_path: Path) -> None:
    copy = portable_copy(tmp_path / "kernels")
    spoil(copy / name, *MISTAKES[name])
    broken = build_kernels(compiler=compiler, folder=copy, cache=tmp_path / "cache")
    assert any(a["reason"].startswith("wrong answer") for a in lines(broken.driver, "check"))


def test_a_wrong_kernel_is_not_timed(compiler: str, tmp_path: Path) -> None:
    copy = portable_copy(tmp_path / "kernels")
    spoil(copy / "portable" / "clock_u64.c", "step = 3", "step = 2")
    broken = build_kernels(compiler=compiler, folder=copy, cache=tmp_path / "cache")
    words = ("run", "--kernels", "portable/clock_u64", "--cpus", "0")
    (line,) = lines(broken.driver, *words)
    assert line["error"].startswith("wrong answer")
    assert "value" not in line


def test_no_memory_is_touched_beyond_its_end_and_nothing_is_undefined(sanitized: Build) -> None:
    """AddressSanitizer and UndefinedBehaviorSanitizer over odd sizes, tails, and zero length."""
    answers = lines(sanitized.driver, "check", env=NO_LEAKS)
    wrong = [a for a in answers if not a["ok"] and "this CPU lacks" not in a["reason"]]
    assert len(answers) > 20
    assert not wrong


SETTINGS = ["--bytes", "1000000", "--streams", "1,8", "--ahead", "0,512", "--nontemporal", "0,1"]


def test_one_thread_is_clean_with_every_kernel_and_switch(sanitized: Build) -> None:
    names = ",".join(
        k["name"] for k in lines(sanitized.driver, "list") if k["isa"] in ("portable", "avx2")
    )
    words = ["run", "--kernels", names, "--cpus", "0", "--seconds", "0.002", "--repeats", "1"]
    said = lines(sanitized.driver, *words, *SETTINGS, env=NO_LEAKS)
    assert all(line["value"] > 0 for line in said if "error" not in line)
    assert {line.get("error") for line in said} <= {None, "this CPU lacks avx2"}


def test_more_threads_than_cores_are_clean_and_counted_while_all_ran(sanitized: Build) -> None:
    names = "portable/read_u64,portable/triad_f64,portable/gemm_f32,portable/gemv_i4"
    words = ["run", "--kernels", names, "--cpus", "0,0,0,0,0", "--seconds", "0.1", "--repeats", "1"]
    said = lines(sanitized.driver, *words, *SETTINGS, env=NO_LEAKS)
    assert len(said) == 4 + 4 + 1 + 1
    for line in said:
        assert line["threads"] == len(line["per_thread"]) == 5
        assert set(line["on"]) == {0}
        assert line["cpu_share"] < 0.6  # and says that they shared a CPU
        assert sum(line["per_thread"]) == pytest.approx(line["value"], rel=1e-3)


def test_sanitizers_do_see_a_byte_too_far(compiler: str, tmp_path: Path) -> None:
    copy = portable_copy(tmp_path / "kernels")
    right = "memcpy(&word, from, bytes < 8 ? bytes : 8)"
    spoil(copy / "memory.h", right, "memcpy(&word, from, bytes + 64)")
    broken = build_kernels(
        compiler=compiler, flags=SANITIZERS, folder=copy, cache=tmp_path / "cache"
    )
    done = subprocess.run(
        [broken.driver, "check", "portable/read_u64"], capture_output=True, text=True, check=False
    )
    assert "AddressSanitizer" in done.stderr


@pytest.mark.parametrize("objects", ["x86_objects", "arm_objects"])
def test_the_sources_are_free_of_warnings(objects: str, request: pytest.FixtureRequest) -> None:
    assert not request.getfixturevalue(objects).errors


def test_a_kernel_file_is_named_after_what_it_registers(native: Build) -> None:
    names = {k["name"] for k in lines(native.driver, "list")}
    files = {
        f"{s.path.parent.name}/{s.path.stem}"
        for s in sources_for(native.machine)
        if s.path.parent != kernel_dir()
    }
    assert names == files - set(native.skipped)


def test_every_kernel_file_states_its_machine_unless_it_is_portable() -> None:
    for path in kernel_dir().glob("*/*.c"):
        source = read_source(path)
        assert (source.arch is None) == (path.parent.name == "portable"), path


def test_nothing_built_lies_among_the_sources() -> None:
    assert {p.suffix for p in kernel_dir().rglob("*") if p.is_file()} <= {".c", ".h", ".md"}
