"""What the libraries behind the engines print of the kernels they ran, read into records.

Formats: oneDNN's verbose mode (its developer guide, section Verbose Mode; the line `template:`
names the fields), oneMKL's MKL_VERBOSE, and ONNX Runtime's profile (Chrome trace events).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable

from harness.records.run import KernelSeen

_ONEDNN = "onednn_verbose,"
_MKL = re.compile(r"MKL_VERBOSE ([A-Z]\w*)\(.*\) ([\d.]+)(ns|us|ms|s) ")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
# oneDNN's own portable code: `ref:any`, `gemm:ref`, `ref_int8:any`, `simple:any`.
_SLOW = re.compile(r"(^|:)(ref|simple)(\W|_|$)")
_TYPE = re.compile(r"(src|wei|dst|src0|src1):(\w+)")
# Seconds below which a stand-in is no news: this share of the traced time.
LEAST_SHARE = 0.01


class Sums:
    """Calls and seconds by kernel and types."""

    def __init__(self) -> None:
        self.calls: dict[tuple[str, str], int] = defaultdict(int)
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)

    def add(self, name: str, types: str, seconds: float) -> None:
        self.calls[name, types] += 1
        self.seconds[name, types] += seconds

    def kernels(self) -> list[KernelSeen]:
        """The longest first."""
        order = sorted(self.calls, key=lambda key: -self.seconds[key])
        return [
            KernelSeen(
                name=key[0],
                calls=self.calls[key],
                seconds=self.seconds[key],
                types=key[1] or None,
            )
            for key in order
        ]


def is_reference(name: str) -> bool:
    """Whether a oneDNN implementation is portable code that stands in for a fast kernel."""
    return bool(_SLOW.search(name.partition(" ")[2] or name))


def read_onednn(lines: Iterable[str]) -> tuple[list[KernelSeen], dict[str, str]]:
    """Kernels, and what the library says of itself, from the lines of its verbose mode."""
    sums, facts = Sums(), {}
    for line in lines:
        if not line.startswith(_ONEDNN):
            continue
        parts = line.strip().split(",")
        if "exec" in parts:
            _add_primitive(sums, parts[parts.index("exec") + 1 :])
        elif "info" in parts:
            text = parts[-1]
            if "oneDNN v" in text:
                facts["oneDNN"] = text.removeprefix("oneDNN ")
            key, colon, value = text.partition(":")
            if colon and "cpu" in parts and key == "isa":
                facts["oneDNN isa"] = value
    found = sums.kernels()
    total = sum(k.seconds or 0.0 for k in found)
    for kernel in found:
        slow = is_reference(kernel.name)
        kernel.reference = slow and (kernel.seconds or 0.0) >= LEAST_SHARE * total
    return found, facts


def _add_primitive(sums: Sums, fields: list[str]) -> None:
    """`fields` follow the word exec: engine, primitive, implementation, …, milliseconds."""
    try:
        primitive, implementation, took = fields[1], fields[2], float(fields[-1]) / 1e3
    except (IndexError, ValueError):
        return  # a line cut off, or another form: what is there to count is counted
    types = " ".join(f"{a}:{b}" for a, b in _TYPE.findall(" ".join(fields)) if b != "undef")
    sums.add(f"{primitive} {implementation}", types, took)


def read_mkl(lines: Iterable[str]) -> tuple[list[KernelSeen], dict[str, str]]:
    """Calls by function, and the library's version line, from MKL_VERBOSE."""
    sums, facts = Sums(), {}
    for line in lines:
        if match := _MKL.match(line):
            sums.add(f"MKL {match[1]}", "", float(match[2]) * _SECONDS[match[3]])
        elif line.startswith("MKL_VERBOSE oneMKL"):
            facts["MKL"] = line.removeprefix("MKL_VERBOSE ").strip()
    return sums.kernels(), facts


def read_profile(text: str) -> tuple[list[KernelSeen], dict[str, str]]:
    """Kernels by operator and provider from ONNX Runtime's profile. Raises ValueError."""
    sums, providers = Sums(), set()
    for event in json.loads(text):
        arguments = event.get("args", {})
        if event.get("cat") != "Node" or not str(event.get("name", "")).endswith("_kernel_time"):
            continue
        provider = str(arguments.get("provider", "?"))
        providers.add(provider)
        types = {str(k) for one in arguments.get("input_type_shape") or [] for k in one}
        sums.add(str(arguments.get("op_name", "?")), " ".join(sorted(types)), event["dur"] / 1e6)
    return sums.kernels(), {"providers": " ".join(sorted(providers))}
