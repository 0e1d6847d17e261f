"""The detector as a real aarch64 Python, under user-mode emulation of several CPUs.

Where the emulator cannot be had these tests are skipped with the reason; where
`ARMBENCH_REQUIRE_ARM` is set they fail.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from . import trees

pytestmark = pytest.mark.arm_user

REPOSITORY = Path(__file__).resolve().parents[2]
SETUP_LIMIT_S = 900  # packages from a slow mirror
RUN_LIMIT_S = 120  # a run takes 1 to 3 s; a busy machine 20
PROGRAM = """
import json, sys
from pathlib import Path
import msgspec
from harness.machine.conditions import read_conditions
from harness.machine.detect import detect
roots = sys.argv[1:] or ["/"]
machines = [msgspec.to_builtins(detect(Path(root))) for root in roots]
readings = msgspec.to_builtins(read_conditions())["readings"]
print(json.dumps({"machines": machines, "readings": readings}))
"""


class Model(NamedTuple):
    """An emulated CPU: its MIDR, core, SVE bits, and features it must and must not have."""

    midr: int
    core: str
    sve_bits: int | None
    has: set[str]
    lacks: set[str]


MODELS = {
    "neoverse-n1": Model(
        0x41 << 24 | 0xD0C << 4, "Neoverse N1", None, {"asimddp"}, {"sve", "i8mm"}
    ),
    "neoverse-v1": Model(
        0x41 << 24 | 0xD40 << 4, "Neoverse V1", 256, {"sve", "i8mm", "bf16", "svebf16"}, {"sve2"}
    ),
    "neoverse-n2": Model(
        0x41 << 24 | 0xD49 << 4, "Neoverse N2", 128, {"sve", "sve2", "i8mm", "bf16"}, {"sme"}
    ),
    "a64fx": Model(0x46 << 24 | 0x001 << 4, "A64FX", 512, {"sve"}, {"asimddp", "i8mm", "bf16"}),
    "neoverse-n2,sve=off": Model(
        0x41 << 24 | 0xD49 << 4, "Neoverse N2", None, {"i8mm", "bf16"}, {"sve", "sve2"}
    ),
}


@pytest.fixture(scope="session")
def arm() -> Path:
    """The folder of the emulated Python, made on first use."""
    interpreter = Path(sys.executable).parent
    done = subprocess.run(
        [REPOSITORY / "scripts" / "arm-env"],
        capture_output=True,
        text=True,
        timeout=SETUP_LIMIT_S,
        env={**os.environ, "PATH": f"{interpreter}:{os.environ['PATH']}"},
        check=False,
    )
    if done.returncode == 0:
        return Path(done.stdout.strip())
    reason = (done.stderr.strip() or "scripts/arm-env failed").splitlines()[-1]
    if os.environ.get("ARMBENCH_REQUIRE_ARM"):
        pytest.fail(f"ARMBENCH_REQUIRE_ARM is set, but: {done.stderr[-2000:] or reason}")
    pytest.skip(reason)


def run(arm: Path, model: str, *roots: Path, beside: Path | None = None) -> dict[str, Any]:
    """What the detector says as an aarch64 process; `beside` is the root its libraries lie in."""
    root = beside or arm / "root"
    done = subprocess.run(
        [
            *(arm / "qemu-aarch64", "-cpu", model, "-L", root),
            *("-E", f"PYTHONPATH={REPOSITORY}:{arm / 'site'}", "-E", "PYTHONDONTWRITEBYTECODE=1"),
            *(arm / "root/usr/bin/python3.11", "-c", PROGRAM, *roots),
        ],
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("model", MODELS)
def test_a_live_arm_process_knows_its_core_features_and_vectors(arm: Path, model: str) -> None:
    want, said = MODELS[model], run(arm, model)
    (machine,), readings = said["machines"], said["readings"]
    cpu = machine["cpu"]
    assert machine["architecture"] == "aarch64"
    assert int(cpu["midr"], 16) & 0xFF00FFF0 == want.midr
    assert cpu["core"] == want.core
    assert set(cpu["features"]) >= want.has
    assert not set(cpu["features"]) & want.lacks
    assert cpu["sve_bits"] == want.sve_bits
    if want.sve_bits:
        assert cpu["sve_source"] == "prctl(PR_SVE_GET_VL)"
    assert machine["topology"]["vcpu"] == "core"
    assert readings["load_1m"]["value"] is not None


def test_a_shared_core_without_dmi_stays_unnamed_on_arm(arm: Path) -> None:
    (machine,) = run(arm, "neoverse-n2")["machines"]
    if machine["cpu"]["product"] is None:  # unless this very machine has DMI ids that decide
        assert "Yitian 710" in machine["unknown"]["cpu.product"]
        assert "Cobalt 100" in machine["unknown"]["cpu.product"]


def test_a_live_arm_process_on_a_server_of_alibaba_is_named_yitian(
    arm: Path, tmp_path: Path
) -> None:
    """The emulator looks for every file below its root first: there lies a captured /sys."""
    server = trees.load("yitian-710-2cpu")
    trees.write_tree(tmp_path / "captured", server)
    for name in ("usr", "lib", "bin", "sbin", "etc"):
        (tmp_path / name).symlink_to(arm / "root" / name)
    (tmp_path / "sys").symlink_to(tmp_path / "captured" / "sys")
    (machine,) = run(arm, "neoverse-n2", beside=tmp_path)["machines"]
    assert machine["cpu"]["product"] == "Alibaba Yitian 710"
    assert machine["cloud"]["provider"] == "alibaba"
    assert machine["topology"]["online"] == "0-1"
    assert machine["cpu"]["sve_source"] == "prctl(PR_SVE_GET_VL)"


def test_captured_servers_read_the_same_on_arm_as_here(arm: Path, tmp_path: Path) -> None:
    names = ["yitian-710-16cpu", "big-little-8cpu", "altra-hetzner-16cpu", "sapphire-rapids-16cpu"]
    roots = [trees.write_tree(tmp_path / name, trees.load(name)) for name in names]
    for name, machine in zip(names, run(arm, "neoverse-n1", *roots)["machines"], strict=True):
        assert machine == json.loads((trees.MACHINES / name / "machine.json").read_text())
