"""Shared fixtures: tiny checkpoints of the true architectures, and a cache of the test's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from harness.ceilings.build import Build, NoCompiler, build_kernels
from harness.machine.detect import detect
from harness.model import checkpoint, synthetic
from harness.records.machine import Machine

# Property tests run beside other work on shared machines: how long an example takes says nothing.
settings.register_profile("armbench", deadline=None)
settings.load_profile("armbench")

# A pytest that a test starts is no worker of this one: pytest-benchmark would time nothing there.
os.environ.pop("PYTEST_XDIST_WORKER", None)

# With several workers each file has one, and these share one, since they build the same things.
TOGETHER = {
    "tests/kernels/": "kernels",
    "tests/perf/test_kernels.py": "kernels",
    "tests/test_ceilings.py": "kernels",
}
# Groups that take longest, which must not begin last.
LONG = ("tests/test_engines.py", "kernels", "tests/test_load_command.py", "tests/test_run.py")


def group(path: str) -> str:
    """Which tests run in one worker, in order."""
    return next((name for start, name in TOGETHER.items() if path.startswith(start)), path)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups for `--dist loadgroup`, long ones first."""
    order = {name: place for place, name in enumerate(LONG)}
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item.nodeid.partition("::")[0])))
    items.sort(key=lambda item: order.get(group(item.nodeid.partition("::")[0]), len(LONG)))


TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 4096,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def tiny_config(shape: str, **changes: Any) -> dict[str, Any]:
    """The config of a built-in shape, shrunk; its family's features stay."""
    config = checkpoint.builtin_config(shape) | TINY
    if "head_dim" in config:
        config["head_dim"] = 32
    return config | changes


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3: q/k norms, tied head, a head size that is not hidden ÷ heads."""
    folder = tmp_path_factory.mktemp("models") / "qwen3"
    synthetic.build(folder, tiny_config("qwen3-0.6b"))
    return folder


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2.5: biases, an untied head, three shards."""
    folder = tmp_path_factory.mktemp("models") / "qwen2"
    config = tiny_config("qwen2.5-7b", tie_word_embeddings=False)
    synthetic.build(folder, config, max_shard_bytes=600_000)
    return folder


@pytest.fixture(scope="session")
def _session_cache(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """One for all workers of a session: its locks are made for that."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(pytestconfig, "workerinput") else base) / "cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def own_cache(_session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep tests out of the user's cache; conversions are shared within one session."""
    monkeypatch.setenv("ARMBENCH_CACHE", str(_session_cache))
    return _session_cache


@pytest.fixture(scope="session")
def own_kernels(_session_cache: Path) -> Build:
    """The kernels of this machine, built where the command looks for them too: once a session."""
    try:
        return build_kernels(cache=_session_cache / "kernels")
    except NoCompiler as error:
        pytest.skip(f"{error}: {error.hint}")


@pytest.fixture(scope="session")
def this_machine() -> Machine:
    return detect()
