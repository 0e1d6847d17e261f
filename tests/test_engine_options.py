"""Options that reach the machine: huge pages, fast math, and which kernel `auto` means."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import engines
from harness.engines import _huge_pages, _torch_kernels
from harness.engines import torch as torch_engine
from harness.errors import ArmbenchError
from harness.machine.memory import THP, chosen
from harness.machine.tree import Tree

WANTED = {"huge_pages": True}


def with_thp(folder: Path, line: str) -> Tree:
    file = folder / THP / "enabled"
    file.parent.mkdir(parents=True)
    file.write_text(line)
    return Tree(folder)


def test_huge_pages_are_asked_of_malloc_beside_what_was_asked_already() -> None:
    ask = _huge_pages.environment
    assert ask({"huge_pages": False}, {}) == {}
    assert ask(WANTED, {}) == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    present = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=2"}
    assert ask(WANTED, present) == {
        "GLIBC_TUNABLES": "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"
    }


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "onnxruntime_genai"])
def test_an_engine_with_huge_pages_has_them_in_its_environment(name: str) -> None:
    options = dict(engines.module(name).OPTIONS)
    assert "GLIBC_TUNABLES" not in engines.module(name).environment([0], options)
    assert "GLIBC_TUNABLES" in engines.module(name).environment([0], options | WANTED)


@pytest.mark.skipif(
    chosen(Tree(), f"{THP}/enabled") != "madvise",
    reason="the kernel does not wait for madvise to give huge pages",
)
def test_a_process_with_huge_pages_gets_them_and_one_without_does_not() -> None:
    code = (
        "block = b'1' * (64 << 20)\n"
        "print(open('/proc/self/smaps_rollup').read())"
    )  # fmt: skip
    found = {}
    for wish in (False, True):
        variables = _huge_pages.environment({"huge_pages": wish}, {})
        told = subprocess.run(
            [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True
        ).stdout
        match = re.search(r"^AnonHugePages:\s+(\d+) kB", told, re.MULTILINE)
        assert match
        found[wish] = int(match[1]) << 10
    assert found[False] == 0
    assert found[True] >= 32 << 20


def test_huge_pages_that_the_kernel_never_gives_are_refused_with_what_would_help(
    tmp_path: Path,
) -> None:
    _huge_pages.check("torch", WANTED, with_thp(tmp_path / "a", "always [madvise] never\n"))
    never = with_thp(tmp_path / "b", "always madvise [never]\n")
    _huge_pages.check("torch", {"huge_pages": False}, never)
    with pytest.raises(ArmbenchError, match="says never") as caught:
        _huge_pages.check("torch", WANTED, never)
    assert "echo madvise" in (caught.value.hint or "")
    with pytest.raises(ArmbenchError, match="says nothing"):
        _huge_pages.check("torch", WANTED, Tree(tmp_path / "c"))


def test_huge_pages_need_a_glibc_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = with_thp(tmp_path, "[always] madvise never\n")
    for name, version in (("glibc", "2.34"), ("", "")):
        monkeypatch.setattr(platform, "libc_ver", lambda found=(name, version): found)
        with pytest.raises(ArmbenchError, match=r"glibc 2\.35"):
            _huge_pages.check("torch", WANTED, tree)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.39"))
    _huge_pages.check("torch", WANTED, tree)


@pytest.mark.parametrize("feature", [None, "avx512_bf16", "bf16"])
def test_fast_math_of_torch_needs_a_cpu_that_multiplies_bfloat16(
    feature: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    have = ["avx2"] if feature is None else ["avx2", feature]
    monkeypatch.setattr(torch_engine, "features_of", lambda _: have)
    wish = {"fast_math": True}
    if feature is None:
        with pytest.raises(ArmbenchError, match="bfloat16"):
            engines.resolve_options("torch", wish)
        return
    options = engines.resolve_options("torch", wish)
    assert torch_engine.environment([0], options)["DNNL_DEFAULT_FPMATH_MODE"] == "BF16"
    stored = engines.stored("torch", "float32", options)
    assert stored is not None
    assert (stored.body, stored.compute) == ("float32", "bf16")


@pytest.mark.parametrize(
    ("architecture", "kernel", "compute"),
    [
        ("x86_64", "auto", "bf16"),
        ("aarch64", "auto", "i8"),
        ("x86_64", "dyn_quant_4bit", "i8"),
        ("aarch64", "int4pack", "bf16"),
    ],
)
def test_the_bound_of_torch_int4_is_that_of_the_kernel_which_auto_means(
    architecture: str, kernel: str, compute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    options = engines.resolve_options("torch", {"kernel": kernel})
    stored = engines.stored("torch", "int4", options)
    assert stored is not None
    assert stored.compute == compute


@pytest.mark.parametrize(
    ("feature", "kernel", "compute"),
    [
        ("avx512_vnni", "int_mm", "i8"),
        ("avx2", "int8pack", "bf16"),
        ("asimddp", "int8pack", "bf16"),
        ("i8mm", "int8pack", "bf16"),
    ],
)
def test_int8_of_torch_multiplies_bytes_only_where_aten_has_more_than_a_loop(
    feature: str, kernel: str, compute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_torch_kernels, "features", lambda: [feature])
    assert _torch_kernels.resolved("int8", "auto") == kernel
    for body in ("int4pack", "dyn_quant_4bit"):
        assert _torch_kernels.of_head(body) == kernel
    assert _torch_kernels.of_head("int_mm") == "int_mm"
    stored = engines.stored("torch", "int8", dict(torch_engine.OPTIONS))
    assert stored is not None
    assert (stored.body, stored.compute) == ("int8", compute)


@pytest.mark.parametrize(("features", "words"), [([], "needs asimddp"), (["asimddp"], None)])
def test_kleidiai_s_int4_is_refused_on_an_arm_cpu_that_its_kernels_do_not_know(
    features: list[str], words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.engines import _torch_quantised

    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(_torch_quantised, "features", lambda: features)
    monkeypatch.setattr(_torch_quantised, "has_kleidiai", lambda: True)
    if words is None:
        assert _torch_quantised.chosen("int4", "auto") == "dyn_quant_4bit"
        return
    with pytest.raises(ArmbenchError, match=words):
        _torch_quantised.chosen("int4", "auto")


def test_a_dtype_that_onednn_cannot_pack_on_this_cpu_is_left_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    from harness.engines import _torch_decoder

    class NoBfloat16(_torch_decoder.Linear):
        def __init__(self, weight: torch.Tensor, bias: object, *, packed: bool) -> None:
            if weight.dtype == torch.bfloat16:
                raise RuntimeError("bf16 path needs the cpu support avx512bw")
            super().__init__(weight, None, packed=False)

    monkeypatch.setattr(_torch_decoder, "Linear", NoBfloat16)
    assert not _torch_decoder.can_pack(torch.bfloat16)
    assert _torch_decoder.can_pack(torch.float32)


def test_a_weight_is_quantised_alike_whole_and_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from harness.engines import _torch_quantised

    weight = torch.randn(100, 64, generator=torch.Generator().manual_seed(1))
    whole = _torch_quantised.Int8Linear(weight, None)
    monkeypatch.setattr(_torch_quantised, "_AT_ONCE", 7)
    blocks = _torch_quantised.Int8Linear(weight, None)
    assert torch.equal(whole.weight, blocks.weight)
    assert torch.equal(whole.scales, blocks.scales)
