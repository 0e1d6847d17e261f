"""Servers of tiny checkpoints, in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness import engines
from harness.engines import EngineSpec
from harness.model import synthetic
from harness.model.checkpoint import open_folder
from harness.records.load import ServeSetting
from harness.serving.options import Ready, Service
from harness.serving.process import ServerProcess
from tests.conftest import tiny_config
from tests.serving.talk import Stream

CPUS = sorted(os.sched_getaffinity(0))


class Running(NamedTuple):
    process: ServerProcess
    ready: Ready

    @property
    def url(self) -> str:
        return self.ready.url


def service_for(
    folder: Path, engine: str = "fake", options: dict[str, Any] | None = None, **more: Any
) -> Service:
    """A service for the checkpoint in `folder`; `more` are its fields and those of its setting."""
    slots, context = more.pop("slots", 4), more.pop("context", 512)
    fake = {"step_s": 0.002, "prefill_s_per_token": 0.0} if engine == "fake" else {}
    return Service(
        spec=EngineSpec(
            engine=engine,
            checkpoint=str(folder),
            dtype=more.pop("dtype", "float32"),
            cpus=CPUS[:1],
            options=engines.resolve_options(engine, {**fake, **(options or {})}),
        ),
        name="tiny",
        vocabulary=open_folder(folder).dimensions.vocabulary,
        setting=ServeSetting(
            slots=slots,
            context=context,
            chunk=more.pop("chunk", 64),
            kv_tokens=more.pop("kv_tokens", slots * context),
        ),
        driver_cpus=CPUS,
        **more,
    )


@contextmanager
def serving(service: Service) -> Iterator[Running]:
    with ServerProcess(service) as process:
        yield Running(process, process.ready(60))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 with a long context and a tokenizer."""
    folder = tmp_path_factory.mktemp("served") / "tiny"
    synthetic.build(folder, tiny_config("qwen3-0.6b", max_position_embeddings=32768))
    return folder


@pytest.fixture(scope="session")
def server(tiny: Path) -> Iterator[Running]:
    """A fake engine's server for tests that leave it as it was."""
    with serving(service_for(tiny)) as running:
        yield running


@pytest.fixture
def opened() -> Iterator[Callable[..., Stream]]:
    """Opens streams, and closes them at the end."""
    with ExitStack() as stack:
        yield lambda *given, **more: stack.enter_context(closing(Stream(*given, **more)))
