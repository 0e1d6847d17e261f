"""The Arm kernels, run by an emulator of CPUs that have and lack each feature.

Emulation shows whether an answer is right, never how fast it came: no time is looked at.
"""

from __future__ import annotations

import pytest

from .conftest import Arm, lines

pytestmark = pytest.mark.arm_user

BASE = {"asimd"}
V1 = {*BASE, "asimddp", "i8mm", "bf16", "sve", "svei8mm", "svebf16"}
# model: what it has of the features that kernels need, and its SVE bytes
MODELS: dict[str, tuple[set[str], int]] = {
    "cortex-a72": (BASE, 0),
    "neoverse-n1": ({*BASE, "asimddp"}, 0),
    "a64fx": ({*BASE, "sve"}, 64),
    "neoverse-v1": (V1, 32),
    "neoverse-v1,sve256=off": (V1, 16),
    "neoverse-n2": ({*V1, "sve2"}, 16),
    "neoverse-n2,sve=off": ({*BASE, "asimddp", "i8mm", "bf16"}, 0),
    "max,sve-default-vector-length=16": ({*V1, "sve2"}, 16),
    "max,sve-default-vector-length=32": ({*V1, "sve2"}, 32),
    "max,sve-default-vector-length=64": ({*V1, "sve2"}, 64),
    "max,sve-default-vector-length=256": ({*V1, "sve2"}, 256),
}


@pytest.fixture(scope="module")
def needs(arm: Arm) -> dict[str, set[str]]:
    said = lines(*arm.command("neoverse-n1", "list"))
    return {k["name"]: set(k["features"].split()) for k in said}


def test_there_is_a_kernel_for_every_extension(needs: dict[str, set[str]]) -> None:
    assert set().union(*needs.values()) == {*V1, "sve2"}


@pytest.mark.parametrize("model", MODELS)
def test_kernels_are_right_where_the_cpu_has_them_and_refused_elsewhere(
    arm: Arm, needs: dict[str, set[str]], model: str
) -> None:
    """A kernel called without its feature would end the emulator with an illegal instruction."""
    have, _ = MODELS[model]
    for answer in lines(*arm.command(model, "check")):
        lacking = needs[answer["kernel"]] - have
        assert answer["ok"] == (not lacking), answer
        if lacking:
            assert answer["reason"].removeprefix("this CPU lacks ") in lacking


@pytest.mark.parametrize("model", ["a64fx", "neoverse-v1", "neoverse-n2"])
def test_scalable_kernels_count_by_the_vector_length_that_ran(arm: Arm, model: str) -> None:
    words = ("run", "--kernels", "sve/fma_f32", "--cpus", "0", "--seconds", "0.01")
    said = lines(*arm.command(model, *words, "--repeats", "1"))
    assert [line["vector_bytes"] for line in said] == [MODELS[model][1]]


def test_many_threads_run_on_arm_with_every_switch(arm: Arm) -> None:
    words = ["run", "--kernels", "neon/read_u64,sve/copy_u64,sve/write_u64,neon/triad_f64"]
    words += ["--cpus", "0,0,0", "--bytes", "200000", "--seconds", "0.02", "--repeats", "1"]
    words += ["--streams", "1,2,4,8", "--ahead", "0,512", "--nontemporal", "0,1"]
    said = lines(*arm.command("neoverse-n2", *words))
    assert len(said) == 4 * 2 + 3 * 4 * 2
    assert all("error" not in line or "same time" in line["error"] for line in said)
