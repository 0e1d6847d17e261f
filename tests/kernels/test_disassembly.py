"""The machine code holds what each kernel declares of its innermost loop.

The operations of one instruction are the architecture's, written here anew, so that a kernel
that counts wrongly, or that the compiler changed, is seen.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness.ceilings.build import Build

from .conftest import Arm, Objects, lines

# Operations of one instruction by its widest register, a multiply-add being two.
X86_OPS = {  # per 16 bytes of register: xmm 1, ymm 2, zmm 4
    "vfmadd": 8,
    "vpdpbusd": 32,
    "vdpbf16ps": 16,
    "vpmaddubsw": 32,
}
TILE_OPS = {"tdpbssd": 2 * 16 * 16 * 64, "tdpbf16ps": 2 * 16 * 16 * 32}
ARM_OPS = {  # of 16 bytes of vector
    "fmla": 2 * 4,
    "sdot": 2 * 16,
    "smmla": 2 * 2 * 8 * 2,
    "bfdot": 2 * 8,
    "bfmmla": 2 * 2 * 4 * 2,
    "smlalb": 2 * 4,
    "smlalt": 2 * 4,
}


class Instruction(NamedTuple):
    address: int
    mnemonic: str
    operands: str


def disassemble(path: Path, objdump: str) -> list[Instruction]:
    text = subprocess.run(
        [objdump, "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True
    ).stdout
    found = re.finditer(r"^ *([0-9a-f]+):\t(?:\{vex\} )?(\S+)[ \t]*([^\n]*)$", text, re.MULTILINE)
    return [Instruction(int(m[1], 16), m[2], m[3]) for m in found]


def loops(code: list[Instruction]) -> Iterator[list[Instruction]]:
    """Innermost loops: from the target of a backward branch to it, with no other such inside."""
    spans = []
    for last in code:
        if not re.match(r"(j|b$|b\.|cb|tb)", last.mnemonic):
            continue
        target = re.search(r"([0-9a-f]+) <", last.operands)
        if target and int(target[1], 16) <= last.address:
            spans.append((int(target[1], 16), last.address))
    for low, high in spans:
        if any(low <= a and b <= high and (a, b) != (low, high) for a, b in spans):
            continue
        yield [i for i in code if low <= i.address <= high]


def matches(instruction: Instruction, patterns: str) -> bool:
    for pattern in patterns.split("|"):
        name, _, register = pattern.partition(" ")
        exact = instruction.mnemonic == name
        if instruction.mnemonic.startswith("v") or name.startswith("v"):
            exact = instruction.mnemonic.startswith(name)
        if exact and (not register or re.match(rf"{register}\d", instruction.operands)):
            return True
    return False


def count(
    loop: list[Instruction], patterns: str, *, pairs: bool = False, store: bool = False
) -> int:
    """How many of the instructions; a pair load or store (LDP, STP, STNP) counts as two."""
    total = 0
    for i in loop:
        if matches(i, patterns) and (not store or is_store(i)):
            total += 2 if pairs and i.mnemonic in ("ldp", "stp", "stnp") else 1
    return total


def is_store(i: Instruction) -> bool:
    if i.mnemonic.startswith("v"):  # AT&T order: what is written stands last
        return i.operands.rstrip().endswith(")")
    return i.mnemonic.startswith("st")


class Case(NamedTuple):
    kernel: dict[str, Any]
    code: list[Instruction]
    x86: bool

    @property
    def patterns(self) -> str:
        return str(self.kernel["loop"]).rpartition(":")[0]

    @property
    def declared(self) -> int:
        return int(str(self.kernel["loop"]).rpartition(":")[2])


def cases(objects: Objects, described: list[dict[str, Any]]) -> list[Case]:
    """Every kernel that declares a loop, as it describes itself. None is run."""
    return [
        Case(
            kernel,
            disassemble(objects.folder / f"{kernel['name'].replace('/', '-')}.o", objects.objdump),
            objects.machine == "x86_64",
        )
        for kernel in described
        if kernel["loop"]
    ]


@pytest.fixture(scope="module")
def x86_cases(native: Build, x86_objects: Objects) -> list[Case]:
    if native.machine != "x86_64":
        pytest.skip("the kernels for x86 describe themselves on x86 only")
    return cases(x86_objects, lines(native.driver, "list"))


@pytest.fixture(scope="module")
def arm_cases(arm: Arm, arm_objects: Objects) -> list[Case]:
    return cases(arm_objects, lines(*arm.command("neoverse-n1", "list")))


def verify(case: Case) -> None:
    kernel = case.kernel
    wanted = case.declared
    store = kernel["operation"] in ("copy", "triad", "write")
    found = [
        (count(loop, case.patterns, pairs=True, store=store), loop) for loop in loops(case.code)
    ]
    assert found, f"{kernel['name']}: no loop at all"
    counts = [n for n, _ in found]
    assert wanted in counts, f"{kernel['name']}: loops hold {counts} of {kernel['loop']}"
    hot = next(loop for n, loop in found if n == wanted)
    if kernel["loop_ops"] and kernel["operation"] in ("fma", "dot", "mmla", "gemm"):
        assert operations(hot, case) == kernel["loop_ops"], kernel["name"]
    if kernel["arrays"]:
        assert memory_bytes(hot, case) == kernel["loop_bytes"], kernel["name"]
    if kernel["operation"] in ("fma", "dot", "mmla"):
        assert not [i for i in hot if touches_memory(i, x86=case.x86)], kernel["name"]


def operations(loop: list[Instruction], case: Case) -> int:
    total = 0
    for i in loop:
        if not matches(i, case.patterns):
            continue
        if not case.x86:
            total += ARM_OPS[i.mnemonic]
        elif i.mnemonic in TILE_OPS:
            total += TILE_OPS[i.mnemonic]
        else:
            per = next(n for name, n in X86_OPS.items() if i.mnemonic.startswith(name))
            total += per * (4 if "%zmm" in i.operands else 2)
    return total


def memory_bytes(loop: list[Instruction], case: Case) -> int:
    total = 0
    for i in loop:
        if not touches_memory(i, x86=case.x86):
            continue
        if case.x86:
            wide = 64 if "%zmm" in i.operands else 32 if "%ymm" in i.operands else 0
        elif re.match(r"\{z\d", i.operands) or re.match(r"q\d", i.operands):
            wide = 32 if i.mnemonic in ("ldp", "stp", "stnp") else 16
        else:
            wide = 0
        total += wide
    return total


def touches_memory(i: Instruction, *, x86: bool) -> bool:
    if x86:
        return "(" in i.operands and not i.mnemonic.startswith(("lea", "nop", "prefetch"))
    return "[" in i.operands and i.mnemonic.startswith(("ld", "st"))


def test_loops_of_x86_hold_what_they_declare(x86_cases: list[Case]) -> None:
    assert len(x86_cases) > 20
    for case in x86_cases:
        verify(case)


@pytest.mark.arm_user
def test_loops_of_aarch64_hold_what_they_declare(arm_cases: list[Case]) -> None:
    assert len(arm_cases) > 20
    for case in arm_cases:
        verify(case)


@pytest.mark.arm_user
def test_matrix_kernels_really_hold_matrix_instructions(arm_cases: list[Case]) -> None:
    held = {
        case.kernel["name"]: {i.mnemonic for i in case.code} & set(ARM_OPS) for case in arm_cases
    }
    assert held["bf16/mmla_bf16"] == held["svebf16/gemm_bf16"] == {"bfmmla"}
    assert held["i8mm/mmla_i8"] == held["svei8mm/gemm_i8"] == {"smmla"}
    assert held["dotprod/dot_i8"] == {"sdot"}
    assert held["sve2/dot_i16"] == {"smlalb", "smlalt"}


@pytest.mark.arm_user
def test_the_read_kernels_have_eight_independent_chains(arm_cases: list[Case]) -> None:
    for case in arm_cases:
        if case.kernel["operation"] != "read":
            continue
        hot = max(loops(case.code), key=lambda loop: count(loop, case.patterns, pairs=True))
        sums = {i.operands.split(",")[0] for i in hot if i.mnemonic == "eor"}
        assert len(sums) >= 8, case.kernel["name"]
