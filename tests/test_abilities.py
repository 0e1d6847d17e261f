"""`armbench engines` says what is installed, what the CPU does for it, and what would help."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import abilities, engines
from harness.errors import Exit
from harness.load import recipes
from harness.machine.detect import detect
from harness.packages import install_command, missing, versions
from harness.records.machine import Machine
from harness.reports.engines import engine_sheet, engines_sheet
from tests.inside import armbench

MACHINES = Path(__file__).parent / "machines"


def test_every_engine_endpoint_and_server_has_a_row(this_machine: Machine) -> None:
    rows = abilities.rows(abilities.here(this_machine))
    assert [r.engine for r in rows] == [*engines.names(), "openai", *recipes.shipped()]
    assert len(engines_sheet(rows).rows) == len(rows)


def test_every_option_of_every_engine_is_explained() -> None:
    for name in engines.names():
        module = engines.module(name)
        assert set(getattr(module, "OPTION_HELP", {})) == set(module.OPTIONS), name


def test_what_is_not_installed_is_named_with_the_command_that_brings_it(
    this_machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines.module("torch"), "PACKAGES", ("torch", "no_such_package"))
    row = abilities.row("torch", abilities.here(this_machine))
    assert not row.installed
    assert row.missing == ["no_such_package"]
    assert "pip install" in "\n".join(engines_sheet([row]).notes)
    assert row.versions["no_such_package"] is None


def test_a_converter_without_its_packages_says_so(
    this_machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = engines.module("onnxruntime")
    monkeypatch.setattr(module, "prepare_packages", lambda _: ["no_such_package"])
    row = abilities.row("onnxruntime", abilities.here(this_machine))
    assert row.installed
    assert "cannot convert a checkpoint without no_such_package" in engines_sheet([row]).notes[0]


@pytest.mark.parametrize(
    ("features", "architecture", "words"),
    [
        (["asimd"], "aarch64", ["bfloat16: emulated", "without"]),
        (["asimd", "asimddp"], "aarch64", ["bfloat16: emulated", "by asimddp"]),
        (["asimddp", "i8mm", "bf16"], "aarch64", ["bfloat16: by bf16", "by i8mm"]),
        (["avx2"], "x86_64", ["bfloat16: emulated", "without"]),
        (["avx512_vnni", "amx_bf16", "amx_int8"], "x86_64", ["by amx_bf16", "by amx_int8"]),
        ([], None, ["not known"]),
    ],
)
def test_the_features_decide_what_is_said(
    this_machine: Machine, features: list[str], architecture: str | None, words: list[str]
) -> None:
    said = told("openvino", features, architecture)
    assert [w for w in words if w not in said] == []


def told(engine: str, features: list[str], architecture: str | None) -> str:
    """What is said of `engine` on a machine with `features`."""
    machine = detect()
    machine.cpu.features, machine.architecture = features, architecture
    return "; ".join(abilities.abilities(engine, abilities.here(machine)))


@pytest.mark.parametrize(
    ("features", "byte_products"),
    [
        (["avx512_vnni", "amx_int8"], "by amx_int8"),
        (["avx512_vnni"], "by avx512_vnni"),
        (["avx_vnni"], "without an instruction of theirs"),
        (["asimddp", "i8mm"], "without an instruction of theirs"),
    ],
)
def test_torch_is_said_to_multiply_bytes_only_where_it_does(
    features: list[str], byte_products: str
) -> None:
    assert f"8-bit products: {byte_products}" in told("torch", features, "x86_64")


def test_kleidiai_is_told_of_the_engines_that_run_it() -> None:
    saying = [n for n in engines.names() if "KleidiAI: asimddp" in told(n, ["asimddp"], "aarch64")]
    assert saying == ["onnxruntime", "onnxruntime_genai", "torch"]
    assert "needs asimddp, which is not there" in told("onnxruntime", ["asimd"], "aarch64")
    assert "KleidiAI: Arm only" in told("torch", ["avx2"], "x86_64")


def test_a_compiler_is_the_one_that_is_asked_for(this_machine: Machine) -> None:
    assert abilities.here(this_machine, {"CXX": "/no/such/compiler"}).compiler is None


def test_one_engine_is_shown_with_its_options_and_their_meaning() -> None:
    done = armbench("engines", "openvino")
    assert done.returncode == Exit.FINE
    assert "openvino.dynamic" in done.stdout
    assert "share a scale" in done.stdout
    (row,) = json.loads(armbench("engines", "openvino", "--json").stdout)
    assert row["options"]["dynamic"] == 32
    assert armbench("engines", "vllm", "--json").returncode == Exit.FINE


def test_an_engine_that_does_not_exist_is_the_users_error() -> None:
    done = armbench("engines", "openvin")
    assert done.returncode == Exit.USER
    assert "openvino" in done.stderr


def test_options_are_written_as_they_are_given(this_machine: Machine) -> None:
    row = abilities.row("onnxruntime", abilities.here(this_machine))
    cells = {r[0]: r[1] for r in engine_sheet(row).rows}
    assert cells["onnxruntime.spinning"] == "true"


def test_packages_are_looked_up_without_importing_them() -> None:
    assert missing(["json", "no_such", "no_such.part"]) == ["no_such", "no_such.part"]
    assert versions(["msgspec", "no_such_package"])["no_such_package"] is None
    assert install_command("no_such_engine", ["llama_cpp"]) == "pip install llama-cpp-python"
